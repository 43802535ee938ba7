"""Make the JSON Schemas of Kubeflow's and JobSet's resources from the API packages that Kubeflow publishes on PyPI.

    pip install kubeflow-trainer-api==2.3.0 kubeflow-training==1.9.4 six      (Kubeflow: both Apache-2.0)
    python tests/deploy/schemas/make.py

Descriptions are left out, and unknown keys are errors: the API server would drop them without a word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PRUNED = ("description", "title", "default")


def strict(schema: Any, *, names: bool = False) -> Any:
    """Without prose; objects take only the keys they name. `names`: this mapping's keys are property names."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: strict(v, names=k in ("properties", "$defs")) for k, v in schema.items() if names or k not in PRUNED}
    if not names and "properties" in kept:
        kept["additionalProperties"] = False
    return kept


def of_pydantic(model: Any) -> dict[str, Any]:
    """The schema of a pydantic model by its wire names. An int-or-string is modelled as an object there."""
    schema: dict[str, Any] = strict(model.model_json_schema(by_alias=True))
    for name in list(schema["$defs"]):
        if name.endswith("IntOrString"):
            schema["$defs"][name] = {"type": ["integer", "string"]}
        if name.endswith("ResourceQuantity"):
            schema["$defs"][name] = {"type": ["number", "string"]}
    return schema


def of_openapi(model: Any, models: Any, seen: dict[str, Any]) -> dict[str, Any]:
    """The schema of a generated OpenAPI class (openapi_types, attribute_map); Kubernetes' own types stay open."""
    name = model.__name__
    if name not in seen:
        seen[name] = {}
        kinds = {model.attribute_map[k]: v for k, v in model.openapi_types.items()}
        properties = {k: _openapi_type(v, models, seen) for k, v in kinds.items()}
        seen[name] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$ref": f"#/$defs/{name}"}


def _openapi_type(text: str, models: Any, seen: dict[str, Any]) -> dict[str, Any]:
    simple = {"str": "string", "int": "integer", "bool": "boolean"}
    if text in simple:
        return {"type": simple[text]}
    if text.startswith("dict("):
        inner = text[5:-1].split(",", 1)[1].strip()
        return {"type": "object", "additionalProperties": _openapi_type(inner, models, seen)}
    if text.startswith("list["):
        return {"type": "array", "items": _openapi_type(text[5:-1], models, seen)}
    model = getattr(models, text, None)
    return of_openapi(model, models, seen) if model is not None else {}


def main() -> None:
    """Write the files."""
    from kubeflow.training import models as training
    from kubeflow_trainer_api import models as trainer

    made = {
        "trainjob": of_pydantic(trainer.TrainerV1alpha1TrainJob),
        "trainingruntime": of_pydantic(trainer.TrainerV1alpha1TrainingRuntime),
        "jobset": of_pydantic(trainer.JobsetV1alpha2JobSet),
    }
    seen: dict[str, Any] = {}
    top = of_openapi(training.KubeflowOrgV1PyTorchJob, training, seen)
    made["pytorchjob"] = {**top, "$defs": seen}
    for name, schema in made.items():
        (HERE / f"{name}.json").write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
