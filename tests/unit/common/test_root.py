from __future__ import annotations

import os

import pytest

from rgopd.common.errors import ConfigError
from rgopd.common.root import check_root


@pytest.mark.parametrize(
    ("service", "host", "allow"),
    [("verifier", "0.0.0.0", False), ("teacher", "127.0.0.1", False), ("teacher", "::", True)],
)
def test_root_where_it_is_needed_local_or_allowed(
    monkeypatch: pytest.MonkeyPatch, service: str, host: str, allow: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    check_root(service, host, allow)


@pytest.mark.parametrize("service", ["teacher", "sampler"])
def test_a_network_is_not_served_as_root(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="does not need root .* allow_root=true"):
        check_root(service, "0.0.0.0", False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    check_root(service, "0.0.0.0", False)
