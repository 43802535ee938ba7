"""What lies in a run's folder, for whoever watches. docs/run-folder.md lists every file and field.

In: files that a trainer writes while they are read, or wrote long ago; rows of metrics.jsonl.
Out: new whole rows, kept rollouts, the gate's reasons in words, warnings with what to do.
Not imported: torch, the services. Nothing here needs the trainer to be alive, and readers write nothing.
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
