"""Whether a gang leaves a node that is about to go, and that this is no failure."""

from __future__ import annotations

from ray.train import FailureConfig
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import WorkerGroupError

from training.leaving import Leave, LeavingIsNoFailure, LeftError, Notice, Stay, decide


def test_it_leaves_when_there_is_time_for_a_checkpoint_twice_as_slow_as_the_last() -> None:
    notices = [Notice(1030.0, (1,)), Notice(1030.0, (1,))]
    assert decide(notices, now=1000.0, last_s=14.0) == Leave((1,), 30.0)
    assert decide(notices, now=1000.0, last_s=15.0) == Stay((1,), 30.0, 31.0)


def test_before_the_first_checkpoint_five_seconds_are_enough() -> None:
    assert decide([Notice(1005.0, (0,))], now=1000.0, last_s=None) == Leave((0,), 5.0)
    assert decide([Notice(1004.0, (0,))], now=1000.0, last_s=None) == Stay((0,), 4.0, 5.0)


def test_the_notices_of_several_nodes_count_together_and_not_every_rank_need_have_them() -> None:
    assert decide([None, Notice(1090.0, (2,)), Notice(1030.0, (0, 1))], now=1000.0, last_s=1.0) == Leave((0, 1, 2), 30.0)


def test_a_node_without_a_deadline_is_left_too() -> None:
    assert isinstance(decide([Notice(None, (0,))], now=1000.0, last_s=2.0), Leave)


def test_a_gang_that_left_has_not_failed_and_one_that_failed_has() -> None:
    policy = LeavingIsNoFailure(FailureConfig(max_failures=0))
    left = UserExceptionWithTraceback(LeftError("rank 1 is about to go"), "")
    for _ in range(3):
        assert policy.make_decision(WorkerGroupError("ended", {0: left, 1: left})) == FailureDecision.RETRY
    assert policy.make_decision(WorkerGroupError("ended", {0: ValueError("bad")})) == FailureDecision.RAISE
