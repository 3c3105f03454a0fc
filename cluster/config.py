"""The description of a local cluster. Read without ray."""

from __future__ import annotations

from pydantic import Field

from foundation.config import Config


class LocalClusterSpec(Config):
    """Real Ray nodes on this machine, on loopback, with token authentication."""

    name: str = Field("local", pattern=r"^[a-z][a-z0-9-]*$")
    """Names the state file; one cluster of a name at a time."""
    nodes: int = Field(1, ge=1, le=16)
    """Raylets; the head is one of them."""
    cpus_per_node: float | None = Field(None, gt=0)
    """Logical CPUs of each node; null divides this machine's evenly, at least one each."""
    gpus_per_node: float = Field(0, ge=0)
    failure_detection_s: float = Field(15, ge=2)
    """How soon a node that died is noticed. Shorter lets runs go on earlier; too short takes a node that is only busy for dead."""
    object_store_mb: int = Field(300, ge=80)
    """Shared memory for objects, each node."""
    dashboard_port: int = Field(8265, ge=1, le=65535)
    """Ray's dashboard and Jobs API, on loopback."""
    mlflow_port: int | None = Field(5000, ge=1, le=65535)
    """MLflow server on loopback, so that every node can record; null starts none."""
