"""A rank that is slow step after step is told, once; one that is slow for once is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from training.straggler import BLOCK, FACTOR, IN_A_ROW, Paces, Straggler

LONG = BLOCK * IN_A_ROW


def told(steps: Iterable[Sequence[float]], ranks: int = 3) -> list[Straggler]:
    paces = Paces(ranks)
    return [found for seconds in steps if (found := paces.add(seconds)) is not None]


def test_a_rank_that_stays_slow_is_told_once_with_its_time_and_the_others() -> None:
    (found,) = told([(1.0, 1.2, 3.0)] * (3 * LONG))
    assert (found.rank, round(found.seconds, 6), round(found.others, 6)) == (2, 3.0, 1.1)


def test_a_pause_is_no_straggler_however_long() -> None:
    assert told([(1.0, 1.0, 1.0)] * 12 + [(500.0, 1.0, 1.0)] + [(1.0, 1.0, 1.0)] * LONG) == []


def test_a_rank_whose_pauses_come_again_and_again_is_one() -> None:
    # As one that shares its cores: most steps go well, of each ten some do not.
    steps = [(1.0, 4.0 if step % 4 == 0 else 1.0) for step in range(LONG)]
    assert [found.rank for found in told(steps, 2)] == [1]


def test_ranks_that_are_slow_in_turn_are_none() -> None:
    assert told([(3.0, 1.0) if (step // BLOCK) % 2 else (1.0, 3.0) for step in range(4 * LONG)], 2) == []


def test_another_rank_that_becomes_slow_later_is_told_too() -> None:
    assert [found.rank for found in told([(3.0, 1.0)] * LONG + [(1.0, 3.0)] * LONG, 2)] == [0, 1]


def test_one_rank_has_nobody_to_be_slower_than() -> None:
    assert told([(9.0,)] * LONG, 1) == []


def test_a_rank_is_not_slow_because_the_others_have_no_rows() -> None:
    assert told([(1.0, 0.0)] * LONG, 2) == []


@given(st.lists(st.lists(st.floats(1.0, 1.0 * FACTOR, exclude_max=True), min_size=4, max_size=4), max_size=2 * LONG))
def test_ranks_that_differ_by_less_than_the_factor_are_never_told(steps: list[list[float]]) -> None:
    assert told(steps, 4) == []
