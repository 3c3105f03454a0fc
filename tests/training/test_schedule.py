"""The learning rate is a function of the step and of nothing else."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.optimiser_config import ScheduleConfig
from training.schedule import learning_rate


def curve(steps: int, **values: object) -> list[float]:
    config = ScheduleConfig.model_validate(values)
    return [learning_rate(step, steps=steps, config=config) for step in range(steps)]


def test_warm_up_rises_linearly_to_the_peak_and_the_decay_starts_there() -> None:
    rates = curve(100, peak_lr=1.0, warmup_share=0.1)
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 90)


def test_a_constant_rate_stays_and_a_cosine_is_half_way_down_in_the_middle() -> None:
    assert set(curve(20, peak_lr=0.3, warmup_share=0, decay="constant")) == {0.3}
    assert curve(20, peak_lr=0.3, warmup_share=0, decay="cosine")[10] == pytest.approx(0.15)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_rate_falls_towards_the_final_share_and_never_below_it(decay: str) -> None:
    rates = curve(1000, peak_lr=2.0, warmup_share=0, decay=decay, final_share=0.25)
    assert rates[-1] == pytest.approx(0.5, abs=3e-3)
    assert min(rates) >= 0.5


def test_warm_up_stable_decay_stays_at_the_peak_until_its_last_share() -> None:
    rates = curve(100, peak_lr=1.0, warmup_share=0.1, decay="wsd", decay_share=0.2, decay_shape="linear", final_share=0.5)
    assert rates[9:80] == [1.0] * 71
    assert rates[80] == 1.0
    assert rates[90] == pytest.approx(0.75)
    assert rates[99] == pytest.approx(0.5 + 0.5 / 20)
    steep = curve(100, peak_lr=1.0, warmup_share=0.1, decay="wsd", decay_share=0.2, decay_shape="one_minus_sqrt")
    assert steep[85] == pytest.approx(1 - (5 / 20) ** 0.5)
    assert steep[:81] == rates[:81]


def test_a_stable_phase_is_the_same_however_long_the_run_will_be_so_any_of_its_checkpoints_can_be_annealed() -> None:
    config = {"peak_lr": 1.0, "warmup_share": 0, "decay": "wsd", "decay_share": 0.1}
    short, long = curve(100, **config), curve(1000, **config)
    assert short[:90] == long[:90]


def test_phases_that_overlap_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"warmup_share is 0\.6 and decay_share 0\.5; together they are at most 1"):
        ScheduleConfig(warmup_share=0.6, decay="wsd", decay_share=0.5)
    ScheduleConfig(warmup_share=0.6, decay="linear", decay_share=0.5)


@st.composite
def configs(draw: st.DrawFn) -> ScheduleConfig:
    """Any schedule."""
    warmup = draw(st.floats(0, 1))
    decay = draw(st.sampled_from(["linear", "cosine", "constant", "wsd"]))
    share = draw(st.floats(0.01, max(0.01, 1 - warmup)))
    warmup = min(warmup, 1 - share)
    shape = draw(st.sampled_from(["linear", "one_minus_sqrt"]))
    tree = {"peak_lr": 1e-3, "warmup_share": warmup, "decay": decay, "decay_share": share, "decay_shape": shape}
    return ScheduleConfig.model_validate(tree | {"final_share": draw(st.floats(0, 1))})


@given(steps=st.integers(1, 500), config=configs())
def test_no_step_is_run_at_a_rate_of_nothing_or_above_the_peak(steps: int, config: ScheduleConfig) -> None:
    rates = [learning_rate(step, steps=steps, config=config) for step in range(steps)]
    assert all(0 < rate <= 1e-3 * (1 + 1e-9) for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if config.decay != "constant":
        assert min(rates[peak:]) >= 1e-3 * config.final_share * (1 - 1e-9)


@given(steps=st.integers(2, 500), config=configs())
def test_the_rate_never_jumps(steps: int, config: ScheduleConfig) -> None:
    """No change between steps is larger than the steepest slope of its phase allows: the pieces meet."""
    rates = [learning_rate(step, steps=steps, config=config) for step in range(steps)]
    warmup = round(config.warmup_share * steps)
    falling = max(1, round(config.decay_share * steps)) if config.decay == "wsd" else max(1, steps - warmup)
    is_steep = config.decay == "wsd" and config.decay_shape == "one_minus_sqrt"
    slopes = (falling**-0.5) if is_steep else math.pi / 2 / falling
    for step, (before, after) in enumerate(pairwise(rates)):
        steepest = 1 / warmup if step + 1 < warmup else slopes
        assert abs(after - before) <= 1e-3 * steepest * (1 + 1e-6)


@given(steps=st.integers(1, 200), config=configs(), data=st.data())
def test_a_resumed_run_has_the_rates_of_the_whole_one(steps: int, config: ScheduleConfig, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, steps - 1))
    whole = [learning_rate(step, steps=steps, config=config) for step in range(steps)]
    resumed = [learning_rate(step, steps=steps, config=ScheduleConfig(**config.model_dump())) for step in range(start, steps)]
    assert resumed == whole[start:]
