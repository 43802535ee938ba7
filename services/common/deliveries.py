"""What a consumer of a stream is handed, and what it gives back (`streams.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Delivery:
    """One message as handed to a consumer.

    `attempt` counts deliveries from 1; `failures` those of the earlier ones that the handler reported as failed,
    `excused` those that it gave back without blaming the message. The rest ended with their holder.
    """

    stream: str
    id: str
    payload: bytes
    attempt: int
    failures: int = 0
    excused: int = 0
    server: int = 0

    @property
    def orphaned(self) -> int:
        """How many of its holders died, hung, or were cut off."""
        return self.attempt - 1 - self.failures - self.excused


@dataclass
class Outcome:
    """What a stage made of one message: blobs to store by (stage, id), and messages for other streams."""

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    announce: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class DeadLetter:
    """A message that was given up, and why."""

    id: str
    stream: str
    payload: bytes
    reason: str
    attempts: int
    server: int = 0


@dataclass(frozen=True)
class Consumer:
    """A reader of a stream: messages leased to it, and how long ago it last asked for one."""

    name: str
    leased: int
    idle_ms: int
