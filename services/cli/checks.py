"""Checks that are told one a line; nothing of any service is imported, since an image holds only its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console

from rgopd.common.errors import RgopdError

Check = Callable[[], str]
"""Returns what was found; raises Failed with what to do."""


class Failed(RgopdError):
    """A check that did not pass."""


def report_checks(found: Iterator[tuple[str, Check]]) -> int:
    """Run checks, print one line each; returns 1 where any failed."""
    console = Console()
    failed = 0
    for name, check in found:
        try:
            console.print(f"[green]ok  [/green] {name}: {check()}", highlight=False, soft_wrap=True)
        except (RgopdError, OSError, ValueError) as error:
            failed += 1
            console.print(f"[red]FAIL[/red] {name}: ", end="", highlight=False)
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
    console.print("all checks passed" if not failed else f"{failed} checks failed", highlight=False)
    return 1 if failed else 0
