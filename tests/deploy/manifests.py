"""The built Kubernetes manifests, and what to look for in them."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted(p.parent for p in (ROOT / "deploy/kubernetes/overlays").glob("*/kustomization.yaml"))
SCHEMAS = ROOT / "tests/deploy/schemas"
KUBERNETES = "1.33"

Document = dict[str, Any]


@functools.cache
def build(folder: Path) -> list[Document]:
    """`kubectl kustomize` (or `kustomize build`) of a folder."""
    command = next((c for c in (["kubectl", "kustomize"], ["kustomize", "build"]) if shutil.which(c[0])), None)
    assert command, "install kubectl (https://kubernetes.io/docs/tasks/tools): the manifests are built with it"
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if document]


@dataclass(frozen=True)
class Pod:
    """A pod template of some workload. `metadata` may be empty where an operator labels the pods."""

    owner: str
    kind: str
    metadata: Document
    spec: Document

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self.metadata.get("labels", {}))

    @property
    def containers(self) -> list[Document]:
        """All of them, those that run first too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def serves(self) -> bool:
        """Whether it is meant to run for ever, and so must have probes."""
        return self.kind in ("Deployment", "StatefulSet", "LeaderWorkerSet")


def pods(documents: list[Document]) -> Iterator[Pod]:
    """Every pod template, wherever its resource keeps it."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        for template in _templates(document.get("spec", {})):
            yield Pod(name, document["kind"], template.get("metadata", {}), template["spec"])


def _templates(node: Any) -> Iterator[Document]:
    if isinstance(node, dict):
        if "containers" in node.get("spec", {}) if isinstance(node.get("spec"), dict) else False:
            yield node
            return
        for value in node.values():
            yield from _templates(value)
    elif isinstance(node, list):
        for value in node:
            yield from _templates(value)


def problems(document: Document) -> list[str]:
    """What the API server would say: the kind's own schema, and every pod template as a Pod."""
    return list(_problems(json.dumps(document)))


@functools.cache  # most resources are the same in every overlay
def _problems(text: str) -> tuple[str, ...]:
    document = json.loads(text)
    kind, found = document["kind"], []
    own = SCHEMAS / f"{kind.lower()}.json"
    if own.exists():
        validator = jsonschema.Draft202012Validator(json.loads(own.read_text()))
        found += [f"{list(e.path)}: {e.message}" for e in validator.iter_errors(document)]
        found += [p for pod in pods([document]) for p in _core(_as_pod(pod))]
    else:
        found += _core(document)
    return tuple(found)


def _as_pod(pod: Pod) -> Document:
    metadata = {"name": "x", **copy.deepcopy(pod.metadata)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}


def _core(document: Document) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{list(getattr(error, 'path', []))}: {error.message}"]
    return []


def matches(selector: Document, labels: dict[str, str]) -> bool:
    """A label selector: matchLabels and matchExpressions with `In`; an empty one matches all."""
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    """Those of one kind."""
    return [d for d in documents if d["kind"] == kind]


def environment(container: Document, documents: list[Document]) -> dict[str, str]:
    """The container's environment as far as the manifests tell it; values of Secrets become "secret"."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        name = source["configMapRef"]["name"]
        [found] = [d for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == name]
        values |= found.get("data", {})
    for entry in container.get("env", []):
        values[entry["name"]] = str(entry.get("value", "secret"))
    return values
