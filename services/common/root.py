"""No service needs root but the verifier's best sandbox, so none serves a network as root without being told to."""

from __future__ import annotations

import logging
import os

from rgopd.common.errors import ConfigError

log = logging.getLogger(__name__)

NEEDS_ROOT = {"verifier"}
"""Its first rung gives every candidate a uid of its own (docs/verifier.md)."""

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def check_root(service: str, host: str, allow_root: bool) -> None:
    """Refuse to serve other machines as root; on loopback only say that it is not needed.

    Raises:
        ConfigError: root, a service that does not need it, an address others can reach, and no `allow_root`.
    """
    if os.geteuid() != 0 or service in NEEDS_ROOT or allow_root:
        return
    if host in LOOPBACK:
        log.info("running as root, which the %s does not need", service)
        return
    raise ConfigError(
        f"the {service} does not need root and is about to serve {host} with it: run it as another user (the images' "
        "user is 10001), or set allow_root=true"
    )
