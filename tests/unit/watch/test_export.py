from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

from rgopd.watch.export import PAGE, bundle, page_of
from rgopd.watch.run import Run
from tests.unit.watch.conftest import MakeRun, step_row, write_rows

MODULES = sorted((PAGE / "js").glob("*.js"))


def test_modules_keep_to_the_forms_that_the_bundle_knows() -> None:
    for module in MODULES:
        text = module.read_text()
        for line in text.splitlines():
            if line.startswith("import"):
                assert re.fullmatch(r'import \{ [\w, ]+ \} from "\./\w+\.js";', line), (module.name, line)
            if line.startswith("export"):
                assert re.match(r"export (async )?(function|class|const) \w+", line), (module.name, line)
        assert "import(" not in text, module.name
    made = bundle()
    assert not re.search(r"^(import|export) ", made, re.M)
    for module in MODULES:
        assert f"const m_{module.stem} = " in made


def test_every_import_names_an_export() -> None:
    exports = {
        m.stem: set(re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", m.read_text(), re.M))
        for m in MODULES
    }
    for module in MODULES:
        for names, other in re.findall(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";', module.read_text(), re.M):
            assert set(names.split(", ")) <= exports[other], (module.name, other)


def test_the_file_is_whole_by_itself(make_run: MakeRun) -> None:
    folder = make_run("a <script>alert(1)</script> run", steps=0)
    write_rows(folder / "metrics.jsonl", [step_row(i, loss=float("nan") if i == 3 else 0.5) for i in range(3000)])
    text = page_of(Run(folder, folder.name), "<p>Summary</p>")
    assert "alert(1)</script>" not in text
    assert not re.search(r'(?:src|href)="(?!data:)[^"#]', text), "nothing is loaded"
    [data] = re.findall(r'<script id="embedded" type="application/json">(.*?)</script>', text, re.S)
    run = json.loads(data)["of"][folder.name]
    assert len(run["series"]["step"]["x"]) == 1500
    assert str(folder) not in text, "paths of the machine stay on it"
    assert len(text) < 1_000_000


def test_its_policy_names_its_own_scripts_and_nothing_else(make_run: MakeRun) -> None:
    text = page_of(Run(make_run(), "run"))
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert "unsafe" not in policy
    for body in [*re.findall(r"<script>(.*?)</script>", text, re.S), *re.findall(r"<style>(.*?)</style>", text, re.S)]:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_vendored_files_are_what_they_say() -> None:
    said = (PAGE / "vendor" / "README.md").read_text()
    assert "1.6.32" in said
    assert (
        (PAGE / "vendor" / "uPlot.iife.min.js")
        .read_text()
        .startswith("/*! https://github.com/leeoniya/uPlot (v1.6.32) */")
    )
    assert "MIT" in Path(PAGE / "vendor" / "uPlot.LICENSE").read_text()
