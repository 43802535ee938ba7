"""`rgopd queues`: what waits, who holds it, what was given up; replay or drop it; sweep what dead runs left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from redis import Redis
from rich.console import Console
from rich.table import Table

from rgopd.common.deliveries import DeadLetter
from rgopd.common.errors import InvalidInput
from rgopd.common.queues import idle_s, queues, runs
from rgopd.common.streams import Streams


def sweep(servers: Sequence[Redis], opened: Callable[[str], Streams], older_than_s: float) -> Iterator[tuple[str, int]]:
    """Delete the keys and blobs of runs that nobody has worked on for so long; yields (run, how many)."""
    for run in runs(*servers):
        streams = opened(run)
        idle = idle_s(streams)
        if idle is not None and idle > older_than_s:
            yield run, streams.purge()


def chosen_letters(streams: Streams, which: str) -> list[DeadLetter]:
    """The dead letters that `which` names: an id, a stream, or `all`.

    Raises:
        InvalidInput: it names none.
    """
    letters = streams.dead_letters(count=10_000)
    chosen = [letter for letter in letters if which in ("all", letter.id, letter.stream)]
    if not chosen:
        raise InvalidInput(
            f"no dead letter {which!r}; there are {len(letters)}: name one by its id, a stream, or write all"
        )
    return chosen


def show(streams: Streams, console: Console) -> None:
    """Tables of one run."""
    table = Table("stream", "waiting", "leased", "oldest", "deliveries", "consumers", title=f"run {streams.run_id}")
    for queue in queues(streams):
        waiting, oldest = queue.backlog - queue.leased, f"{queue.oldest_s:.1f} s" if queue.backlog else ""
        attempts = str(queue.attempts) if queue.leased else ""
        table.add_row(queue.stream, str(waiting), str(queue.leased), oldest, attempts, str(queue.consumers))
    console.print(table)
    letters = streams.dead_letters(count=20)
    if letters:
        dead = Table("id", "stream", "deliveries", "reason", title="dead letters (the oldest 20)")
        for letter in letters:
            dead.add_row(letter.id, letter.stream, str(letter.attempts), letter.reason[:300])
        console.print(dead)
