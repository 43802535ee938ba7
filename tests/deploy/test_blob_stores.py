"""Shipped overlays with a blob store laid over them: every service of a run gets the same store, and the way to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rgopd.common.blob_url import open_store
from tests.deploy.manifests import OVERLAYS, ROOT, Document, Pod, build, environment, matches, of_kind, pods, problems

SERVICES = {"teacher", "verifier", "sampler", "train"}
# One of each form of trainer (Job, JobSet, TrainJob, PyTorchJob) and of teacher (Deployment, LeaderWorkerSet).
FORMS = [o for o in OVERLAYS if o.name.endswith(("cpu-demo", "-lws", "-trainjob", "-pytorchjob"))]
TOUCHED = {"NetworkPolicy", "PersistentVolumeClaim"}
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def laid_over(overlay: Path, component: str, folder: Path) -> list[Document]:
    """What a user's own kustomization with both builds to."""
    there = os.path.relpath(overlay, folder)
    over = os.path.relpath(ROOT / "deploy/kubernetes/components" / component, folder)
    (folder / "kustomization.yaml").write_text(f"resources: ['{there}']\ncomponents: ['{over}']\n")
    return build(folder)


def of_the_run(documents: list[Document]) -> list[tuple[str, Pod, Document]]:
    """(service, pod, container) of all that read and write a run's blobs."""
    found = [(c.get("args", [""])[0], pod, c) for pod in pods(documents) for c in pod.containers]
    return [(service, pod, container) for service, pod, container in found if service in SERVICES]


def complaints(documents: list[Document]) -> dict[str, list[str]]:
    """Of what a component may have changed; the rest is checked with its overlay."""
    changed = [d for d in documents if d["kind"] in TOUCHED or of_the_run([d])]
    return {d["metadata"]["name"]: p for d in changed if (p := problems(d))}


def reach(documents: list[Document], pod: Pod) -> list[dict[str, Any]]:
    """What the network policies let a pod reach."""
    policies = [p["spec"] for p in of_kind(documents, "NetworkPolicy")]
    return [rule for p in policies if matches(p["podSelector"], pod.labels) for rule in p.get("egress", [])]


@pytest.mark.parametrize("overlay", FORMS, ids=lambda path: path.name)
def test_s3(overlay: Path, tmp_path: Path) -> None:
    documents = laid_over(overlay, "blob-s3", tmp_path)
    assert not complaints(documents)
    run = of_the_run(documents)
    assert {service for service, _, _ in run} == SERVICES
    [url] = {environment(container, documents)["RGOPD_BLOB_URL"] for _, _, container in run}
    assert open_store(url).where.startswith("s3://rgopd/")
    endpoint = urlsplit(parse_qs(urlsplit(url).query)["endpoint"][0])
    for service, pod, container in run:
        given = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in container["env"] if e["name"] in KEYS}
        secret = "blob-store-verifier" if service == "verifier" else "blob-store"
        assert given == {key: {"name": secret, "key": key} for key in KEYS}, pod.owner
        ways = [rule for rule in reach(documents, pod) if "ipBlock" in rule.get("to", [{}])[0]]
        assert [rule["ports"] for rule in ways] == [[{"protocol": "TCP", "port": endpoint.port}]], pod.owner
        if service == "verifier":  # without DNS, which stays shut
            [alias] = pod.spec["hostAliases"]
            assert alias["hostnames"] == [endpoint.hostname]
            assert ways[0]["to"] == [{"ipBlock": {"cidr": f"{alias['ip']}/32"}}]
            assert len(reach(documents, pod)) == 2, "Redis and the store"


@pytest.mark.parametrize("overlay", FORMS, ids=lambda path: path.name)
def test_files(overlay: Path, tmp_path: Path) -> None:
    documents = laid_over(overlay, "blob-files", tmp_path)
    assert not complaints(documents)
    run = of_the_run(documents)
    assert {service for service, _, _ in run} == SERVICES
    modes = {d["metadata"]["name"]: d["spec"]["accessModes"] for d in of_kind(documents, "PersistentVolumeClaim")}
    assert modes["blobs"] == ["ReadWriteMany"]
    for _, pod, container in run:
        root = open_store(environment(container, documents)["RGOPD_BLOB_URL"]).where.removeprefix("file://")
        assert {"name": "blobs", "mountPath": root} in container["volumeMounts"], pod.owner
        assert {"name": "blobs", "persistentVolumeClaim": {"claimName": "blobs"}} in pod.spec["volumes"], pod.owner
        # Files of two users: a folder that one of them makes must let the other one, of the same group, delete in it.
        security = pod.spec["securityContext"]
        assert (security["runAsGroup"], security["fsGroup"]) == (10001, 10001), pod.owner
