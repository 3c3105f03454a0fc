"""What a look at the autoscaler means."""

from __future__ import annotations

import pytest

from cluster.autoscaling import Never, View, Wait, bundles_of, judge


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        (View(True, True, {}), Never()),
        (
            View(True, False, {}),
            Wait("for others to give something back: no further node that the autoscaler may start is enough"),
        ),
        (View(False, True, {"gpu": 2, "cpu": 1}), Wait("for nodes that are starting: 1 × cpu, 2 × gpu")),
        (View(False, True, {}), Wait("for the autoscaler to start nodes")),
        (View(False, True, {}, ("gpu: no capacity",)), Wait("for the autoscaler to start nodes; gpu: no capacity")),
    ],
)
def test_what_can_never_come_is_told_apart_from_what_is_on_its_way(view: View, decision: Wait | Never) -> None:
    assert judge(view) == decision


def test_a_demand_is_asked_for_in_parts_that_each_fit_on_a_node() -> None:
    assert bundles_of(4, 2, 2) == [{"CPU": 2, "GPU": 1}] * 2
    assert bundles_of(0.9, 0, 0.3) == [{"CPU": pytest.approx(0.3)}] * 3
    assert bundles_of(2.5, 0, 0) == [{"CPU": pytest.approx(2.5 / 3)}] * 3
    assert bundles_of(0, 2, 0) == [{"GPU": 1}] * 2
