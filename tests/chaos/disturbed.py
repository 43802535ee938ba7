"""One run to its end, with faults on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests.chaos.cast import Cast
from tests.chaos.faults import Fault, afflict


def play(
    cast: Cast,
    faults: Sequence[Fault] = (),
    *,
    first_step_s: float = 600,
    limit_s: float = 900,
    say: Callable[[str], None] = lambda _: None,
) -> list[Fault]:
    """Run it and take it down; returns the faults that struck it, in order. `limit_s`: after the last of them."""
    started, struck = time.monotonic(), []
    try:
        cast.start()
        cast.wait_for(lambda: cast.tend() or cast.steps_done(), first_step_s, "no first step")
        for fault in afflict(cast, list(faults)):
            struck.append(fault)
            say(f"{time.monotonic() - started:6.1f} s  step {cast.steps_done():2}  {fault}")
        cast.run(limit_s)
    finally:
        cast.close()
    say(f"{time.monotonic() - started:6.1f} s  done; deaths: {cast.deaths}")
    return struck
