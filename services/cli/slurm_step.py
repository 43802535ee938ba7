"""Inside a step: runs a command, hands SIGUSR1 on as SIGTERM, and ends with the command's exit code.

srun forwards SIGUSR1 to its tasks; SIGTERM it answers by killing them, and a trainer that is killed has not saved.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from types import FrameType

from rgopd.common.children import die_with_parent


def main(argv: list[str]) -> int:
    """Run it."""
    asked: list[int] = []
    signals = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    for number in signals:
        signal.signal(number, lambda got, _: asked.append(got))
    process = subprocess.Popen(argv, preexec_fn=_alone, start_new_session=True)

    def hand_on(_: int, __: FrameType | None) -> None:
        process.terminate()

    for number in signals:
        signal.signal(number, hand_on)
    if asked:  # before there was anybody to hand it to
        process.terminate()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _alone() -> None:
    """Slurm signals every process of a step, and SIGUSR1 ends what does not expect it: it is for us alone."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if die_with_parent is not None:
        die_with_parent()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
