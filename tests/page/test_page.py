"""The page over finished runs: curves, rollouts, keyboard, phone, accessibility, downloads, export."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Page, expect

from rgopd.watch.export import page_of
from rgopd.watch.run import Run
from tests.page.conftest import Open, Serve, tab
from tests.page.material import HOSTILE, LONG, write_hostile_rollouts, write_run

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
AXE_RUN = "axe.run(document).then((r) => r.violations)"
WIDE, PHONE = (1280, 900), (360, 740)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "one", 60)
    write_hostile_rollouts(folder)
    return folder


def drawn(page: Page) -> int:
    """Ink in the canvas of the loss, as the number of pixels of the first run's colour."""
    script = """() => {
      const canvas = document.querySelector('[data-chart="loss"] canvas'), ctx = canvas.getContext('2d');
      const data = ctx.getImageData(0, 0, canvas.width, canvas.height).data;
      let ink = 0;
      for (let i = 0; i < data.length; i += 4) ink += data[i + 3] > 200 && data[i + 2] > data[i] + 80;
      return ink;
    }"""
    return int(page.evaluate(script))


def test_what_a_model_wrote_stays_text(run: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(f"{serve(run)}/#rollouts")
    scripts = page.locator("script").count()
    group = page.locator("section.card")
    expect(group).to_contain_text("A/<i>dom")
    page.locator("details.rollout summary").first.click()
    strip = page.locator(".strip").first
    expect(strip).to_contain_text("<script>")
    page.get_by_text("As text").first.click()
    text = page.locator(".prompt", has_text="javascript:alert(1)").last.text_content() or ""
    for part in ("<img src=x onerror='window.hacked = 1'>", "السلام عليكم", "👩‍👩‍👧‍👦🏳️‍🌈", "&lt;b&gt;", "e\u0301"):
        assert part in text, part
    expect(page.get_by_text("Test 2 failed: <u>3</u> != 2")).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main :is(img, i, b:not(.key b), u)").count() == 0
    assert page.locator("script").count() == scripts
    assert page.locator(".prompt").first.evaluate("e => getComputedStyle(e).unicodeBidi") == "plaintext"
    assert page.locator(".prompt").first.get_attribute("dir") == "auto"


def test_twenty_thousand_tokens_and_what_both_models_had_in_mind(run: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(f"{serve(run)}/#rollouts")
    summary = page.locator("details.rollout summary").nth(1)
    expect(summary).to_contain_text("20,000 tok")
    summary.click()
    expect(page.locator(".tok[data-i]")).to_have_count(LONG)
    token = page.locator('.tok[data-i="19990"]')
    token.scroll_into_view_if_needed()
    token.hover()
    card = page.locator(".token-card")
    expect(card).to_be_visible()
    expect(card).to_contain_text("token 19,991 of 20,000".replace(",", ""))
    heads = card.locator("thead th").all_text_contents()
    assert heads[:3] == ["token", "student", "teacher"]
    rows = [row.locator("td").all_text_contents()[:3] for row in card.locator("tbody tr").all()]
    assert len(rows) == 5, "four named tokens and the tail"
    assert rows[0][1] == "60.0%"
    assert rows[-1] == ["all others (tail)", "5.0%", "5.0%"]
    teacher = sum(float(row[2].rstrip("%")) for row in rows)
    assert 99 < teacher < 101, "both sides sum to one"
    expect(card.locator("tr.sampled")).to_have_count(1)
    before = page.locator(".tok.u2, .tok.d2").count()
    page.get_by_role("button", name="Loss", exact=True).click()
    assert before > 0
    assert page.locator(".tok.u2, .tok.d2").count() == 0
    assert page.locator(".tok.l2").count() > 0


def test_rollouts_are_filtered(run: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(f"{serve(run)}/#rollouts")
    rows = page.locator("details.rollout")
    expect(rows).to_have_count(2)
    for label, choice in (("Sign of A", "A > 0"), ("Gate", "dropped"), ("Verdict", "failed")):
        page.get_by_label(label, exact=True).select_option(choice)
        expect(rows).to_have_count(1)
        page.get_by_label(label, exact=True).select_option("any")
        expect(rows).to_have_count(2)
    page.get_by_label("Text in prompt or response").fill("ZABCDE")
    expect(rows).to_have_count(1)
    expect(page.get_by_text("1 of 2 kept rollouts of step 3")).to_be_visible()
    page.get_by_label("Text in prompt or response").fill("nowhere to be found")
    expect(rows).to_have_count(0)
    assert "step=" not in page.url, "the newest is followed"
    page.get_by_label("Text in prompt or response").fill("")
    page.get_by_role("spinbutton", name="Step").fill("40")
    page.get_by_role("spinbutton", name="Step").press("Enter")
    expect(page.get_by_text("Nothing is kept of step 40; the nearest is 3.")).to_be_visible()


def test_three_runs_zoom_smoothing_log_and_files(tmp_path: Path, serve: Serve, open_page: Open) -> None:
    folders = [write_run(tmp_path / f"run-{i}", 300, seed=i) for i in range(3)]
    page = open_page(f"{serve(*folders)}/#curves")
    figure = page.locator('[data-chart="loss"]')
    expect(figure.locator(".key span")).to_have_count(3)
    expect(figure.locator(".key")).to_contain_text("run-2")
    expect(figure.get_by_role("img", name="run-1: from")).to_be_visible()
    plain = drawn(page)
    assert plain > 500
    page.get_by_label("Smoothing").fill("9")
    expect(page.get_by_text("100 steps")).to_be_visible()
    assert drawn(page) != plain
    page.get_by_label("Log axis").check()
    files = {}
    for kind in ("CSV as drawn", "PNG", "SVG"):
        figure.locator("summary").click()
        with page.expect_download() as waiting:
            figure.get_by_role("button", name=kind).click()
        files[kind] = Path(waiting.value.path()).read_bytes()
        page.keyboard.press("Escape")
    rows = list(csv.reader(io.StringIO(files["CSV as drawn"].decode())))
    assert rows[0] == ["step", "run-0", "run-1", "run-2"]
    assert len(rows) == 301
    assert files["PNG"][:4] == b"\x89PNG"
    svg = ElementTree.fromstring(files["SVG"].decode())
    assert len(svg.findall("{http://www.w3.org/2000/svg}polyline")) >= 3
    box = figure.locator(".u-over").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=4)
    page.mouse.up()
    note = page.get_by_text(re.compile(r"^steps \d+ to \d+$"))
    expect(note).to_be_visible()
    first, last = map(int, re.findall(r"\d+", note.text_content() or ""))
    assert 130 < first < 170
    assert 205 < last < 245
    page.get_by_role("button", name="All steps").click()
    expect(note).to_have_count(0)
    page.get_by_label("From step").fill("200")
    page.get_by_label("From step").press("Enter")
    expect(page.get_by_text("steps 200 to 299", exact=True)).to_be_visible()
    expect(page.locator('a[href^="api/csv"]').first).to_have_count(1)


def test_zooming_into_ten_thousand_steps_shows_each_of_them(tmp_path: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(f"{serve(write_run(tmp_path / 'big', 10_000))}/#curves")
    page.locator('[data-chart="loss"] canvas').wait_for()
    box = page.locator('[data-chart="loss"] .u-over').bounding_box()
    assert box
    with page.expect_response(re.compile(r"low=7\d\d\d&high=7\d\d\d")) as answer:
        page.mouse.move(box["x"] + box["width"] * 0.76, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.795, box["y"] + 60, steps=3)
        page.mouse.up()
    part = answer.value.json()["step"]
    assert part["exact"], "every step, where there is room for every step"
    assert part["x"] == list(range(part["x"][0], part["x"][-1] + 1))
    assert max(part["y"]["loss"]) > 2, "the spike at step 7,777 in full"


def test_by_keyboard_alone(run: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(serve(run))
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.get_by_role("tab", name="Now").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Curves")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Curves")).to_be_visible()
    chart = page.locator('[data-chart="loss"] .plot')
    expect(chart).to_have_attribute(
        "aria-label", re.compile(r"Loss, in nats a token, steps 0 to 59\. Loss: from .* to ")
    )
    chart.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#announce")).to_have_text(re.compile(r"^step 58: "))
    page.keyboard.press("+")
    expect(page.get_by_text(re.compile(r"^steps \d+ to \d+$"))).to_be_visible()
    page.keyboard.press("0")
    expect(page.get_by_text(re.compile(r"^steps \d+ to \d+$"))).to_have_count(0)
    page.get_by_role("tab", name="Curves").focus()
    page.keyboard.press("ArrowRight")
    row = page.locator("details.rollout summary").first
    row.focus()
    page.keyboard.press("Enter")
    page.locator(".strip").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token-card")).to_contain_text("token 2 of")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_no_serious_finding_of_axe(
    run: Path, serve: Serve, open_page: Open, scheme: str, size: tuple[int, int]
) -> None:
    page = open_page(serve(run), *size, scheme=scheme)
    for name in ("Now", "Curves", "Rollouts", "Queues and faults"):
        tab(page, name)
        page.wait_for_timeout(600)
        if name == "Rollouts":
            page.locator("details.rollout summary").first.click()
            page.locator('.tok[data-i="3"]').first.click()
            page.locator(".token-card table").wait_for()
        # Through the debugger: the page's own policy lets no script in.
        page.evaluate(AXE.read_text() + ";0")
        serious = [brief(v) for v in page.evaluate(AXE_RUN) if v["impact"] in ("serious", "critical")]
        assert serious == [], f"{name}, {scheme}, {size}"


def brief(violation: dict[str, Any]) -> str:
    nodes = "; ".join(f"{node['target']} {node['failureSummary']}" for node in violation["nodes"][:3])
    return f"{violation['id']}: {nodes}"


def test_on_a_phone_nothing_is_wider_than_the_screen(run: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(serve(run), *PHONE, touch=True)
    for name in ("Now", "Curves", "Rollouts", "Queues and faults"):
        tab(page, name)
        page.wait_for_timeout(400)
        if name == "Rollouts":
            page.locator("details.rollout summary").first.tap()
            page.locator('.tok[data-i="3"]').first.tap()
            expect(page.locator(".token-card")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0], name
    small = page.evaluate(
        "[...document.querySelectorAll('header :is(button, summary)')].map((e) => e.getBoundingClientRect().height)"
    )
    assert min(small) >= 24, "WCAG 2.2: 24 pixels to touch"


def test_the_theme_follows_the_system_until_told(run: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(serve(run), scheme="dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Dark / light").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_a_page_that_nobody_sees_lets_its_connection_go(run: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(serve(run))
    state = page.locator("header [role=status]")
    expect(state).to_have_text("live")
    for hidden, word in (("true", "asleep"), ("false", "live")):
        page.evaluate(f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }})")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(state).to_have_text(word)


def test_the_export_is_the_same_page_and_asks_nobody(run: Path, open_page: Open, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(page_of(Run(run, run.name), "<h2>Summary of it</h2>"), encoding="utf-8")
    page = open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    expect(page.get_by_text("Summary of it")).to_be_visible()
    page.evaluate(AXE.read_text() + ";0")
    assert [brief(v) for v in page.evaluate(AXE_RUN) if v["impact"] in ("serious", "critical")] == []
    tab(page, "Now")
    expect(page.get_by_text("step 60 of 60")).to_be_visible()
    tab(page, "Curves")
    page.locator('[data-chart="loss"] canvas').wait_for()
    assert drawn(page) > 500
    tab(page, "Rollouts")
    page.get_by_label("Verdict", exact=True).select_option("failed")
    expect(page.locator("details.rollout")).to_have_count(1)
    page.locator("details.rollout summary").click()
    page.locator('.tok[data-i="3"]').click()
    expect(page.locator(".token-card tbody tr")).to_have_count(5)
    assert page.evaluate("window.hacked") is None
    assert [url for url in asked if not url.startswith(("file://", "data:", "blob:"))] == []


def test_a_page_for_other_machines_needs_the_url_that_was_printed(run: Path, serve: Serve, open_page: Open) -> None:
    url = serve(run, host="0.0.0.0", allow_root=True)
    assert "/?token=" in url
    local = url.replace("0.0.0.0", "127.0.0.1")
    page = open_page(local)
    expect(page.get_by_role("heading", name="one")).to_be_visible()
    assert "token" not in page.url, "it does not stay in the address bar"
    tab(page, "Curves")
    page.locator('[data-chart="loss"] canvas').wait_for()
    stranger = open_page(local.partition("/?")[0])
    assert "open the whole URL" in json.loads(stranger.locator("body").inner_text())["detail"]
    complaints = open_page.complaints  # type: ignore[attr-defined]
    assert len(complaints) >= 1, "the refusal, as the browser tells it"
    complaints.clear()


def test_hostile_constant_holds_what_it_says() -> None:
    for part in ("<script>", "\u202e", "👩‍👩‍👧‍👦", "\ud800"):
        assert part in HOSTILE
