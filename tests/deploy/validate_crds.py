"""Hold every overlay to the operators' own CustomResourceDefinitions, strictly.

    python -m tests.deploy.validate_crds FOLDER        any *.yaml below FOLDER that holds a CustomResourceDefinition

Take the CRDs from the operators' releases: kubernetes-sigs/{lws,jobset}, kedacore/keda, kubeflow/trainer,
kubeflow/training-operator, prometheus-operator/prometheus-operator.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.deploy.manifests import OVERLAYS, build

Key = tuple[str, str]
BUILT_IN = ("", "apps", "batch", "policy", "networking.k8s.io", "node.k8s.io")


def strict(node: Any) -> Any:
    """A structural schema in which unknown keys are errors."""
    if isinstance(node, list):
        return [strict(n) for n in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {k: strict(v) for k, v in node.items()}
    open_ = kept.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in kept
    if kept.get("type") == "object" and "properties" in kept and not open_:
        kept["additionalProperties"] = False
    return kept


def read_crds(folder: Path) -> dict[Key, Any]:
    """(apiVersion, kind) -> schema."""
    found: dict[Key, Any] = {}
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and document.get("kind") == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    schema["properties"]["metadata"] = {"type": "object"}
                    found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def main(folder: Path) -> int:
    """Print a line a resource; 1 where one does not fit or has no CRD."""
    crds, failed = read_crds(folder), 0
    for overlay in OVERLAYS:
        for document in build(overlay):
            group, _, _ = document["apiVersion"].rpartition("/")
            if group in BUILT_IN:
                continue
            name = f"{overlay.name}: {document['apiVersion']} {document['kind']} {document['metadata']['name']}"
            schema = crds.get((document["apiVersion"], document["kind"]))
            errors = list(jsonschema.Draft7Validator(schema).iter_errors(document)) if schema else ["no CRD for it"]
            failed += bool(errors)
            print(f"{'FAIL' if errors else 'ok  '} {name}")
            for error in errors:
                print(f"     {error if isinstance(error, str) else f'{list(error.path)}: {error.message[:300]}'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
