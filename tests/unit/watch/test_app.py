from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from rgopd.watch.guard import COOKIE
from rgopd.watch.hub import Hub
from rgopd.watch.runs import Runs
from tests.unit.watch.conftest import MakeRun, step_row, write_rows

OpenPage = Callable[..., TestClient]


def test_the_page_allows_nothing_but_its_own_files(make_run: MakeRun, open_page: OpenPage) -> None:
    page = open_page(make_run()).get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.text, "nothing inline"
    assert not re.search(r"\son\w+=|style=|https?://", page.text)


def test_all_files_of_the_page_are_there_and_name_no_other_host(make_run: MakeRun, open_page: OpenPage) -> None:
    client = open_page(make_run())
    names = set(re.findall(r'(?:src|href)="(page/[^"]+)"', client.get("/").text))
    seen: set[str] = set()
    while names:
        name = names.pop()
        seen.add(name)
        answer = client.get("/" + name)
        assert answer.status_code == 200, name
        if name.startswith("page/js/"):
            assert "innerHTML" not in answer.text, f"{name}: text of models must not become elements"
            names |= {f"page/js/{other}" for other in re.findall(r'from "\./([\w.]+)"', answer.text)} - seen
    assert len(seen) > 12


def test_series_evaluations_and_names(make_run: MakeRun, open_page: OpenPage) -> None:
    folder = make_run(steps=4)
    row = {
        "event": "eval",
        "step": 0,
        "accuracy": 0.5,
        "problems": 100,
        "by_domain": {"A": {"accuracy": 1.0, "problems": 4}},
    }
    write_rows(folder / "metrics.jsonl", [row], "a")
    client = open_page(folder)
    answer = client.get(
        "/api/series", params={"run": "run", "name": ["loss", "clock/seconds", "verdicts/passed"]}
    ).json()
    assert answer["step"]["y"] == {"loss": [1.0, 0.5, 0.333333, 0.25], "verdicts/passed": [3, 3, 3, 3]}
    assert answer["clock"]["y"] == {"seconds": [2, 2, 2, 2]}
    assert answer["last"] == 3
    [found] = client.get("/api/evaluations", params={"run": "run"}).json()
    assert found["interval"][0] < 0.5 < found["interval"][1]
    assert found["by_domain"]["A"]["interval"][0] > 0.5
    assert "loss" in client.get("/api/names", params={"run": "run"}).json()["step"]


def test_nan_and_infinity_reach_the_browser_as_null(make_run: MakeRun, open_page: OpenPage) -> None:
    folder = make_run(steps=0)
    write_rows(folder / "metrics.jsonl", [step_row(0, loss=float("nan"), grad_norm=float("inf"))])
    client = open_page(folder)
    answer = client.get("/api/series", params={"run": "run", "name": ["loss", "grad_norm"]})
    assert answer.json()["step"]["y"] == {"loss": [None], "grad_norm": [None]}
    assert client.get("/api/now", params={"run": "run"}).status_code == 200


def test_csv_has_every_digit_and_every_step(make_run: MakeRun, open_page: OpenPage) -> None:
    folder = make_run(steps=0)
    write_rows(folder / "metrics.jsonl", [step_row(i, loss=i / 3) for i in range(1000)])
    text = open_page(folder).get("/api/csv", params={"run": "run", "name": ["loss", "verdicts/passed"]}).text
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["step", "loss", "verdicts/passed"]
    assert float(rows[1000][1]) == 999 / 3
    assert len(rows) == 1001


def test_errors_say_what_is_wrong(make_run: MakeRun, open_page: OpenPage) -> None:
    client = open_page(make_run())
    assert "no run 'x'" in client.get("/api/now", params={"run": "x"}).json()["detail"]
    assert client.get("/api/now", params={"run": "../../etc"}).status_code == 422
    assert client.get("/page/../../config.py").status_code == 404
    assert client.get("/page/%2e%2e/config.py").status_code == 404
    assert client.get("/api/series", params={"run": "run", "points": 10**9}).status_code == 422
    for method in ("post", "put", "delete", "patch"):
        assert getattr(client, method)("/api/now?run=run").status_code == 405, "nothing can be changed"


def test_a_browser_that_calls_this_machine_by_another_name_gets_nothing(make_run: MakeRun, open_page: OpenPage) -> None:
    """DNS rebinding: a web site points its own name at 127.0.0.1."""
    folder = make_run()
    client = open_page(folder)
    assert client.get("/api/runs", headers={"host": "evil.example:8000"}).status_code == 403
    for host in ("localhost:8000", "127.0.0.1:1", "[::1]:80", "[::1]", "localhost"):
        assert client.get("/api/runs", headers={"host": host}).status_code == 200, host
    assert open_page(folder, hosts=["jupyter.example"]).get("/", headers={"host": "jupyter.example"}).status_code == 200


def test_a_token_is_brought_once_and_kept_as_a_cookie(make_run: MakeRun, open_page: OpenPage) -> None:
    client = open_page(make_run(), token="s3cret")
    for path in (
        "/",
        "/api/runs",
        "/page/style.css",
        "/metrics",
        "/api/events?run=run",
        "/?token=wrong",
        "/openapi.json",
    ):
        assert client.get(path).status_code == 401, path
    assert client.get("/healthz").status_code == 200
    answer = client.get("/?token=s3cret", follow_redirects=False)
    assert answer.status_code == 303
    assert "token" not in answer.headers["location"]
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get("/api/runs").status_code == 200, "by the cookie"
    client.cookies.clear()
    assert client.get("/api/runs", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert client.get("/api/runs?token=s3cret").status_code == 401, "only the page itself takes it from the URL"
    for headers in ({"cookie": f"{COOKIE}=wrong"}, {"cookie": "\x7f=;;"}, {"authorization": "Bearer s3cre"}):
        assert client.get("/api/runs", headers=headers).status_code == 401, headers


def test_a_seconds_news_are_small(make_run: MakeRun) -> None:
    folder = make_run(steps=0)
    write_rows(folder / "metrics.jsonl", [step_row(i) for i in range(1000)])
    (folder / "status.json").write_text(
        '{"time": 1, "phase": "collecting", "stages": {"sampling": {"done": 1, "of": 2}}}'
    )
    hub = Hub(Runs([folder]), poll_s=0.0)
    before = hub.news(["run"])
    assert set(before) == {"runs", "more run", "now run"}
    assert "figures" in json.loads(before["more run"])
    assert len(before["now run"]) < 1500, "bytes a second while something happens within a step"
    write_rows(folder / "metrics.jsonl", [step_row(1000)], "a")
    after = hub.news(["run"])
    assert after["more run"] != before["more run"]
    assert json.loads(after["now run"])["last"] == 1000
    assert set(hub.news(["gone"])) == {"runs"}


def test_answers_are_compressed(make_run: MakeRun, open_page: OpenPage) -> None:
    folder = make_run(steps=0)
    write_rows(folder / "metrics.jsonl", [step_row(i) for i in range(5000)])
    names = ["loss", "kept_fraction", "reward_mean", "verdicts/passed"]
    answer = open_page(folder).get("/api/series", params={"run": "run", "name": names})
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) < len(answer.content) / 3


def test_a_run_of_another_encoding_does_not_break_the_page(make_run: MakeRun, open_page: OpenPage) -> None:
    folder = make_run(steps=2)
    (folder / "metrics.jsonl").write_bytes(
        (folder / "metrics.jsonl").read_bytes() + b'\xff\xfe\n{"event": "step"}\n[1]\n'
    )
    (folder / "config.yaml").write_text("{unclosed")
    client = open_page(folder)
    assert client.get("/api/now", params={"run": "run"}).json()["last"] == 1


@pytest.mark.parametrize("name", ["ein Lauf", "<img src=x onerror=alert(1)>", "шаг", 'a"b'])
def test_any_folder_name_will_do(make_run: MakeRun, open_page: OpenPage, name: str) -> None:
    client = open_page(make_run(name))
    [run] = client.get("/api/runs").json()["runs"]
    assert run["name"] == name
    assert client.get("/api/now", params={"run": name}).json()["last"] == 4
    assert client.get("/api/csv", params={"run": name}).status_code == 200
    assert client.get("/api/report", params={"run": name}).status_code == 200


def test_info_and_docs(make_run: MakeRun, open_page: OpenPage, tmp_path: Path) -> None:
    client = open_page(make_run())
    assert client.get("/docs").status_code == 404, "its scripts come from another host"
    paths = client.get("/openapi.json").json()["paths"]
    assert all(list(methods) == ["get"] for methods in paths.values())
    assert json.loads(client.get("/readyz").text) == {"status": "ready"}
