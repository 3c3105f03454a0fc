"""A cluster's dashboard over HTTP: which one, with which token, and whether it answers at all. Every question has a time limit.

Knows no Ray; ``jobs.py`` builds on it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundation.errors import ClusterError

REACH_S = 10.0
"""How long a cluster may take to answer ``check``."""


@dataclass(frozen=True)
class Target:
    """A cluster's Jobs API."""

    url: str
    token: str | None = field(default=None, repr=False)
    token_source: str = "no token"
    """Where the token was read, for messages."""
    tracking_uri: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What each request carries."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def find_target(address: str | None = None) -> Target:
    """The dashboard to talk to: ``address``, else ``RAY_API_SERVER_ADDRESS``, else the recorded running cluster of this home.

    The token comes from ``RAY_AUTH_TOKEN``, the file ``RAY_AUTH_TOKEN_PATH``, the recorded cluster's file, ``~/.ray/auth_token``.

    Raises:
        ClusterError: No address and no recorded cluster, or not an URL, or the token file is missing.
    """
    from cluster.state import running

    known = running()
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if given is None and not known:
        raise ClusterError("no cluster of this home is running; start one with `raybert cluster up`, or give --address http://HOST:8265")
    url = (given or known[0].dashboard_url).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ClusterError(f"{url}: not a dashboard URL; expected http://HOST:PORT, for example http://127.0.0.1:8265")
    state = next((item for item in known if item.dashboard_url.rstrip("/") == url), None)
    token, source = find_token(os.environ, Path(state.token_file) if state else None, Path.home() / ".ray" / "auth_token")
    return Target(url, token, source, state.tracking_uri if state else None)


def find_token(environment: Mapping[str, str], recorded: Path | None, default: Path) -> tuple[str | None, str]:
    """The token and where it was found, in the order in which Ray looks, with the recorded cluster's file before the default one.

    Raises:
        ClusterError: The file that was named does not exist or is empty.
    """
    if environment.get("RAY_AUTH_TOKEN"):
        return environment["RAY_AUTH_TOKEN"].strip(), "the variable RAY_AUTH_TOKEN"
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    for path, is_named in ((Path(named).expanduser() if named else None, True), (recorded, True), (default, False)):
        if path is None:
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if token := path.read_text(encoding="utf-8").strip():
                return token, str(path)
        if is_named:
            raise ClusterError(f"{path}: no token can be read there; point RAY_AUTH_TOKEN_PATH to the cluster's token file")
    return None, "no token"


def check(target: Target) -> None:
    """Ask the cluster one question before anything is sent to it; answers within ``REACH_S``.

    Raises:
        ClusterError: Nothing answers, something else than Ray does, or the token is refused.
    """
    ask(target, "/api/version", dict)
    ask(target, "/api/jobs/", list)


def ask(target: Target, path: str, kind: type) -> Any:
    """GET a JSON value of ``kind``, with a time limit; None when Ray has nothing there (404 with a reason of its own).

    Raises:
        ClusterError: Nothing answers, the token is refused, or the answer is not Ray's.
    """
    import httpx

    try:
        answer = httpx.get(f"{target.url}{path}", headers=target.headers, timeout=REACH_S / 2, trust_env=False)
    except httpx.InvalidURL as error:
        raise ClusterError(f"{target.url}: not a dashboard URL ({error}); expected http://HOST:PORT") from None
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise ClusterError(
            f"{target.url}: no cluster answers there ({why}); start one with `raybert cluster up` or check --address"
        ) from None
    if answer.status_code in (401, 403):
        raise ClusterError(
            f"{target.url}: the cluster refuses the token ({target.token_source}); give the cluster's own with RAY_AUTH_TOKEN_PATH=FILE"
        )
    if answer.status_code == 404 and "does not exist" in answer.text:
        return None
    with contextlib.suppress(ValueError):
        if answer.is_success and isinstance(body := answer.json(), kind):
            return body
    raise ClusterError(f"{target.url}: found HTTP {answer.status_code} at {path}, expected Ray's dashboard; check --address")
