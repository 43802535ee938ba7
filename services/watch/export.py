"""report.html: the page with a run's figures inside it, one file that needs neither network nor service.

The page's modules are put into functions of one script in their order, by the few forms of import and export that they
use (`_IMPORT`, `_EXPORT`; a test holds them to it): a bundler would be a build step. The file's own policy names the
hashes of its two scripts and its styles, so that nothing else in it can run, whatever a model wrote.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from rgopd.watch.faults import processes_of
from rgopd.watch.now import now_of
from rgopd.watch.rollouts import Filter, kept_steps_of, rollout_of, rollouts_of, support_of
from rgopd.watch.run import Run

PAGE = Path(str(files("rgopd.watch") / "page"))
POINTS = 1500
STEPS, TOKENS_STEPS, PER_STEP = 6, 3, 16
MAX_TOKEN_BYTES = 4 << 20

_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";$', re.M)
_EXPORT = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.M)


def page_of(run: Run, summary: str = "") -> str:
    """The whole file. `summary`: HTML that is shown first, and alone where scripts are off."""
    styles = _text("vendor/uPlot.min.css") + "\n" + _text("style.css")
    scripts = [_text("vendor/uPlot.iife.min.js"), bundle()]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(content_of(run), separators=(",", ":"), ensure_ascii=True, allow_nan=False).replace(
        "<", "\\u003c"
    )
    section = f'<div id="summary" class="card">{summary}</div>' if summary else ""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{html.escape(run.folder.name)} · rgopd report</title>",
            f"<style>{styles}</style>",
            f'</head>\n<body>\n<header id="top"></header>\n<main id="content" tabindex="-1">{section}</main>',
            f'<script id="embedded" type="application/json">{data}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def bundle() -> str:
    """All modules as one classic script."""
    parts = ['"use strict";', "(() => {"]
    for name in _in_order("main", []):
        source = _text(f"js/{name}.js")
        exports = ", ".join(_EXPORT.findall(source))
        source = _IMPORT.sub(lambda match: f"const {{ {match.group(1)} }} = m_{match.group(2)};", source)
        source = re.sub(r"^export ", "", source, flags=re.M)
        parts.append(f"const m_{name} = (() => {{\n{source}\nreturn {{ {exports} }};\n}})();")
    return "\n".join([*parts, "})();"]).replace("</script", "<\\/script")


def _in_order(name: str, done: list[str]) -> list[str]:
    for _, other in _IMPORT.findall(_text(f"js/{name}.js")):
        if other not in done:
            _in_order(other, done)
    if name not in done:
        done.append(name)
    return done


def content_of(run: Run) -> dict[str, Any]:
    """What the page asks its service for, answered beforehand (`api.js` reads it)."""
    run.refresh()
    names = run.names()
    columns = [*names["step"], *(f"clock/{name}" for name in names["clock"])]
    now = {**now_of(run), "redis": {"trouble": "not part of a report"}, "links": [], "folder": run.folder.name}
    kept = dict(_rollouts(run))
    queues = {
        "redis": {"trouble": "not part of a report"},
        "processes": [{**process, "url": ""} for process in processes_of(run.folder)],
        "events": list(run.events)[-200:],
        "cuts": [],
    }
    of = {
        "now": now,
        "names": names,
        "series": run.series(columns, 0, 1 << 60, POINTS),
        "evaluations": run.evaluations(),
        "queues": queues,
        "config": run.config(),
        **kept,
    }
    return {
        "runs": {"runs": [{"name": run.name, "folder": run.folder.name}], "first": [run.name], "places": []},
        "of": {run.name: of},
    }


def _rollouts(run: Run) -> Iterator[tuple[str, Any]]:
    """Rollouts of a few steps spread over the run, first and last among them; tokens of some, up to a size."""
    steps = _spread(kept_steps_of(run), STEPS)
    by_step = {step: rollouts_of(run, step, Filter()) for step in steps}
    yield "rollouts", {"steps": steps, "by_step": by_step}
    tokens: dict[str, Any] = {}
    support: dict[str, Any] = {}
    room = MAX_TOKEN_BYTES
    for step in _spread(steps, TOKENS_STEPS):
        rows = [row for group in by_step[step]["groups"] for row in group["rollouts"] if row["has_tokens"]]
        for row in rows[:PER_STEP]:
            figures = rollout_of(run, step, row["id"])
            likely = support_of(run, step, row["id"], 0, row["length"])
            room -= len(json.dumps(figures)) + len(json.dumps(likely))
            if room < 0:
                break
            tokens[row["id"]], support[row["id"]] = figures, likely
    yield "rollout", tokens
    yield "support", support


def _spread(steps: list[int], count: int) -> list[int]:
    if len(steps) <= count:
        return steps
    places = {round(i * (len(steps) - 1) / (count - 1)) for i in range(count)}
    return [steps[place] for place in sorted(places)]


def _text(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
