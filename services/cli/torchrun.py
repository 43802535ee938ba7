"""Starting the trainer's ranks, and telling what their end means.

As a program, this is torchrun with exit codes that a supervisor can act on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rgopd.common.children import PAUSED, PERMANENT

SHUTDOWN = ("--shutdown-timeout", "86400")


def command(nproc: int, arguments: Sequence[str], *, max_restarts: int = 3) -> list[str]:
    """argv that runs `rgopd ARGUMENTS` in `nproc` ranks on this machine.

    max_restarts: how often all ranks are started again after one of them died.
    """
    launcher = [sys.executable, "-P", "-m", "rgopd.cli.torchrun", "--standalone", "--nproc-per-node", str(nproc)]
    # The ranks end their step and save before they go: who asked for the end knows how long that may take.
    launcher += ["--max-restarts", str(max_restarts), *SHUTDOWN]
    return [*launcher, "-m", "rgopd.cli.main", *arguments]


def known_to(usage: str, arguments: Sequence[str]) -> list[str]:
    """The arguments without the time to shut down, where this torch's torchrun takes none: it leaves 30 s then."""
    if SHUTDOWN[0] in usage or SHUTDOWN[0] not in arguments:
        return list(arguments)
    at = list(arguments).index(SHUTDOWN[0])
    return [*arguments[:at], *arguments[at + 2 :]]


def on_loopback(arguments: Sequence[str]) -> list[str]:
    """The arguments with loopback as the ranks' meeting place, where all of them are on this machine: torchrun's own
    is the machine's name, and a laptop's or a container's need not resolve (the ranks then wait for minutes)."""
    if "--standalone" not in arguments:
        return list(arguments)
    return ["--local-addr", "127.0.0.1", *arguments]


def main(arguments: Sequence[str]) -> int:
    """Run torchrun; returns the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser
    from torch.distributed.run import main as torchrun

    os.environ["PYTHONSAFEPATH"] = "1"  # of the ranks: a redis.py in the current folder is no library
    try:
        torchrun(known_to(get_args_parser().format_usage(), on_loopback(arguments)))
    except SignalException:
        return PAUSED
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        return PERMANENT if PERMANENT in codes else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
