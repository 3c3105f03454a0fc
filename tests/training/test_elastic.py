"""What an elastic run counts as its own: the arithmetic of nodes, and the place in Ray Train where its policy comes in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from foundation.records import read_rows
from training.elastic import ElasticTrainer, LivingNodes, for_the_gang, held_by_others

CPU = {"CPU": 1.0}


def room(policy: LivingNodes, there: Mapping[str, Mapping[str, float]]) -> int:
    found: int = policy._count_possible_workers(there)
    return found


@pytest.fixture
def policy(tmp_path: Path) -> LivingNodes:
    return LivingNodes(ScalingConfig(num_workers=(1, 3), resources_per_worker=CPU), tmp_path / "metrics.jsonl")


def test_what_a_service_holds_is_not_the_runs_and_what_its_own_workers_hold_is(policy: LivingNodes) -> None:
    totals, free = {"a": {"CPU": 2.0}, "b": {"CPU": 1.0}}, {"a": {"CPU": 0.0}, "b": {"CPU": 1.0}}
    held = held_by_others(totals, free, {"a": 1}, CPU)
    assert held == {"a": {"CPU": 1.0}, "b": {"CPU": 0.0}}
    assert room(policy, for_the_gang(totals, held)) == 2


def test_a_node_that_is_gone_has_no_room_and_one_that_came_has(policy: LivingNodes) -> None:
    held = held_by_others({"a": CPU, "b": CPU}, {"a": {}, "b": {}}, {"a": 1, "b": 1}, CPU)
    assert room(policy, for_the_gang({"a": CPU}, held)) == 1
    assert room(policy, for_the_gang({"a": CPU, "b": CPU, "c": CPU, "d": CPU}, held)) == 3, "no more than the most"


def test_a_node_that_has_not_told_yet_what_is_free_counts_as_taken(policy: LivingNodes) -> None:
    assert room(policy, for_the_gang({"a": CPU}, held_by_others({"a": CPU}, {}, {}, CPU))) == 0


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=5), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_a_gang_that_fills_the_rest_is_counted_whole_whatever_the_fractions(nodes: list[tuple[int, int]], cpus_each: float) -> None:
    each = {"CPU": cpus_each}
    policy = LivingNodes(ScalingConfig(num_workers=(1, 1000), resources_per_worker=each), Path("never written"))
    totals = {str(number): {"CPU": workers * cpus_each + others} for number, (workers, others) in enumerate(nodes)}
    own = {str(number): workers for number, (workers, _) in enumerate(nodes)}
    held = held_by_others(totals, {node: {"CPU": 0.0} for node in totals}, own, each)
    assert room(policy, for_the_gang(totals, held)) == sum(own.values())


def test_a_run_waits_for_the_fewest_workers_says_so_in_its_record_and_begins_when_they_are_there(
    policy: LivingNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[str, dict[str, float]] = {}
    monkeypatch.setattr("training.elastic._nodes", lambda: (there, there))
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    for _ in range(3):
        assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert (row["event"], row["room"], row["least"]) == ("waiting", 0, 1)
    there |= {"a": {"CPU": 1.0}, "b": {"CPU": 1.0}}
    decision = policy.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == 2


def test_right_after_its_gang_has_ended_a_run_counts_what_others_held_while_it_ran(
    policy: LivingNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = {node: {"CPU": 1.0} for node in "abc"}
    free: dict[str, dict[str, float]] = {node: {"CPU": 0.0} for node in "abc"}
    monkeypatch.setattr("training.elastic._nodes", lambda: (totals, free))
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=node)) for node in "ab"]
    state: Any = SimpleNamespace(workers=workers, num_workers=2, start_time=0.0)
    policy.make_decision_for_running_worker_group(state, None)
    decision = policy.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == 2, "c is another's; a and b are not free yet, but ours"
    monkeypatch.setattr("training.elastic._REMEMBERED_S", 0.0)
    assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)


def test_for_another_size_the_workers_are_asked_to_leave_and_beside_a_node_that_goes_nothing_is_decided(
    policy: LivingNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = {"a": {"CPU": 1.0}}
    asked: list[Any] = []
    monkeypatch.setattr("training.elastic._nodes", lambda: (totals, {node: {"CPU": 0.0 if node == "a" else 1.0} for node in totals}))
    monkeypatch.setattr("training.elastic.ask_to_leave", asked.append)
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_latest_monitor_time", float("-inf"))
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_id="a"))]
    state: Any = SimpleNamespace(workers=workers, num_workers=1, start_time=float("-inf"))
    assert isinstance(policy.make_decision_for_running_worker_group(state, None), NoopDecision)
    assert asked == []
    policy._latest_monitor_time = float("-inf")
    totals["b"] = {"CPU": 1.0}
    assert isinstance(policy.make_decision_for_running_worker_group(state, None), NoopDecision)
    assert asked == [workers]
    policy._latest_monitor_time = float("-inf")
    del totals["a"]
    assert isinstance(policy.make_decision_for_running_worker_group(state, None), NoopDecision)
    assert asked == [workers]


def test_ray_train_takes_a_policy_where_ours_comes_in() -> None:
    source = inspect.getsource(DataParallelTrainer.fit)
    assert "self._initialize_and_run_controller(" in source
    assert "scaling_policy=create_scaling_policy(self.scaling_config)" in source
    assert "failure_policy=create_failure_policy(self.run_config.failure_config)" in source
    assert "callbacks=self._create_default_callbacks()" in source


def test_a_gang_starts_all_that_rays_own_would_but_an_actor_for_datasets(tmp_path: Path) -> None:
    given: dict[str, Any] = {"scaling_config": ScalingConfig(num_workers=1)}
    ours = ElasticTrainer(lambda: None, record=tmp_path / "metrics.jsonl", **given)
    rays = TorchTrainer(lambda: None, **given)
    started, theirs = ([type(callback) for callback in trainer._create_default_callbacks()] for trainer in (ours, rays))
    assert DatasetsCallback in theirs
    assert started == [kind for kind in theirs if kind is not DatasetsCallback]
