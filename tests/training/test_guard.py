"""The guard decides from losses alone, so that every rank and every resumed run decides alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.guard import Apply, Decision, GiveUp, Memory, Rescale, Skip, decide, farewell, objection, remember
from training.optimiser_config import GuardConfig

ROWS = ("a", "b")


def judged(losses: Sequence[float], limits: GuardConfig, memory: Memory | None = None) -> tuple[list[Decision], Memory]:
    """Decide on each loss in turn."""
    memory, decisions = memory or Memory(), []
    for loss in losses:
        decisions.append(decide(objection(loss, memory, limits), memory, limits, ROWS))
        memory = remember(memory, loss, decisions[-1], limits)
    return decisions, memory


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_skipped_at_once(loss: float) -> None:
    decisions, memory = judged([1.0, loss, 1.0], GuardConfig())
    assert decisions == [Apply(), Skip(f"the loss is {loss}", ROWS), Apply()]
    assert memory == Memory((), 0)


def test_spikes_are_not_looked_for_by_default() -> None:
    decisions, _ = judged([1.0] * 100 + [1e6], GuardConfig())
    assert set(decisions) == {Apply()}


def test_a_spike_is_measured_by_the_median_of_applied_steps_and_only_when_the_window_is_full() -> None:
    limits = GuardConfig(spike_factor=2, window=3)
    decisions, memory = judged([1.0, 50.0, 1.2, 2.5, 2.3], limits)
    assert [type(one) for one in decisions] == [Apply, Apply, Apply, Skip, Apply]
    assert memory.losses == (50.0, 1.2, 2.3)
    assert (
        objection(2.41, Memory((1.0, 50.0, 1.2)), limits)
        == "the loss is 2.41, more than 2 times 1.2, the median of the last 3 applied steps"
    )
    assert objection(2.40, Memory((1.0, 50.0, 1.2)), limits) is None
    assert objection(99.0, Memory((1.0, 1.2)), limits) is None


def test_a_skipped_loss_is_not_remembered_as_usual() -> None:
    decisions, memory = judged([1.0, 1.0, 1.0, 9.0, 9.0, 1.1], GuardConfig(spike_factor=2, window=3))
    assert [type(one) for one in decisions] == [Apply, Apply, Apply, Skip, Skip, Apply]
    assert memory == Memory((1.0, 1.0, 1.1), 0)


@pytest.mark.parametrize("before", [0, 2])
def test_an_overflow_that_lowers_the_loss_scale_is_neither_counted_nor_the_end(before: int) -> None:
    limits, memory = GuardConfig(stop_after=3), Memory(skipped_in_a_row=before)
    for _ in range(9):
        decision = decide("the gradient norm is inf", memory, limits, ROWS, is_rescaled=True)
        assert decision == Rescale("the gradient norm is inf", ROWS)
        memory = remember(memory, 1.0, decision, limits)
    assert memory == Memory(skipped_in_a_row=before)


def test_too_many_skips_in_a_row_end_the_run_and_an_applied_step_starts_the_count_again() -> None:
    bad = math.nan
    decisions, memory = judged([bad, bad, 1.0, bad, bad, bad], GuardConfig(stop_after=3))
    assert [type(one) for one in decisions] == [Skip, Skip, Apply, Skip, Skip, GiveUp]
    assert memory.skipped_in_a_row == 3


def test_the_farewell_names_step_reason_and_rows() -> None:
    said = farewell(17, GiveUp("the loss is nan", tuple(f"row-{number}" for number in range(60))), Memory((), 5))
    assert said.startswith("step 17: the loss is nan; 5 steps in a row could not be applied")
    assert "row-0, row-1, " in said
    assert "row-49 and 10 more" in said


@given(
    losses=st.lists(st.one_of(st.floats(0, 10), st.sampled_from([math.nan, math.inf])), max_size=60),
    factor=st.one_of(st.none(), st.floats(1.1, 4)),
    window=st.integers(2, 8),
    data=st.data(),
)
def test_what_is_remembered_is_all_that_a_resumed_run_needs(
    losses: list[float], factor: float | None, window: int, data: st.DataObject
) -> None:
    limits = GuardConfig(spike_factor=factor, window=window, stop_after=3)
    cut = data.draw(st.integers(0, len(losses)))
    whole, ended = judged(losses, limits)
    first, memory = judged(losses[:cut], limits)
    rest, resumed = judged(losses[cut:], limits, memory)
    assert first + rest == whole
    assert resumed == ended
    assert len(ended.losses) <= window
    assert all(math.isfinite(loss) for loss in ended.losses)
