"""The best trials with other seeds: which they are, and when one is worse than another."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tuning.config import RepeatConfig
from tuning.record import Report, Trial
from tuning.repeats import compare, wanted


def trial(number: int, score: float, *, seed: int | None = None, step: int = 30, cause: str | None = None) -> Trial:
    report = Report(step, score, {"steps": 30}, goes_on=step >= 30, time=0.0)
    return Trial(number, {}, reports=(report,), seed=seed, cause=cause)


def repeats(scores: dict[int, list[float]]) -> dict[tuple[int, int], Trial]:
    return {(number, seed): trial(number, score, seed=seed) for number, own in scores.items() for seed, score in enumerate(own, start=1)}


@pytest.mark.parametrize(("mode", "expected"), [("max", [3, 0]), ("min", [1, 0])])
def test_the_best_trials_are_trained_again_stopped_ones_too_but_none_that_failed(mode: str, expected: list[int]) -> None:
    trials = [trial(0, 0.7, step=10), trial(1, 0.5), trial(2, 0.9, cause="lost"), trial(3, 0.8)]
    asked = wanted(trials, RepeatConfig(top=2, seeds=3), mode, seed=4)
    assert [(found.number, seed) for found, seed in asked] == [(number, seed) for number in expected for seed in (5, 6, 7)]
    assert wanted(trials, None, mode, seed=4) == []


def test_the_best_mean_comes_first_and_one_that_is_always_worse_differs() -> None:
    best, other, worse = compare(repeats({0: [0.80, 0.81, 0.79], 1: [0.70, 0.71, 0.69], 2: [0.81, 0.79, 0.79]}), "max")
    assert [best.trial, other.trial, worse.trial] == [0, 2, 1]
    assert (best.differs, other.differs, worse.differs) == (None, False, True)
    assert (best.low, best.high) == pytest.approx(stats.t.interval(0.95, 2, loc=0.8, scale=stats.sem([0.80, 0.81, 0.79])))


def test_the_test_is_paired_by_seed() -> None:
    """Each seed is a tenth harder than the one before; the second trial is a hundredth worse at each, with a little noise."""
    paired = {0: [0.9, 0.8, 0.7, 0.6], 1: [0.889, 0.791, 0.69, 0.59]}
    _, other = compare(repeats(paired), "max")
    assert other.differs
    assert stats.ttest_ind(*paired.values()).pvalue > 0.5


def test_a_low_score_wins_where_low_is_good() -> None:
    first, second = compare(repeats({0: [2.0, 2.1], 1: [1.0, 1.1]}), "min")
    assert (first.trial, second.trial, second.differs) == (1, 0, True)


def test_one_score_has_no_interval_and_failures_are_left_out() -> None:
    found = repeats({0: [0.8], 1: [0.7, 0.6]}) | {(0, 2): trial(0, 0.9, seed=2, cause="lost"), (1, 3): trial(1, 0.9, seed=3, step=10)}
    alone, other = compare(found, "max")
    assert (alone.scores, alone.low, alone.high) == ({1: 0.8}, None, None)
    assert (other.scores, other.differs) == ({1: 0.7, 2: 0.6}, None)


scores = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(st.dictionaries(st.integers(0, 5), scores, max_size=4), st.sampled_from(["max", "min"]))
def test_any_scores_are_compared(found: dict[int, list[float]], mode: str) -> None:
    told = compare(repeats(found), mode)
    means = [item.mean for item in told]
    assert means == sorted(means, reverse=mode == "max")
    for item in told:
        assert item.low is None or (math.isfinite(item.low) and item.low <= item.mean + 1e-12)
