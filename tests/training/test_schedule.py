"""The learning rate is a function of the step and of nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import ScheduleConfig
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


@given(
    steps=st.integers(1, 500),
    warmup=st.floats(0, 1),
    decay=st.sampled_from(["linear", "cosine", "constant"]),
    final=st.floats(0, 1),
)
def test_no_step_is_run_at_a_rate_of_nothing_or_above_the_peak(steps: int, warmup: float, decay: str, final: float) -> None:
    rates = curve(steps, peak_lr=1e-3, warmup_share=warmup, decay=decay, final_share=final)
    assert all(0 < rate <= 1e-3 * (1 + 1e-9) for rate in rates)
    peak = rates.index(max(rates))
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
