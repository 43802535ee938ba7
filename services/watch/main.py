"""Putting the page's service together."""

from __future__ import annotations

import secrets
from importlib.metadata import version

from prometheus_client import CollectorRegistry

from rgopd.common.errors import ConfigError
from rgopd.common.http import ServiceState
from rgopd.common.root import LOOPBACK
from rgopd.common.server import bind, run_http
from rgopd.common.telemetry import configure_logging
from rgopd.watch.app import build_app
from rgopd.watch.config import WatchConfig
from rgopd.watch.hub import Hub
from rgopd.watch.runs import Runs


def serve(config: WatchConfig) -> int:
    """Run the page until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigError: a run that was named is not there, or the port is in use.
    """
    for place in config.runs:
        if not place.is_dir():
            raise ConfigError(
                f"{place} is no folder: name runs, or the folder that holds them: rgopd watch runs/my-run"
            )
    configure_logging("watch", config.log_level)
    sock = bind(config.host, config.port)
    token = config.bearer_token()
    if not token and config.host not in LOOPBACK:
        token = secrets.token_urlsafe(24)  # whoever can reach the address must have been shown the URL
    hub = Hub(Runs(config.runs), config.poll_s, config.redis_url)
    state = ServiceState(info={"service": "watch", "version": version("rgopd"), "runs": [str(p) for p in config.runs]})
    app = build_app(
        hub,
        state,
        CollectorRegistry(),
        token=token,
        hosts=config.allowed_hosts,
        poll_s=config.poll_s,
        max_clients=config.max_clients,
    )

    def load() -> None:
        for name in hub.overview()["first"]:
            hub.run(name)

    path = f"/?token={token}" if token else ""
    try:
        return run_http("watch", app, config, state, sock=sock, load=load, drain=lambda: None, path=path)
    finally:
        hub.close()
