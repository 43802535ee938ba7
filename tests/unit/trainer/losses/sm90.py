"""Compiles every kernel of the head for an H100 (sm_90) and prints what it takes there; in a process of its own, since
the suite's has Triton's interpreter. Needs no GPU: Triton brings NVIDIA's assembler."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rgopd.trainer.losses import triton_tiles

IDS = ("sampled_ids", "support_ids", "named_ids", "order")
NUMBERS = ("width", "start", "named", "vocab", "k", "count")
NARROW = {"_spend": ("keep", "out"), "_absorb": ("keep",), "_dense": ("out",), "_store": ("out",)}
NARROW |= {"_spend_named": ("out",), "_scale": ("values",)}
CONSTANTS = {"BLOCK": 1024, "BLOCK_J": 64, "BLOCK_K": 64, "PAD": -1e4}


def kind(kernel: str, name: str) -> str:
    if name in IDS:
        return "*i64"
    if name.endswith("stride") or name in NUMBERS:
        return "i32"
    if name in ("inverse_temperature", "inverse_cap", "cap_scale"):
        return "fp32"
    return "*bf16" if name in NARROW.get(kernel, ()) else "*fp32"


def resources(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}


def main() -> None:
    found: dict[str, Any] = {}
    for kernel in ("_absorb", "_spend", "_spend_named", "_scale", "_stats", "_dense", "_named", "_store"):
        function = getattr(triton_tiles, kernel)
        for flag in (False, True):
            constants = {n: CONSTANTS.get(n, flag) for n in function.arg_names if n.isupper()}
            signature = {n: "constexpr" if n in constants else kind(kernel, n) for n in function.arg_names}
            places = {(function.arg_names.index(name),): value for name, value in constants.items()}
            compiled = triton.compile(ASTSource(function, signature, places), target=GPUTarget("cuda", 90, 32))
            found[f"{kernel}{'+' * flag}"] = resources(compiled.asm["cubin"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
