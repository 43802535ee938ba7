"""Policy facts read off the built Kubernetes manifests."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from rgopd.common.http import OPEN_PATHS
from rgopd.common.settings import Settings
from rgopd.common.streams import ENVIRONMENT, GENERATE, SCORE, VERIFY, Streams
from rgopd.sampler.config import SamplerConfig
from rgopd.teacher.config import TeacherConfig
from rgopd.trainer.config import TrainConfig
from rgopd.verifier.config import VerifierConfig
from rgopd.watch.config import WatchConfig
from tests.deploy.manifests import (
    OVERLAYS,
    ROOT,
    SCHEMAS,
    Document,
    Pod,
    build,
    environment,
    matches,
    of_kind,
    pods,
    problems,
)

SETTINGS: dict[str, type[Settings]] = {
    "teacher": TeacherConfig,
    "verifier": VerifierConfig,
    "sampler": SamplerConfig,
    "train": TrainConfig,
    "watch": WatchConfig,
}
DOCKERFILES = {
    "teacher": "services/teacher/Dockerfile",
    "verifier": "services/verifier/Dockerfile",
    "sampler": "services/sampler/Dockerfile",
    "trainer": "services/trainer/Dockerfile",
}
SECRET_KEYS = {"redis-passwords": {"trainer", "teacher", "verifier", "sampler", "watch"}, "api-token": {"token"}}
SECRET_KEYS["huggingface"] = {"token"}


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return build(request.param)


def image_port(service: str) -> int:
    """The port that a service's image listens on."""
    [port] = re.findall(r"RGOPD_PORT=(\d+)", (ROOT / DOCKERFILES[service]).read_text())
    return int(port)


def test_every_resource_fits_its_schema(documents: list[Document]) -> None:
    found = {f"{d['kind']}/{d['metadata']['name']}": p for d in documents if (p := problems(d))}
    assert not found


@pytest.mark.parametrize("kind", sorted(p.stem for p in SCHEMAS.glob("*.json")))
def test_the_schemas_refuse_what_is_misspelt(kind: str) -> None:
    every = [d for overlay in OVERLAYS for d in build(overlay) if d["kind"].lower() == kind]
    document = copy.deepcopy(every[0])
    document["spec"]["replicass"] = 1
    assert problems(document)


def test_the_namespace_enforces_the_restricted_standard(documents: list[Document]) -> None:
    [namespace] = of_kind(documents, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {d["metadata"].get("namespace") for d in documents if d["kind"] not in ("Namespace", "RuntimeClass")} == {
        "rgopd"
    }


def test_no_pod_has_root_privilege_or_a_token(documents: list[Document]) -> None:
    for pod in pods(documents):
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True, pod.owner
        assert security["runAsUser"] > 0, pod.owner
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod.owner
        assert pod.spec["automountServiceAccountToken"] is False, pod.owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.owner
        assert not [v for v in pod.spec.get("volumes", []) if "hostPath" in v], pod.owner
        for container in pod.containers:
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False, (pod.owner, container["name"])
            assert confined["readOnlyRootFilesystem"] is True, (pod.owner, container["name"])
            assert confined["capabilities"] == {"drop": ["ALL"]}, (pod.owner, container["name"])
            assert "privileged" not in confined, (pod.owner, container["name"])


def test_resources_are_limited_and_images_pinned(documents: list[Document]) -> None:
    for pod in pods(documents):
        for container in pod.containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), (pod.owner, container["name"])
            assert "memory" in resources["limits"], (pod.owner, container["name"])
            assert re.fullmatch(r"[^:@]+(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})", container["image"]), container[
                "image"
            ]
        for volume in pod.spec.get("volumes", []):
            assert volume.get("emptyDir", {"sizeLimit": 1}).get("sizeLimit"), (pod.owner, volume)


def test_whatever_loads_a_model_waits_until_it_is_fetched(documents: list[Document]) -> None:
    """A trainer's restarts would be spent before a large model has come down."""
    for pod in pods(documents):
        mounts = {m["mountPath"]: m for c in pod.spec["containers"] for m in c.get("volumeMounts", [])}
        if not mounts.get("/models", {}).get("readOnly"):
            continue
        [init] = pod.spec["initContainers"]
        assert init["image"] in {c["image"] for c in pod.spec["containers"]}, pod.owner
        assert init["command"][:3] == ["python", "-m", "rgopd.cli.wait_for_models"]
        name = init["command"][3].removeprefix("$(").removesuffix(")")
        model = environment(init, documents)[name]
        assert model == environment(pod.spec["containers"][0], documents)[name], pod.owner
        jobs = [d for d in of_kind(documents, "Job") if d["metadata"]["name"] in ("fetch-models", "demo-files")]
        [fetch] = list(pods(jobs))
        targets = [c["command"][4] for c in fetch.containers if c["command"][:2] == ["hf", "download"]]
        assert model in (targets or ["/models/teacher", "/models/student"]), f"nobody fetches {model}"


def test_what_runs_for_ever_is_probed(documents: list[Document]) -> None:
    for pod in pods(documents):
        for container in pod.spec["containers"] if pod.serves else []:
            if not container.get("ports"):  # vLLM behind the teacher, whose own probes ask it
                assert container["name"] == "vllm"
                continue
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), (
                pod.owner,
                container["name"],
            )
            names = {p["name"] for p in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                action = container[probe].get("httpGet") or container[probe]["tcpSocket"]
                assert action["port"] in names, (pod.owner, probe)


def test_ports_are_those_of_the_images(documents: list[Document]) -> None:
    for pod in pods(documents):
        for container in pod.containers:
            if container["name"] in ("teacher", "verifier", "sampler") and "ports" in container:
                assert [p["containerPort"] for p in container["ports"]] == [image_port(container["name"])]
    for service in of_kind(documents, "Service"):
        name = service["metadata"]["name"]
        if name in ("teacher", "verifier", "sampler"):
            assert [p["port"] for p in service["spec"]["ports"]] == [image_port(name)]


def service_of(container: Document) -> str | None:
    """Which rgopd command a container runs: its config section."""
    arguments = container.get("args", [])
    return arguments[0] if arguments and arguments[0] in SETTINGS else None


def test_settings_load_as_each_pod_would_load_them(documents: list[Document], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = set()
    for pod in pods(documents):
        for container in pod.containers:
            service = service_of(container)
            if service is None:
                continue
            values = environment(container, documents)
            config = container["args"][container["args"].index("--config") + 1].replace("$(CONFIG)", values["CONFIG"])
            with monkeypatch.context() as patch:
                for name, value in values.items():
                    patch.setenv(name, value)
                settings: Any = SETTINGS[service].from_sources(service, Path(config))
            assert settings.run_id == values["RGOPD_RUN_ID"]
            assert settings.redis_url, pod.owner
            loaded.add(service)
    assert loaded == set(SETTINGS)


def test_every_rgopd_variable_is_a_setting_of_its_service(documents: list[Document]) -> None:
    """pydantic-settings ignores variables it does not know, so a misspelt one would be silent."""
    for pod in pods(documents):
        for container in pod.containers:
            service = service_of(container)
            own = {e["name"] for e in container.get("env", [])} | _own_config(container, documents)
            for name in own:
                if name.startswith("RGOPD_") and service:
                    head = name.removeprefix("RGOPD_").lower().split("__")[0]
                    assert head in SETTINGS[service].model_fields, (pod.owner, name)


def _own_config(container: Document, documents: list[Document]) -> set[str]:
    maps = {s["configMapRef"]["name"] for s in container.get("envFrom", [])}
    return {k for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] in maps for k in d.get("data", {})}


def test_selectors_match_pods_and_references_exist(documents: list[Document]) -> None:
    every = list(pods(documents))
    labels = [p.labels for p in every]
    # Pods of Kubeflow's operators get their labels from the operator too; ours are on the template.
    for service in of_kind(documents, "Service"):
        selector = {"matchLabels": {k: v for k, v in service["spec"]["selector"].items() if "sigs.k8s.io" not in k}}
        assert any(matches(selector, own) for own in labels), service["metadata"]["name"]
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for document in of_kind(documents, kind):
            assert any(matches(document["spec"][key], own) for own in labels), (kind, document["metadata"]["name"])
    deployments = {d["metadata"]["name"] for d in of_kind(documents, "Deployment")}
    for document in of_kind(documents, "ScaledObject"):
        assert document["spec"]["scaleTargetRef"]["name"] in deployments
    services = {d["metadata"]["name"]: d for d in of_kind(documents, "Service")}
    for document in of_kind(documents, "ServiceMonitor"):
        found = [s for s in services.values() if matches(document["spec"]["selector"], s["metadata"].get("labels", {}))]
        assert [p["name"] for s in found for p in s["spec"]["ports"]] == ["http"]
    for pod in every:
        _references_exist(pod, documents)


def _references_exist(pod: Pod, documents: list[Document]) -> None:
    names = {
        kind: {d["metadata"]["name"] for d in of_kind(documents, kind)}
        for kind in ("ConfigMap", "PersistentVolumeClaim")
    }
    for volume in pod.spec.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in names["PersistentVolumeClaim"], pod.owner
        if "configMap" in volume:
            assert volume["configMap"]["name"] in names["ConfigMap"], pod.owner
    mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
    assert {v["name"] for v in pod.spec.get("volumes", [])} <= mounted, pod.owner
    for container in pod.containers:
        for entry in container.get("env", []):
            if secret := entry.get("valueFrom", {}).get("secretKeyRef"):
                assert secret["key"] in SECRET_KEYS[secret["name"]], (pod.owner, entry["name"])


def test_the_verifier_has_one_way_out_and_it_is_redis(documents: list[Document]) -> None:
    policies = of_kind(documents, "NetworkPolicy")
    assert any(p["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for p in policies)
    [verifier] = [p for p in pods(documents) if p.labels.get("app.kubernetes.io/name") == "verifier"]
    egress = [
        rule
        for policy in policies
        if matches(policy["spec"]["podSelector"], verifier.labels)
        for rule in policy["spec"].get("egress", [])
    ]
    redis = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "redis"}}}
    assert egress == [{"to": [redis], "ports": [{"protocol": "TCP", "port": 6379}]}]
    [container] = verifier.spec["containers"]
    url = environment(container, documents)["RGOPD_REDIS_URL"]
    assert "$(REDIS_SERVICE_HOST)" in url, "a name would need DNS"
    assert verifier.spec["enableServiceLinks"] is True


def test_the_page_reads_runs_and_queues_and_goes_nowhere_else(documents: list[Document]) -> None:
    [page] = [p for p in pods(documents) if p.labels.get("app.kubernetes.io/name") == "watch"]
    [container] = page.spec["containers"]
    assert container["args"][1] == "/runs"
    assert {"name": "runs", "mountPath": "/runs", "readOnly": True} in container["volumeMounts"]
    [port] = [p["containerPort"] for p in container["ports"]]
    values = environment(container, documents)
    assert (values["RGOPD_HOST"], values["RGOPD_PORT"]) == ("0.0.0.0", str(port))
    assert values["RGOPD_REDIS_URL"].startswith("redis://watch:"), "the user that may only read"
    [service] = [d for d in of_kind(documents, "Service") if d["metadata"]["name"] == "watch"]
    assert [p["port"] for p in service["spec"]["ports"]] == [port]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in OPEN_PATHS, "without a token"
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind(documents, "NetworkPolicy")}
    assert [p for p, spec in policies.items() if matches(spec["podSelector"], page.labels)] == ["default-deny", "watch"]
    redis, dns = policies["watch"]["egress"]
    assert redis["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "redis"}}}]
    assert {p["port"] for p in dns["ports"]} == {53}
    assert matches(policies["redis"]["ingress"][0]["from"][0]["podSelector"], page.labels)


def test_only_the_fetch_job_may_reach_the_outside(documents: list[Document]) -> None:
    for policy in of_kind(documents, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            if not rule.get("to"):
                assert policy["metadata"]["name"] == "fetch-models"


def test_scaling_reads_the_streams_of_the_run(documents: list[Document]) -> None:
    [run] = [d for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == "run"]
    streams = Streams.__new__(Streams)
    streams.run_id = run["data"]["RGOPD_RUN_ID"]
    for document in of_kind(documents, "ScaledObject"):
        names = {"verifier": [VERIFY, ENVIRONMENT], "sampler": [GENERATE], "teacher": [SCORE]}
        read = [trigger["metadata"]["stream"] for trigger in document["spec"]["triggers"]]
        assert read == [streams.key(name) for name in names[document["metadata"]["name"]]]


def test_components_build_on_the_base() -> None:
    managed = build(ROOT / "tests/deploy/managed-redis")
    assert not of_kind(managed, "StatefulSet")
    found = {d["metadata"]["name"]: p for d in managed if (p := problems(d))}
    assert not found
    cluster = build(ROOT / "deploy/kubernetes/overlays/gpu-cluster")
    assert {p.spec.get("runtimeClassName") for p in pods(cluster) if p.owner == "Deployment/verifier"} == {"gvisor"}
