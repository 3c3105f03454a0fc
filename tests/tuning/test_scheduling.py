"""A rule that was told a record decides as the one that made it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tuning.scheduler_config import HyperBandConfig, Scheduler
from tuning.scheduling import Rule

RULES = (
    {"kind": "none", "max_steps": 80},
    {"kind": "asha", "max_steps": 80, "grace_steps": 10, "reduction_factor": 2},
    {"kind": "asha", "max_steps": 60, "grace_steps": 10, "reduction_factor": 3},
    {"kind": "median_stop", "max_steps": 80, "grace_steps": 20, "least_trials": 1},
    {"kind": "hyperband", "max_steps": 90, "grace_steps": 10, "reduction_factor": 3},
)
PARSER: TypeAdapter[Scheduler] = TypeAdapter(Scheduler)


def run(rule: Rule, order: list[tuple[int, float]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reports of trials in an order, each ten steps after its last, until the rule stops it; appended to ``rows``."""
    for number, score in order:
        own = [row for row in rows if row["number"] == number]
        if own and not own[-1]["goes_on"]:
            continue
        step = 10 * (len(own) + 1)
        rows.append({"event": "report", "number": number, "step": step, "score": score, "goes_on": rule.goes_on(number, step, score)})
    return rows


orders = st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1, width=16)), max_size=40)


@given(rule=st.sampled_from(RULES), mode=st.sampled_from(["max", "min"]), order=orders, at=st.integers(0, 40))
def test_a_rule_that_is_told_the_record_goes_on_as_if_it_had_seen_it(
    rule: dict[str, Any], mode: str, order: list[tuple[int, float]], at: int
) -> None:
    config = PARSER.validate_python(rule)
    whole = run(Rule(config, mode), order, [])
    before = run(Rule(config, mode), order[:at], [])
    again = Rule(config, mode)
    again.replay([{"event": "trial", "number": 0}, *before])
    assert run(again, order[at:], before) == whole


@pytest.mark.parametrize(("mode", "stopped"), [("max", 1), ("min", 0)])
def test_of_two_trials_at_a_rung_the_worse_one_is_stopped(mode: str, stopped: int) -> None:
    rule = Rule(PARSER.validate_python(RULES[1]), mode)
    better_first = [(0, 0.9), (1, 0.1)] if stopped == 1 else [(1, 0.1), (0, 0.9)]
    assert [rule.goes_on(number, 10, score) for number, score in better_first] == [True, False]


def test_a_trial_below_the_median_of_the_others_is_stopped_and_none_is_paused() -> None:
    rule = Rule(PARSER.validate_python(RULES[3]), "max")
    assert [rule.goes_on(0, step, 0.8) for step in (10, 20, 30)] == [True, True, True]
    assert [rule.goes_on(1, step, 0.2) for step in (10, 20)] == [True, False]


def test_in_hyperband_a_trial_is_compared_with_those_of_its_bracket_from_that_ones_first_rung_on() -> None:
    config = PARSER.validate_python(RULES[4])
    assert isinstance(config, HyperBandConfig)
    early, late, last = ([number for number in range(40) if config.bracket_of(number) == bracket] for bracket in range(3))
    rule = Rule(config, "max")
    assert rule.goes_on(early[0], 10, 0.9)
    assert rule.goes_on(late[0], 10, 0.1), "its bracket's first rung is at 30"
    assert not rule.goes_on(early[1], 10, 0.1)
    assert [rule.goes_on(late[0], step, 0.1) for step in (20, 30)] == [True, True], "it is the first of its bracket"
    assert [rule.goes_on(late[1], step, 0.05) for step in (10, 20, 30)] == [True, True, False]
    assert [rule.goes_on(last[0], 10 * step, 0.0) for step in range(1, 10)] == [True] * 8 + [False], "to the end of its budget"
