"""Waiting for nodes that Ray's autoscaler (v2) is yet to start, and finding out what it never will.

The demand is a placement group: it belongs to this driver, so it goes with it, and stands beside what others ask for.
"""

from __future__ import annotations

import importlib
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.topology import Topology, topology_of
from foundation.errors import ClusterError, first_line
from foundation.progress import duration, say

Bundle = Mapping[str, float]
_LOOK_S = 1.0
_TELL_S = 10.0
_SURE_S = 3.0
"""The autoscaler has to find something impossible for so long: what it knows of the nodes is seconds old."""


@dataclass(frozen=True)
class View:
    """What the autoscaler makes of one demand."""

    is_infeasible: bool
    """It cannot be had by starting any node that may still be started."""
    is_idle: bool
    """Nobody holds CPUs or GPUs, so nothing will become free."""
    starting: Mapping[str, int]
    """Node type to nodes that are asked for or on their way."""
    failures: tuple[str, ...] = ()
    """Why nodes could not be started."""


@dataclass(frozen=True)
class Wait:
    """Go on waiting; for what, in words."""

    told: str


@dataclass(frozen=True)
class Never:
    """It cannot come."""


def judge(view: View) -> Wait | Never:
    """What a look at the autoscaler means. Pure."""
    if view.is_infeasible and view.is_idle:
        return Never()
    if view.is_infeasible:
        return Wait("for others to give something back: no further node that the autoscaler may start is enough")
    failed = f"; {view.failures[-1]}" if view.failures else ""
    if view.starting:
        nodes = ", ".join(f"{count} × {kind}" for kind, count in sorted(view.starting.items()))
        return Wait(f"for nodes that are starting: {nodes}{failed}")
    return Wait(f"for the autoscaler to start nodes{failed}")


def bundles_of(cpus: float, gpus: float, cpus_each: float) -> list[dict[str, float]]:
    """What is wanted at once, in parts that each have to fit on one node: workers, or single CPUs where they may lie anywhere."""
    count = max(1, round(cpus / cpus_each) if cpus_each else math.ceil(max(cpus, gpus)))
    share = {"CPU": cpus / count, "GPU": gpus / count}
    return [{name: value for name, value in share.items() if value > 0}] * count


def is_on() -> bool:
    """Whether the cluster that this process is connected to has an autoscaler of the second version."""
    utils: Any = importlib.import_module("ray.autoscaler.v2.utils")
    return bool(utils.is_autoscaler_v2(fetch_from_server=True, gcs_client=_gcs()))


def wait_for(bundles: Sequence[Bundle], refusal: ClusterError) -> Topology:
    """Ask for what the cluster has no room for yet, and wait until it has.

    Args:
        bundles: What is wanted at once, in parts that each fit on one node.
        refusal: What a cluster without an autoscaler would have answered; raised if these can never come.

    Returns:
        The cluster with room for them.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    wanted = f"{len(bundles)} × {' and '.join(f'{value:g} {name}s' for name, value in bundles[0].items())}"
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    began = doubted = time.monotonic()
    told_at, told = float("-inf"), ""
    try:
        while not group.wait(_LOOK_S):
            now = time.monotonic()
            match judge(_look(group.id.hex())):
                case Never():
                    if now - doubted >= _SURE_S:
                        raise ClusterError(f"{refusal}; its autoscaler has no nodes to start that would be enough")
                case Wait(reason):
                    doubted = now
                    if reason != told or now - told_at >= _TELL_S:
                        told_at, told = now, reason
                        say(f"waiting {duration(now - began)} for {wanted}: {reason}")
        return topology_of(ray.nodes())
    finally:
        remove_placement_group(group)


def _look(group: str) -> View:
    import ray
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    try:
        reply = GetClusterStatusReply.FromString(_gcs().get_cluster_status(timeout_s=10))
    except ray.exceptions.RpcError as error:
        raise ClusterError(f"the cluster's autoscaler does not answer: {first_line(error)}") from None
    state = reply.autoscaling_state
    starting: Counter[str] = Counter(node.ray_node_type_name for node in state.pending_instances)
    for asked in state.pending_instance_requests:
        starting[asked.ray_node_type_name] += asked.count
    total, free = ray.cluster_resources(), ray.available_resources()
    return View(
        is_infeasible=any(group in request.details for request in state.infeasible_gang_resource_requests),
        is_idle=all(free.get(name, 0.0) >= total.get(name, 0.0) for name in ("CPU", "GPU")),
        starting=starting,
        failures=tuple(f"{failed.ray_node_type_name}: {failed.reason}" for failed in state.failed_instance_requests),
    )


def _gcs() -> Any:
    worker: Any = importlib.import_module("ray._private.worker")
    return worker.global_worker.gcs_client
