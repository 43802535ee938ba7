"""What lies in a run's folder, for whoever watches: readers that follow growing files, and the formats of the new ones.

In: a folder that a trainer writes, or wrote; it need not be alive. Out: rows, kept rollouts, events, status, warnings.
Every file and field is listed in docs/run-folder.md. Not imported: torch, the trainer.
"""

from rgopd.common.run_files.events import EventLog, Events
from rgopd.common.run_files.explain import Explanation, explain
from rgopd.common.run_files.folder import RunFolder
from rgopd.common.run_files.kept import KeptGroup, KeptRollout, KeptStep, Tokens, kept_steps, read_step
from rgopd.common.run_files.lines import Lines, News
from rgopd.common.run_files.status import StatusFile, read_status
from rgopd.common.run_files.vocabulary import Vocabulary
from rgopd.common.run_files.warnings import History, Warn, warnings_of

__all__ = [
    "EventLog",
    "Events",
    "Explanation",
    "History",
    "KeptGroup",
    "KeptRollout",
    "KeptStep",
    "Lines",
    "News",
    "RunFolder",
    "StatusFile",
    "Tokens",
    "Vocabulary",
    "Warn",
    "explain",
    "kept_steps",
    "read_status",
    "read_step",
    "warnings_of",
]
