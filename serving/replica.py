"""One replica under Ray Serve: a ``ModelHost`` with the HTTP edge over it. A plain class; ``app.py`` wraps it as a deployment.

The ingress replica is the model replica, so a request crosses one hop only. Serve calls ``check_health``; the rest is ASGI.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI

from serving.config import ServiceConfig
from serving.host import ModelHost
from serving.http import create_app
from serving.metrics import Metrics


class Replica:
    """Loads the model before it takes a request, and drains before it goes."""

    async def __init__(self, config: dict[str, Any], name: str = "") -> None:  # type: ignore[misc]
        """Load, check and warm up; Serve sends no request before this returns.

        Args:
            config: A ``ServiceConfig`` as plain values: they unpickle anywhere.
            name: The replica's name in metrics; empty asks Serve.
        """
        _log_to_stderr()
        self.host = ModelHost(ServiceConfig.model_validate(config), metrics=Metrics(name or _name_in_serve()))
        await self.host.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The edge over this replica's model; Serve calls it once, after the constructor."""
        # Serve shuts the application down when the last request has left, on the loop that the host lives on.
        return create_app(self.host, self.host.metrics, max_body_bytes=self.host.config.max_body_bytes, close=self.host.close)

    async def check_health(self) -> None:
        """Run a canary through the model; Serve replaces a replica that raises three times in a row."""
        await self.host.check()


def _name_in_serve() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)


def _log_to_stderr() -> None:
    # A Ray worker has no handler for our loggers; its stderr is a file that `ray logs` and the dashboard show.
    log = logging.getLogger("serving")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
