"""Which runs there are below the folders that were named, and under which names the page knows them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rgopd.common import fleeting
from rgopd.common.errors import InvalidInput
from rgopd.watch.run import Run, is_run

MAX_RUNS = 1000
MARKS_OF_LIFE = ("metrics.jsonl", "run.json", "run.yaml", "config.yaml", "status.json")


class Runs:
    """Run folders, found anew at every look: a run that starts appears, one that is deleted goes."""

    def __init__(self, places: Iterable[Path]) -> None:
        self.places = [Path(place) for place in places]
        self._open: dict[Path, Run] = {}

    def folders(self) -> dict[str, Path]:
        """Name of a run -> its folder, in the order in which they were named, the newest first within a folder of runs.

        A run is called as its folder is; two of one name get their parent's in front.
        """
        found: list[Path] = []
        for place in self.places:
            if is_run(place):
                found.append(place)
            else:
                found += sorted(filter(is_run, fleeting.listed(place)), key=_changed, reverse=True)
        unique = list(dict.fromkeys(path.absolute() for path in found))[:MAX_RUNS]
        names: dict[str, Path] = {}
        for path in unique:
            twins = [other for other in unique if other.name == path.name]
            name = path.name if len(twins) == 1 else f"{path.parent.name}/{path.name}"
            while name in names:
                name += "'"
            names[name] = path
        return names

    def named(self) -> list[str]:
        """The runs that were named one by one: what the page shows first."""
        given = {place.absolute() for place in self.places if is_run(place)}
        return [name for name, path in self.folders().items() if path in given]

    def get(self, name: str) -> Run:
        """A run, opened once.

        Raises:
            InvalidInput: there is none of that name.
        """
        path = self.folders().get(name)
        if path is None:
            raise InvalidInput(f"no run {name!r} below {', '.join(map(str, self.places))}")
        run = self._open.get(path)
        if run is None or run.name != name:
            run = self._open[path] = Run(path, name)
        return run


def _changed(folder: Path) -> float:
    return max(fleeting.changed_ns(folder / name) for name in MARKS_OF_LIFE) / 1e9
