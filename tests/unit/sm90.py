"""Compiles every Triton kernel of the project for an H100 (sm_90) and prints what it takes there; in a process of its
own, since the suite's has Triton's interpreter. Needs no GPU: Triton brings NVIDIA's assembler."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rgopd.teacher.engines import triton_rows as teacher_rows
from rgopd.trainer.losses import plan, triton_kept, triton_rows, triton_tiles

WARPS = {"teacher_rows": 8}
"""By module, as it launches; Triton's default is 4."""
IDS = ("sampled_ids", "support_ids", "named_ids", "order")
NUMBERS = ("width", "start", "named", "vocab", "k", "count")
SCALARS = ("inverse_temperature", "inverse_cap", "cap_scale", "scale", "soft_cap")
NARROW = {"spend": ("keep", "out"), "absorb": ("keep",), "dense": ("out",), "store": ("out",)}
NARROW |= {"spend_named": ("out",), "scale": ("values",)}
BLOCKS = {"absorb": plan.BLOCK, "spend": plan.BLOCK}
CONSTANTS = {"BLOCK_J": 64, "BLOCK_K": 64, "PAD": -1e4}


def kernels() -> Iterator[tuple[str, Any]]:
    """Every function that is launched: those that ask which program they are."""
    for module in (triton_kept, triton_rows, teacher_rows):
        for name, function in vars(module).items():
            if isinstance(function, triton.JITFunction) and "program_id" in inspect.getsource(function.fn):
                yield f"{named(module)}.{name}", function


def named(module: ModuleType) -> str:
    return "teacher_rows" if module is teacher_rows else module.__name__.rpartition(".")[2]


def kind(kernel: str, name: str) -> str:
    if name in IDS:
        return "*i64"
    if name.endswith("stride") or name in NUMBERS:
        return "i32"
    if name in SCALARS:
        return "fp32"
    return "*bf16" if name in NARROW.get(kernel, ()) else "*fp32"


def resources(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}


def compiled(full: str, function: Any, flags: dict[str, bool]) -> dict[str, int]:
    module, _, kernel = full.partition(".")
    block = BLOCKS.get(kernel, triton_tiles._BLOCK if module != "teacher_rows" else teacher_rows._BLOCK)
    constants = {n: ({"BLOCK": block} | CONSTANTS | flags)[n] for n in function.arg_names if n.isupper()}
    signature = {n: "constexpr" if n in constants else kind(kernel, n) for n in function.arg_names}
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    options = {"num_warps": WARPS.get(module, 4)}
    code = triton.compile(ASTSource(function, signature, places), target=GPUTarget("cuda", 90, 32), options=options)
    return resources(code.asm["cubin"])


def main() -> None:
    found: dict[str, Any] = {}
    for full, function in kernels():
        names = [n for n in function.arg_names if n.startswith("HAS_") or n == "KEEP"]
        for values in itertools.product((False, True), repeat=len(names)):
            on = "".join(f" {name}" for name, value in zip(names, values, strict=True) if value)
            found[full + on] = compiled(full, function, dict(zip(names, values, strict=True)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
