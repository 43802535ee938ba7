import os
import subprocess
import threading
import time

from rgopd.common.signs import descendants, signs_of


def test_processes_that_end_while_they_are_counted_are_no_error() -> None:
    """A sandbox's checks come and go by the hundred; `rgopd up` once stopped a whole run over one that had gone."""
    brief = subprocess.Popen(["sh", "-c", "i=0; while [ $i -lt 2000 ]; do (:) & (:) & i=$((i+1)); done; wait"])
    looks = 0
    while brief.poll() is None:
        signs_of(os.getpid())
        looks += 1
    assert looks > 10
    assert signs_of(brief.pid).resident == 0


def test_descendants_of_every_thread_are_found() -> None:
    """The kernel keeps children by the thread that started them."""
    started: list[subprocess.Popen[bytes]] = []
    asked = threading.Event()

    def start() -> None:
        started.append(subprocess.Popen(["sh", "-c", "sleep 60 & wait"]))
        asked.wait()  # a thread that has ended leaves its children to another

    thread = threading.Thread(target=start)
    thread.start()
    try:
        deadline = time.monotonic() + 120
        while not started or len(descendants(started[0].pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert set(descendants(started[0].pid)) <= set(descendants(os.getpid()))
    finally:
        asked.set()
        thread.join()
        for pid in descendants(started[0].pid):
            os.kill(pid, 9)
        started[0].wait()
