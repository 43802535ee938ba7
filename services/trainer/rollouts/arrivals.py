"""Whether what the services store arrives: a blob store that is another on another machine shows at its first results.

A folder of the same name on each machine's own disk works for everyone alone. Without a look, each result that is
announced and is not there counts as lost and is made again, for ever, by GPUs.
"""

from __future__ import annotations

from collections import Counter

from rgopd.common.blobs import Blobs
from rgopd.common.errors import ConfigError

MISSED = 3
"""Results in a row that did not arrive, or could not be read by the next stage. One may be lost by a fault."""


class Arrivals:
    """Of one run's stages, until the first result of each has arrived.

    Args:
        blobs: the run's, as this machine sees them.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self._arrived: set[str] = set()
        self._missed: Counter[str] = Counter()

    def announced(self, stage: str, service: str, blob: str, item_id: str) -> None:
        """A stage says that it stored a result.

        Raises:
            ConfigError: it did so elsewhere, as those before it.
        """
        if not self.blobs.outside or stage in self._arrived:
            return
        if self.blobs.get(blob, item_id, announced=True) is not None:
            self._arrived.add(stage)
            return
        self._miss(stage, f"what the {service} stores does not arrive in {self.blobs.where}, as the trainer sees it")

    def unread(self, stage: str, service: str, blob: str, item_id: str) -> None:
        """A stage did not find what it was to work on.

        Raises:
            ConfigError: it is there, as it was for those before it.
        """
        if self.blobs.outside and stage not in self._arrived and self.blobs.present(blob, [item_id])[0]:
            self._miss(stage, f"the {service} does not find what lies in {self.blobs.where}, as the trainer sees it")

    def _miss(self, stage: str, what: str) -> None:
        self._missed[stage] += 1
        if self._missed[stage] >= MISSED:
            raise ConfigError(
                f"{what}: give every service the same blob_url, and mount one file system there on every machine "
                "(folders of one name on their own disks will not do); `rgopd doctor --cluster` compares them"
            )
