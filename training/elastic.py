"""How many workers an elastic run can have: a policy for Ray Train's controller, from what the cluster's nodes can give at this moment.

Ray's own policy reserves from nodes' totals, in a view that is up to twenty seconds old: it waits for a node that is gone, and counts CPUs
that a service holds as free, so that beside one a run would start, wait for them in vain and start again without end.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision, ScalingDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState

from foundation.records import Recorder
from training.leaving import LeavingIsNoFailure, ask_to_leave

Resources = Mapping[str, float]
_REMEMBERED_S = 10.0
"""So long after a gang has ended, its resources may not be free yet, so what others hold is taken from before."""
_TELL_S = 30.0
# Ray's sums of resources are floats.
_SMALL = 1e-6


def held_by_others(
    totals: Mapping[str, Resources], free: Mapping[str, Resources], own: Mapping[str, int], each: Resources
) -> dict[str, Resources]:
    """What neither is free nor belongs to the gang, by node.

    Args:
        totals: Resources of the living nodes.
        free: Those that nobody has; a node that is not in it has told nothing yet, and counts as held.
        own: Workers of the gang, by node.
        each: Resources of one of them.
    """
    return {
        node: {
            name: max(0.0, total - free.get(node, {}).get(name, 0.0) - own.get(node, 0) * each.get(name, 0.0))
            for name, total in given.items()
        }
        for node, given in totals.items()
    }


def for_the_gang(totals: Mapping[str, Resources], held: Mapping[str, Resources]) -> dict[str, dict[str, float]]:
    """What each living node has beside what others hold."""
    return {
        node: {name: total - held.get(node, {}).get(name, 0.0) + _SMALL for name, total in given.items()} for node, given in totals.items()
    }


class LivingNodes(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's elastic policy with another source of what there is. A wait for the fewest workers is a row of the run's record."""

    def __init__(self, scaling_config: Any, record: Path) -> None:
        super().__init__(scaling_config)
        self._record = record
        self._told_at = float("-inf")
        self._own: Counter[str] = Counter()
        self._held: dict[str, Resources] = {}
        self._ran_at = float("-inf")

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """As Ray's, but a gang that is to have another size leaves by itself; besides, remembers what others hold."""
        self._own = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        self._ran_at = time.monotonic()
        totals, free = _nodes()
        self._held = held_by_others(totals, free, self._own, self._each)
        if self._own.keys() - totals.keys():
            return NoopDecision()  # of a node that is going the workers hear from Ray
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision):
            ask_to_leave(worker_group_state.workers)
            return NoopDecision()
        return decision

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """As Ray's; besides, tells that the run waits."""
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision) and time.monotonic() - self._told_at >= _TELL_S:
            self._told_at = time.monotonic()
            recorder = Recorder(self._record)  # nobody else writes while no worker runs
            room = self._count_possible_workers(self._get_reserved_resources())
            recorder.write("waiting", room=room, least=self.scaling_config.min_workers)
            recorder.close()
        return decision

    def _get_reserved_resources(self) -> Any:
        totals, free = _nodes()
        is_recent = time.monotonic() - self._ran_at < _REMEMBERED_S
        return for_the_gang(totals, self._held if is_recent else held_by_others(totals, free, {}, self._each))

    @property
    def _each(self) -> Resources:
        each: Resources = self.scaling_config._resources_per_worker_not_none
        return each


class ElasticTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer with that policy and ours for failures, and without what serves Ray's datasets; it has no public place for these."""

    def __init__(self, *given: Any, record: Path, **named: Any) -> None:
        """``record``: the run's, where the policy tells of waits."""
        super().__init__(*given, **named)
        self._record, self._thread = record, 0

    def _create_default_callbacks(self) -> list[Any]:
        # That for datasets starts an actor for each gang, which waits for it; ours are not Ray's.
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, DatasetsCallback)]

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            given["scaling_policy"] = LivingNodes(self.scaling_config, self._record)
        given["failure_policy"] = LeavingIsNoFailure(self.run_config.failure_config)
        self._thread = threading.get_ident()
        return super()._initialize_and_run_controller(**given)

    def end(self) -> None:
        """Kill the controller, from another thread than the one that waits for it; its workers go with it."""
        import ray

        # Ray keeps it nowhere but there.
        frame = sys._current_frames().get(self._thread)
        while frame is not None:
            if isinstance(controller := frame.f_locals.get("controller"), ray.actor.ActorHandle):
                with contextlib.suppress(ray.exceptions.RayError, ValueError):  # it has ended, or Ray is out of reach
                    ray.kill(controller)
                return
            frame = frame.f_back


def _nodes() -> tuple[dict[str, Resources], dict[str, Resources]]:
    """Totals of the living nodes that are not about to go, and what of them nobody has."""
    import ray
    from ray._private.state import available_resources_per_node, state

    going = state.get_draining_nodes()
    totals = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going}
    return totals, available_resources_per_node()
