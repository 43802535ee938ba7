"""A notebook that trains, executed by a real kernel: live rows, the run as a cell shows it, plots inline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.examples.conftest import STUDENT, TEACHER

CELLS = [
    "import math, rgopd",
    """def reward(response, wanted):
    return 1.0 if math.floor(len(response)) == wanted else 0.0""",
    f"""rows = [{{"prompt": f"{{n}}+1=", "wanted": 1 + n % 2}} for n in range(8)]
run = rgopd.distill("{STUDENT}", "{TEACHER}", rows, reward=reward, steps=2, distillation=8, gate="off",
                    sampling={{"prompts_per_step": 2, "n": 2, "max_new_tokens": 8}}, output_dir="run")
for row in run.metrics():
    if row["event"] == "step":
        print("step", row["step"], row["loss"])""",
    "run",
    "run.plot()",
    "run.student.exists(), run.status",
]


def test_a_notebook_trains_and_shows_it(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs: list[list[dict[str, Any]]] = [cell.outputs for cell in notebook.cells]
    lines = "".join(output.get("text", "") for output in outputs[2])
    assert "step 0" in lines
    assert "step 1" in lines
    assert "data:image/png;base64," in outputs[3][0]["data"]["text/html"]
    assert "finished, 2 steps" in outputs[3][0]["data"]["text/html"]
    assert "image/png" in outputs[4][0]["data"], "figures are shown inline"
    assert outputs[5][0]["data"]["text/plain"] == "(True, 'finished')"
