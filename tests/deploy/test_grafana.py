"""The dashboard names only metrics and labels that the code exports, and gets to Grafana."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from rgopd.common.streams import GENERATE, SCORE, VERIFY
from rgopd.common.worker import WorkerMetrics
from rgopd.sampler.publish import Policy, Publisher
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.trainer.records.prometheus import TrainerMetrics
from rgopd.verifier.engine import EngineMetrics
from tests.deploy.manifests import ROOT, build, of_kind

FOLDER = ROOT / "deploy/kubernetes/components/grafana"
ADDED = {"namespace", "pod", "job", "le"}
"""Labels that Prometheus and its operator put there."""

_NAME = re.compile(r"\b((?:rgopd|process)_[a-z0-9_]+)(\{[^}]*\})?")
_LABEL = re.compile(r"([a-z_]+)\s*(?:=~|=)")
_BY = re.compile(r"by \(([^)]*)\)")


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Series that the services' own metric objects make, with their labels."""
    registry = CollectorRegistry()
    TeacherMetrics(registry)
    TrainerMetrics(registry)
    EngineMetrics(registry)
    streams = cast(Any, None)
    Policy(cast(Any, None), streams, registry)
    Publisher(streams, cast(Any, None), registry)
    for stage in (GENERATE, VERIFY, SCORE):
        WorkerMetrics(registry, stage)
    series: dict[str, set[str]] = {family.name: set() for family in ProcessCollector(registry=None).collect()}
    for collector in list(registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for name in registry._collector_to_names[collector]:
            series[name] = labels
    return series


def dashboard() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "dashboard.json").read_text()))


def queries() -> list[tuple[str, str]]:
    return [(p["title"], t["expr"]) for p in dashboard()["panels"] for t in p.get("targets", ())]


def test_every_metric_is_exported(exported: dict[str, set[str]]) -> None:
    assert len(queries()) > 40
    unknown = {(title, name) for title, expr in queries() for name, _ in _NAME.findall(expr) if name not in exported}
    assert not unknown


def test_every_label_exists(exported: dict[str, set[str]]) -> None:
    for title, expr in queries():
        names = [name for name, _ in _NAME.findall(expr)]
        known = ADDED.union(*(exported[name] for name in names))
        used = {label for _, braces in _NAME.findall(expr) for label in _LABEL.findall(braces)}
        used |= {label.strip() for group in _BY.findall(expr) for label in group.split(",")}
        assert used <= known, (title, used - known)


def test_everything_of_the_trainer_that_matters_is_shown(exported: dict[str, set[str]]) -> None:
    shown = {name for _, expr in queries() for name, _ in _NAME.findall(expr)}
    of_trainer = {n for n in exported if n.startswith("rgopd_trainer_") and not n.endswith("_created")}
    counters = {n.removesuffix("_total") for n in of_trainer if n.endswith("_total")}
    missing = of_trainer - counters - shown
    assert missing <= {"rgopd_trainer_learning_rate", "rgopd_trainer_tokens_total", "rgopd_trainer_eval_problems"}


def test_panels_do_not_overlap_and_have_their_own_ids() -> None:
    panels = dashboard()["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    cells = [
        (x, y)
        for p in panels
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_grafanas_sidecar_finds_it_and_prometheus_the_trainer() -> None:
    documents = build(ROOT / "deploy/kubernetes/overlays/gpu-cluster")
    [found] = [d for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == "grafana-dashboard-rgopd"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["dashboard.json"]) == dashboard()
    [settings] = [d for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == "trainer"]
    [service] = [d for d in of_kind(documents, "Service") if d["metadata"]["name"] == "trainer-metrics"]
    assert settings["data"]["RGOPD_WATCH__METRICS_PORT"] == str(service["spec"]["ports"][0]["targetPort"])
    [policy] = [d for d in of_kind(documents, "NetworkPolicy") if d["metadata"]["name"] == "prometheus"]
    assert service["spec"]["ports"][0]["port"] in [p["port"] for p in policy["spec"]["ingress"][0]["ports"]]
