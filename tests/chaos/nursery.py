"""Starts rgopd's processes by forking one that has already imported torch: a restart costs 1 s instead of 10.

The forked children are real processes running the real command line; only their imports are shared. Speaks JSON lines:
in {"name", "argv", "env", "log"}; out {"name", "pid"} and later {"pid", "code"}.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any


def preload() -> None:
    """What every role needs."""
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401


def run_role(job: dict[str, Any]) -> None:
    """In the child: become the process."""
    from rgopd.cli import main as cli
    from rgopd.common.children import die_with_parent

    os.setsid()
    if die_with_parent is not None:
        die_with_parent()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(job["env"])
    sys.argv = ["rgopd", *job["argv"]]
    try:
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - what the interpreter would do: print and exit with 1
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def tell(message: dict[str, Any]) -> None:
    """To the harness."""
    os.write(1, json.dumps(message).encode() + b"\n")


def reap() -> None:
    """Report children that ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        tell({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def main() -> None:
    """Serve until stdin closes, then take the children down."""
    preload()
    tell({"ready": True})
    buffer = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.05)
        reap()
        if not readable:
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            job = json.loads(line)
            pid = os.fork()
            if pid == 0:
                run_role(job)
            tell({"name": job["name"], "pid": pid})
    for entry in Path("/proc/self/task").iterdir():
        for child in (entry / "children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


if __name__ == "__main__":
    main()
