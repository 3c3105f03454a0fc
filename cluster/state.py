"""What is recorded of local clusters: one JSON file each in the home, written by the cluster's supervisor.

Knows nothing of Ray: a cluster is up when the process that holds it is alive. ``local.py`` starts and ends clusters.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil

from foundation.config import Config, parse
from foundation.errors import ConfigError
from foundation.home import home, write_atomically


class ClusterState(Config):
    """A local cluster. Its file holds no secret: the token lies in ``token_file``."""

    name: str
    cluster_id: str
    """Random; in the environment of every process of the cluster, as ``RAYBERT_CLUSTER_ID``."""
    pid: int
    """The supervisor's process, the leader of the cluster's process session."""
    pid_started: float
    """When that process was created (Unix seconds): pids are used again."""
    is_ready: bool = False
    """False while the cluster starts."""
    address: str = ""
    """``HOST:PORT`` of the GCS."""
    dashboard_url: str = ""
    token_file: Path
    ray_folder: Path
    """Ray's sessions: sockets, logs, spilled objects. Removed when the cluster goes down."""
    log_file: Path
    tracking_uri: str | None = None
    """MLflow's server; None when the cluster has none."""
    nodes: int
    cpus_per_node: float
    gpus_per_node: float = 0
    started: str
    """ISO time, UTC."""

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor still runs."""
        return is_process(self.pid, self.pid_started)


def is_process(pid: int, created: float) -> bool:
    """Whether the process that had this pid at that time is alive; a zombie is not."""
    try:
        process = psutil.Process(pid)
        # The clock that a creation time is reckoned from may be corrected by a little while the machine runs.
        return abs(process.create_time() - created) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def file_of(name: str) -> Path:
    """Where a cluster's state is kept."""
    return home().clusters / f"{name}.json"


def save(state: ClusterState) -> None:
    """Write a state, whole or not at all."""
    write_atomically(file_of(state.name), state.model_dump_json(indent=2) + "\n")


def find(name: str) -> ClusterState | None:
    """The recorded state of a cluster, alive or not; None when there is none that can be read."""
    return _read(file_of(name))


def forget(name: str) -> None:
    """Remove a recorded state."""
    file_of(name).unlink(missing_ok=True)


def recorded() -> list[ClusterState]:
    """All recorded clusters of this home, those that died included, by time of their start."""
    states = (_read(path) for path in home().clusters.glob("*.json"))
    return sorted((state for state in states if state is not None), key=lambda state: state.started)


def running() -> list[ClusterState]:
    """Clusters of this home that are up, the one that is named ``local`` first."""
    return sorted((state for state in recorded() if state.is_ready and state.is_alive), key=lambda state: state.name != "local")


def created_at(pid: int | None = None) -> float:
    """When a process was created, Unix seconds; None: this one."""
    return psutil.Process(pid or os.getpid()).create_time()


def _read(path: Path) -> ClusterState | None:
    try:
        return parse(ClusterState, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, ValueError, ConfigError):
        return None  # taken down meanwhile, or not written by this version
