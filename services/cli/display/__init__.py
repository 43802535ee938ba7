"""Words while a command works: what a snapshot holds, how it looks on a terminal and in a log, who redraws it.

In: a function that gives a `Snapshot` whenever it is asked; `RunSource` makes one from a run's folder.
Out: a live display on a terminal, elsewhere a line every few seconds.
Not imported: torch, the services: a display is there before they are.
"""

from rgopd.cli.display.evaluation_source import EvaluationSource
from rgopd.cli.display.progress import Progress
from rgopd.cli.display.run_source import RunSource
from rgopd.cli.display.snapshot import Snapshot, Stage

__all__ = ["EvaluationSource", "Progress", "RunSource", "Snapshot", "Stage"]
