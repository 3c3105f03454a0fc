"""What a recorded cluster does now, asked over its dashboard: nodes alive, CPUs in use. Knows no ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cluster.dashboard import Target, ask
from cluster.state import ClusterState
from foundation.errors import ClusterError


@dataclass(frozen=True)
class Usage:
    """A look at one cluster."""

    status: Literal["up", "starting", "gone", "ill"]
    """``gone``: its supervisor was killed, ``cluster down`` clears up; ``ill``: the supervisor runs, the dashboard does not answer."""
    nodes_alive: int = 0
    cpus_total: float = 0
    cpus_used: float = 0
    """Claimed by tasks and actors; Ray counts anew every few seconds."""
    message: str = ""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def usage_of(cluster: ClusterState) -> Usage:
    """Ask a cluster how it is; never raises, the answer says what is wrong."""
    if not cluster.is_alive:
        return Usage("gone", message=f"its supervisor is gone; `raybert cluster down {cluster.name}` clears up")
    if not cluster.is_ready:
        return Usage("starting", message=f"process {cluster.pid}, log {cluster.log_file}")
    try:
        token = cluster.token_file.read_text(encoding="utf-8").strip()
        target = Target(cluster.dashboard_url, token, str(cluster.token_file), cluster.tracking_uri)
        return read_answers(ask(target, "/api/v0/nodes?limit=1000", dict), ask(target, "/api/cluster_status", dict))
    except (ClusterError, OSError, LookupError, TypeError, ValueError) as error:
        return Usage("ill", message=f"{error}; log {cluster.log_file}")


def read_answers(nodes: Mapping[str, Any], status: Mapping[str, Any]) -> Usage:
    """From the dashboard's two answers. Pure."""
    alive = [node for node in nodes["data"]["result"]["result"] if node["state"] == "ALIVE"]
    claimed = ((status["data"].get("clusterStatus") or {}).get("loadMetricsReport") or {}).get("usage") or {}
    return Usage(
        "up",
        nodes_alive=len(alive),
        cpus_total=sum(float(node["resources_total"].get("CPU", 0)) for node in alive),
        cpus_used=float(claimed.get("CPU", (0, 0))[0]),
    )
