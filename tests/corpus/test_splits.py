"""Who is in which split follows from seeds, classes and group keys; groups are never divided and no class is left without training rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.labels import memberships, strata_of
from corpus.splits import TEST, TRAIN, VALIDATION, Groups, Shares, assign, held_out, held_out_groups, marked_splits, require_whole_groups
from foundation.errors import DataError

SHARES = st.tuples(st.floats(0, 0.5), st.floats(0, 0.4)).map(lambda pair: Shares(*pair))


def grouped(keys: list[int], labels: list[int]) -> Groups:
    of_row = np.unique(np.array(keys, dtype=np.int64), return_inverse=True)[1].astype(np.int64)
    return Groups(of_row, *memberships(np.array(labels, dtype=np.int64)))


def draw(groups: Groups, shares: Shares, seed: int) -> np.ndarray:
    return held_out_groups(groups, np.ones(len(groups.of_row), dtype=np.bool_), shares, seed)


@given(groups=st.lists(st.integers(-1, 4), max_size=200), shares=SHARES, seed=st.integers(0, 99))
def test_every_class_gives_each_split_its_share_and_keeps_some(groups: list[int], shares: Shares, seed: int) -> None:
    strata = np.array(groups, dtype=np.int64)
    split = held_out(strata, shares, seed)
    for stratum, size in Counter(groups).items():
        counts = np.bincount(split[strata == stratum], minlength=3)
        assert counts[TRAIN] >= 1
        asked = [max(1, round(share * size)) if share and size >= 4 else 0 for share in shares]
        assert counts[VALIDATION] == min(asked[0], size - 1)
        assert counts[TEST] == (0 if stratum == -1 else min(asked[1], size - 1 - counts[VALIDATION]))
    assert np.array_equal(split, held_out(strata, shares, seed))


def test_asking_for_test_rows_leaves_the_validation_rows_where_they_were() -> None:
    strata = np.repeat(np.arange(5), 40)
    without, with_test = held_out(strata, Shares(0.1), 3), held_out(strata, Shares(0.1, 0.2), 3)
    assert np.array_equal(without == VALIDATION, with_test == VALIDATION)
    assert np.bincount(with_test).tolist() == [140, 20, 40]


@given(rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=300), shares=SHARES, seed=st.integers(0, 99))
def test_groups_are_never_divided_and_every_class_stays_in_train(rows: list[tuple[int, int]], shares: Shares, seed: int) -> None:
    keys, labels = map(list, zip(*rows, strict=True))
    groups = grouped(keys, labels)
    split = draw(groups, shares, seed)
    for group in np.unique(groups.of_row):
        assert len(np.unique(split[groups.of_row == group])) == 1
    assert set(np.array(labels)[split == TRAIN].tolist()) == set(labels)
    assert np.array_equal(split, draw(groups, shares, seed))


@given(sizes=st.lists(st.integers(1, 20), min_size=4, max_size=60), fraction=st.floats(0.05, 0.5), seed=st.integers(0, 99))
def test_of_one_class_the_share_is_missed_by_half_a_group_at_most(sizes: list[int], fraction: float, seed: int) -> None:
    keys = np.repeat(np.arange(len(sizes)), sizes).tolist()
    split = draw(grouped(keys, [0] * len(keys)), Shares(fraction), seed)
    wanted, taken = max(1, round(fraction * len(keys))), int((split == VALIDATION).sum())
    assert taken >= 1
    left = [sizes[group] for group in set(np.array(keys)[split == TRAIN].tolist())]
    # One group is taken in any case, the smallest one if none fits.
    assert abs(taken - wanted) <= min(left) / 2 or taken == min(sizes)


def test_many_small_groups_meet_the_share_exactly_and_other_seeds_draw_others() -> None:
    keys = np.repeat(np.arange(200), 3).tolist()
    groups = grouped(keys, [row % 7 for row in range(600)])
    first, second = draw(groups, Shares(0.1, 0.2), 0), draw(groups, Shares(0.1, 0.2), 1)
    assert np.bincount(first).tolist() == np.bincount(second).tolist() == [420, 60, 120]
    assert not np.array_equal(first, second)


def test_rows_that_are_marked_stay_and_only_a_missing_split_is_drawn() -> None:
    marked = np.array([TRAIN] * 80 + [TEST] * 20, dtype=np.int8)
    strata = np.arange(100) % 2
    split = assign(marked, strata, Shares(0.1, 0.5), 0)
    assert np.bincount(split).tolist() == [72, 8, 20]
    assert (split[80:] == TEST).all()
    told = np.array([TRAIN] * 70 + [VALIDATION] * 10 + [TEST] * 20, dtype=np.int8)
    assert np.array_equal(assign(told, strata, Shares(0.1, 0.5), 0), told)


def test_rows_without_a_group_are_drawn_by_class_beside_the_groups() -> None:
    of_row = np.array([0] * 10 + [1] * 10 + [2] * 10 + [3] * 10 + [-1] * 40)
    labels = np.arange(80) % 2
    split = assign(np.zeros(80, dtype=np.int8), labels, Shares(0.25), 0, Groups(of_row, *memberships(labels)))
    assert sorted(np.bincount(split[of_row == group], minlength=3).tolist() for group in range(4)) == [[0, 10, 0]] + [[10, 0, 0]] * 3
    assert np.bincount(labels[(split == VALIDATION) & (of_row < 0)]).tolist() == [5, 5]


def test_lists_are_drawn_by_their_rarest_class_and_numbers_by_their_tenth() -> None:
    flags = np.zeros((60, 3), dtype=np.bool_)
    flags[:, 0], flags[:10, 1], flags[:4, 2] = True, True, True
    flags[50:] = False
    assert strata_of(flags).tolist() == [2] * 4 + [1] * 6 + [0] * 40 + [3] * 10
    numbers = np.arange(100) / 7
    assert strata_of(numbers).tolist() == np.repeat(np.arange(10), 10).tolist()
    assert strata_of(np.ones(5)).tolist() == [9] * 5


def test_a_split_column_says_its_word_in_any_case_and_others_are_named_with_their_rows() -> None:
    ids = [f"a#{i}" for i in range(1, 7)]
    assert marked_splits(["train", "Val", "DEV ", "validation", "valid", "test"], ids, "a").tolist() == [0, 1, 1, 1, 1, 2]
    with pytest.raises(DataError, match=r"a: split column: found 'holdout', None in 2 rows \(a#2, a#3\); expected train, validation, val"):
        marked_splits(["train", "holdout", None, "test", "test", "test"], ids, "a")


def test_a_group_that_is_told_to_be_in_two_splits_is_refused() -> None:
    ids = [f"a#{i}" for i in range(5)]
    split = np.array([0, 0, 2, 2, 0], dtype=np.int8)
    require_whole_groups(split, np.array([0, 0, 1, 1, -1]), ids, "a")
    with pytest.raises(DataError, match="a: rows of one group are told to be in two splits, for example a#1 in train and a#2 in test"):
        require_whole_groups(split, np.array([0, 1, 1, 2, 2]), ids, "a")
