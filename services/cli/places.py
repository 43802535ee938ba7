"""Whether the places that a run's settings name can be had: its folder, its Redis, its devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.exceptions import ResponseError

from rgopd.cli.devices import named
from rgopd.cli.redis_check import check_server
from rgopd.cli.sections import UpConfig
from rgopd.common import fleeting
from rgopd.common.blob_url import open_store
from rgopd.common.blobs import Blobs
from rgopd.common.connection import connect, redact
from rgopd.common.errors import ConfigError, Unavailable
from rgopd.common.explain import did_you_mean
from rgopd.common.open_run import server_urls
from rgopd.common.stores import StoredBlobs
from rgopd.trainer.config import TrainConfig

REDIS_WAIT_S = 3.0
STORE_WAIT_S = 3.0
_ROOM = 64 << 20


def check_folder(train: TrainConfig) -> None:
    """The run's folder can be made and written to, and its disk has room for one student.

    `rgopd doctor` counts what all checkpoints need.
    """
    if train.output_dir == Path():
        raise ConfigError("train.output_dir is empty: name a folder for the run, e.g. runs/first")
    folder = train.output_dir.resolve()
    _check_place("train.output_dir", folder)
    weights = sum(fleeting.size(file) or 0 for file in fleeting.listed(Path(train.student), "*.safetensors"))
    if (free := fleeting.disk(folder)[1]) < weights + _ROOM:
        raise ConfigError(
            f"train.output_dir={folder}: {free >> 20} MiB are free there, and the student alone needs "
            f"{(weights + _ROOM) >> 20}: free some, or name another place"
        )
    if train.policies_dir is None:
        return
    policies = train.policies_dir.resolve()
    _check_place("train.policies_dir", policies)
    if train.lora is not None and train.lora.publish == "adapter":
        return
    free = fleeting.disk(policies)[1] + fleeting.tree_size(policies)  # an earlier life's versions are replaced
    if free < (needed := 2 * weights):
        raise ConfigError(
            f"train.policies_dir={policies}: {free >> 20} MiB are free there, and a policy beside its successor needs "
            f"{needed >> 20}: enlarge it (containers: shm_size), or name another place"
        )


def _check_place(setting: str, folder: Path) -> None:
    existing = fleeting.standing(folder)
    if not existing.is_dir():
        raise ConfigError(f"{setting}={folder}: {existing} is a file, not a folder: name another place")
    if not _writable(existing):
        raise ConfigError(f"{setting}={folder}: {existing} cannot be written to: name another place")


def _writable(place: Path) -> bool:
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK) and not str(place).startswith(("/proc", "/sys"))


def check_blob_url(url: str) -> None:
    """The blob store can be read and written from here."""
    if not url:
        return
    if url.startswith(("redis://", "rediss://", "unix://")):
        check_redis(url, "blob_url")
        return
    store = open_store(url)
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        existing = fleeting.standing(folder)
        if not _writable(existing):
            raise ConfigError(f"blob_url {url}: {existing} cannot be written to: name a folder that every service can")
    _answers(StoredBlobs(store, "doctor"))


def _answers(blobs: Blobs) -> None:
    try:
        blobs.check(wait_s=STORE_WAIT_S)
    except Unavailable as error:
        raise ConfigError(str(error)) from error


def check_redis(url: str, setting: str = "redis_url") -> None:
    """Every server that the settings name answers now, and none is named twice; without any `up` brings its own."""
    known: dict[tuple[str, int], str] = {}
    spread, named = server_urls(url) if url else ([], {})
    for each in [*spread, *named.values()]:
        try:
            check_server(each, REDIS_WAIT_S)
            client = connect(each, wait_s=REDIS_WAIT_S)
        except Unavailable as error:
            raise ConfigError(
                f"{str(error).partition('; ')[0]}; start one there, or leave {setting} out: `rgopd up` brings its own"
            ) from error
        if len(spread) + len(named) > 1:
            info: Any
            try:
                info = client.info("server")
            except ResponseError:  # its user may not ask: the trainer's claim finds out
                info = {}
            server = str(info.get("run_id", each)), int(client.get_connection_kwargs().get("db") or 0)
            if (other := known.setdefault(server, redact(each))) != redact(each):
                raise ConfigError(f"{setting} names one server twice, as {other} and {redact(each)}: leave one out")
        client.close()


def check_kernels(train: TrainConfig) -> None:
    """What `head_kernels` and `compile_backend` ask for is there."""
    import torch

    if train.head_kernels == "triton" and (train.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("train.head_kernels=triton needs a GPU: --set train.head_kernels=auto")
    if name := train.compile_backend:
        from torch._dynamo import list_backends
        from torch._dynamo.backends.registry import lookup_backend
        from torch._dynamo.exc import InvalidBackend

        try:
            lookup_backend(name)
        except InvalidBackend as error:
            known = ", ".join(list_backends())
            raise ConfigError(
                f"train.compile_backend={name}: torch knows no such backend{did_you_mean(name, list_backends())}; it "
                f"has {known}"
            ) from error


def check_gpus(up: UpConfig, placed: dict[str, list[str]], widths: dict[str, int], count: int) -> None:
    """The GPUs that `up.gpus` names are there, and each process has as many as it is spread over.

    widths: of processes by role, where they are spread over GPUs of their own at all.
    """
    for role in ("train", "teacher", "sampler"):
        missing = [gpu for gpu in named(up, role) if gpu.isdigit() and int(gpu) >= count]
        if missing and not os.environ.get("CUDA_VISIBLE_DEVICES"):  # where it is set, torch counts anew from 0
            raise ConfigError(
                f"up.gpus.{role} names GPU {', '.join(missing)}, and torch sees {count} here (0 to {count - 1}): name "
                "others, or let `rgopd plan` say what to share"
            )
    for name, gpus in placed.items():
        role = name.partition("-")[0]
        if len(gpus) < widths.get(role, 0):
            raise ConfigError(
                f"{role}.tensor_parallel_size={widths[role]}, and {name} has {len(gpus)} GPUs ({', '.join(gpus)}): "
                f"name more in up.gpus.{role}, or lower it"
            )


def check_devices(settings: dict[str, Any]) -> None:
    """torch knows the devices that are named, and this machine has them."""
    import torch

    for section in ("teacher", "sampler", "train"):
        name = settings[section].device
        if name == "auto":
            continue
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(f"{section}.device={name}: torch knows no such device; use auto, cpu or cuda") from error
        if device.type == "cuda" and (count := torch.cuda.device_count()) <= (device.index or 0):
            seen = f"torch sees {count} GPUs" if count else "torch sees no GPU"
            raise ConfigError(
                f"{section}.device={name}: {seen} here: --set {section}.device=cpu, or a CUDA build of torch"
            )
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise ConfigError(f"{section}.device={name}: this machine has no Apple GPU: --set {section}.device=cpu")
        if device.type not in ("cpu", "cuda", "mps"):
            raise ConfigError(f"{section}.device={name}: rgopd runs on cpu, cuda and mps: --set {section}.device=auto")
