"""Policy versions: the trainer publishes the student's weights, samplers load the version a request asks for.

A version is a folder with safetensors and config, written aside and renamed, then announced in Redis. The folder must
be visible to trainer and samplers alike (one machine, or a shared volume). Writing one needs torch and lives with the
trainer (`rgopd.trainer.student.weights`).
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from rgopd.common import fleeting, wire
from rgopd.common.errors import InvalidInput, Unavailable
from rgopd.common.streams import Streams
from rgopd.protos import rollout_pb2


class PolicyStore:
    """Where versions are announced."""

    def __init__(self, streams: Streams) -> None:
        self.redis = streams.redis
        self.run_id = streams.run_id
        self.ttl_s = streams.stream_ttl_s

    def _key(self, version: int | str) -> str:
        return f"rgopd:{{{self.run_id}}}:policy:{version}"

    def announce(self, version: int, folder: Path, sha256: str = "") -> None:
        """Tell the samplers. Announcing a version again (after a restart) replaces the path.

        `sha256`: the folder's `digest`, where it is known already.
        """
        message = rollout_pb2.PolicyVersion(
            header=wire.header(self.run_id),
            version=version,
            path=str(folder.resolve()),
            sha256=sha256 or digest(folder),
        )
        data = message.SerializeToString()
        pipe = self.redis.pipeline(transaction=True)
        pipe.set(self._key(version), data, ex=self.ttl_s)
        pipe.set(self._key("latest"), data, ex=self.ttl_s)
        pipe.execute()

    def announced(self) -> set[int]:
        """Versions that samplers may ask for now."""
        names = [bytes(key).decode().rpartition(":")[2] for key in self.redis.scan_iter(match=self._key("*"))]
        return {int(name) for name in names if name.isdigit()}

    def withdraw(self, version: int) -> None:
        """Forget a version whose folder is about to go; who asks for it from now on is told so at once."""
        pipe = self.redis.pipeline(transaction=True)
        pipe.delete(self._key(version))
        pipe.set(self._key("floor"), version + 1, ex=self.ttl_s)
        pipe.execute()

    def reset_floor(self, version: int) -> None:
        """A resumed run publishes from an earlier version on."""
        self.redis.set(self._key("floor"), version, ex=self.ttl_s)

    def latest(self) -> rollout_pb2.PolicyVersion | None:
        """The newest announced version."""
        data = self.redis.get(self._key("latest"))
        return wire.parse(rollout_pb2.PolicyVersion, data) if isinstance(data, bytes) else None

    def wait(self, version: int, timeout_s: float) -> rollout_pb2.PolicyVersion:
        """The announced version, waiting for it up to `timeout_s`.

        Raises:
            Unavailable: it was not announced in time.
            InvalidInput: it was withdrawn; nobody waits for an answer to such a request any more.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            data, floor = self.redis.mget(self._key(version), self._key("floor"))
            if isinstance(data, bytes):
                policy = wire.parse(rollout_pb2.PolicyVersion, data)
                wire.check_schema(policy.header)
                return policy
            if isinstance(floor, bytes) and version < int(floor):
                raise InvalidInput(f"policy version {version} was withdrawn; the oldest is {int(floor)}")
            if time.monotonic() >= deadline:
                raise Unavailable(f"policy version {version} was not published within {timeout_s:.0f} s")
            time.sleep(0.02)


def verified(policy: rollout_pb2.PolicyVersion, timeout_s: float) -> Path:
    """The folder of a version, once its files are what was announced (a shared volume may lag).

    Raises:
        Unavailable: they were not within `timeout_s`; another attempt may find them.
    """
    folder = Path(policy.path)
    deadline = time.monotonic() + timeout_s
    while fleeting.seen(lambda: digest(folder), "") != policy.sha256:
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"policy version {policy.version} at {folder} does not have the announced sha256; trainer and "
                "samplers must see the same folder (one machine, or a shared volume)"
            )
        time.sleep(0.1)
    return folder


def digest(folder: Path) -> str:
    """sha256 over the weight files, in name order."""
    sha = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()
