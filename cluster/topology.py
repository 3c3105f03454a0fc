"""START HERE: what a cluster has and what fits on it. Pure; nothing here talks to Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foundation.errors import ClusterError


@dataclass(frozen=True)
class Node:
    """One Ray node's total resources."""

    node_id: str
    cpus: float
    gpus: float = 0.0
    is_alive: bool = True


@dataclass(frozen=True)
class Topology:
    """A cluster's nodes."""

    nodes: tuple[Node, ...]

    @property
    def alive(self) -> tuple[Node, ...]:
        """Nodes that answer."""
        return tuple(node for node in self.nodes if node.is_alive)

    @property
    def cpus(self) -> float:
        """CPUs of all living nodes."""
        return sum(node.cpus for node in self.alive)

    @property
    def gpus(self) -> float:
        """GPUs of all living nodes."""
        return sum(node.gpus for node in self.alive)


def topology_of(nodes: Sequence[Mapping[str, object]]) -> Topology:
    """From ``ray.nodes()``."""

    def one(entry: Mapping[str, object]) -> Node:
        resources = entry.get("Resources")
        assert isinstance(resources, Mapping)
        return Node(
            node_id=str(entry["NodeID"]),
            cpus=float(resources.get("CPU", 0.0)),
            gpus=float(resources.get("GPU", 0.0)),
            is_alive=bool(entry["Alive"]),
        )

    return Topology(tuple(one(entry) for entry in nodes))


def check_fits(
    topology: Topology, *, cpus: float = 0, gpus: float = 0, cpus_each: float = 0, lower: str = "workers.count or workers.cpus_each"
) -> None:
    """Refuse what the cluster can never give, instead of waiting for ever.

    Args:
        topology: What there is.
        cpus: Wanted at once, in all.
        gpus: Wanted at once, in all.
        cpus_each: Each worker's share of ``cpus``; a worker does not stretch over two nodes. 0: they may lie anywhere.
        lower: What the user can make smaller.

    Raises:
        ClusterError: Says what is asked for and what there is.
    """
    for kind, wanted, found in (("CPUs", cpus, topology.cpus), ("GPUs", gpus, topology.gpus)):
        if wanted > found:
            raise ClusterError(
                f"{wanted:g} {kind} wanted, the cluster has {found:g} on {len(topology.alive)} node(s); "
                f"lower {lower}, or use a larger cluster"
            )
    if cpus_each > 0:
        wanted_workers = round(cpus / cpus_each)
        # The small addition keeps 0.3 / 0.1 from being 2.
        room = sum(int(node.cpus / cpus_each + 1e-9) for node in topology.alive)
        if wanted_workers > room:
            nodes = ", ".join(f"{node.cpus:g}" for node in topology.alive)
            raise ClusterError(
                f"{wanted_workers} workers of {cpus_each:g} CPUs each wanted, there is room for {room}: the nodes have {nodes} CPUs; "
                f"lower {lower}, or use a cluster with larger nodes"
            )
