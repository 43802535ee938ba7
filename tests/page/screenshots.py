"""The pictures in docs/, made from a run: python -m tests.page.screenshots RUN STEP ROLLOUT TOKEN [OTHER_RUN ...]

Small PNGs of few colours. Look at each before it is committed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.conftest import ready_url

DOCS = Path("docs")


def shoot(page: Page, name: str) -> None:
    page.wait_for_timeout(1200)
    path = DOCS / f"watch-{name}.png"
    page.screenshot(path=str(path))
    Image.open(path).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, path.stat().st_size)


def pictures(browser: Browser, url: str, run: str, step: str, rollout: str, token: str, others: list[str]) -> None:
    page = browser.new_page(viewport={"width": 1160, "height": 700})
    page.goto(f"{url}/#rollouts?run={run}&step={step}&rollout={rollout}")
    page.locator(f'details[data-id="{rollout}"] .tok[data-i="{token}"]').hover()
    page.locator(f'details[data-id="{rollout}"]').evaluate("e => window.scrollTo(0, e.offsetTop - 150)")
    page.locator(".token-card tbody tr").first.wait_for()
    shoot(page, "rollouts")
    page.goto("about:blank")
    page.goto(f"{url}/#curves?" + "&".join(f"run={name}" for name in [run, *others]))
    page.get_by_label("Smoothing").fill("3")
    shoot(page, "curves")
    page.goto("about:blank")
    page.goto(f"{url}/#now?run={run}")
    shoot(page, "now")
    phone = browser.new_context(viewport={"width": 375, "height": 740}, color_scheme="dark", has_touch=True).new_page()
    phone.goto(f"{url}/#now?run={run}")
    shoot(phone, "phone-dark")


def main(run: str, step: str, rollout: str, token: str, *others: str) -> None:
    argv = [sys.executable, "-m", "rgopd.cli.main", "watch", run, *others]
    service = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        url = ready_url(service)
        with sync_playwright() as driver:
            path = os.environ.get("CHROMIUM") or shutil.which("chromium")
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            pictures(browser, url, Path(run).name, step, rollout, token, [Path(other).name for other in others])
            browser.close()
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
