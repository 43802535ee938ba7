from __future__ import annotations

import pytest
from redis import Redis

from rgopd.common.streams import Streams


@pytest.fixture
def streams(redis: Redis, run_id: str) -> Streams:
    """A run of its own. Its leases are longer than a starved machine delays a heartbeat; `expire` ends them at once."""
    return Streams(redis, run_id, lease_ms=3000, max_attempts=3)
