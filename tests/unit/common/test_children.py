"""Children and the threads that start them."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from rgopd.cli.processes import Child
from rgopd.common.children import in_lasting_thread


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    child = Child("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    worker = threading.Thread(target=child.start)
    worker.start()
    worker.join()
    time.sleep(0.3)
    assert child.poll() is None
    child.stop()


def test_the_main_thread_starts_by_itself() -> None:
    assert in_lasting_thread(threading.current_thread) is threading.main_thread()


def test_a_library_is_not_looked_for_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "redis.py").write_text("raise RuntimeError('mine')\n")
    code = f"import os; os.chdir({str(tmp_path)!r}); os.execv({sys.executable!r}, ['python', '-m', 'redis'])"
    child = Child("importer", [sys.executable, "-c", code], tmp_path / "logs")
    child.start()
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.stop()
    assert "mine" not in child.err.read_text()
