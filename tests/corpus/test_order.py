"""The order visits every row once an epoch, is the same whoever asks, and looks random."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.order import UniformOrder, order, rows_of_step

SEEDS = (0, 1, 2, 3, 4)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "order-and-masks.md"


@given(rows=st.integers(1, 3_000), seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 2**40))
def test_an_order_visits_every_row_exactly_once(rows: int, seed: int, epoch: int) -> None:
    visited = order(seed, epoch, rows)(np.arange(rows))
    assert np.array_equal(np.sort(visited), np.arange(rows))


@given(
    rows=st.integers(1, 200),
    rows_per_step=st.integers(1, 90),
    seed=st.integers(0, 9),
    start=st.integers(0, 50),
)
def test_steps_cover_each_epoch_once_and_can_start_anywhere(rows: int, rows_per_step: int, seed: int, start: int) -> None:
    steps = -(-3 * rows // rows_per_step) + 1
    asked = [rows_of_step(step, rows_per_step=rows_per_step, rows=rows, seed=seed) for step in range(steps)]
    epochs, visited = np.concatenate([s.epochs for s in asked]), np.concatenate([s.rows for s in asked])
    for epoch in range(3):
        assert np.array_equal(np.sort(visited[epochs == epoch]), np.arange(rows))
    again = rows_of_step(start % steps, rows_per_step=rows_per_step, rows=rows, seed=seed)
    assert np.array_equal(again.rows, asked[start % steps].rows)


@given(rows=st.integers(1, 300), group=st.integers(1, 64), parts=st.integers(1, 64), step=st.integers(0, 100))
def test_a_step_cut_among_any_number_of_workers_is_the_same_step(rows: int, group: int, parts: int, step: int) -> None:
    whole = rows_of_step(step, rows_per_step=group, rows=rows, seed=7)
    by_row = [rows_of_step(step * group + i, rows_per_step=1, rows=rows, seed=7) for i in range(group)]
    cut = np.array_split(np.concatenate([one.rows for one in by_row]), parts)
    assert np.array_equal(np.concatenate(cut), whole.rows)


@given(rows=st.integers(1, 100), seed=st.integers(0, 2**40), positions=st.lists(st.integers(0, 10**9), max_size=20))
def test_positions_are_found_one_by_one_in_any_order(rows: int, seed: int, positions: list[int]) -> None:
    found = UniformOrder(rows, seed).rows_at(positions)
    assert found.epochs.tolist() == [position // rows for position in positions]
    assert found.rows.tolist() == [int(order(seed, position // rows, rows)(position % rows)) for position in positions]


def test_epochs_and_seeds_differ() -> None:
    index = np.arange(1_000)
    orders = [order(seed, epoch, 1_000)(index) for seed in (0, 1) for epoch in (0, 1)]
    for first in range(4):
        for second in range(first):
            assert np.mean(orders[first] == orders[second]) < 0.02


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_even_the_smallest_orders_reach_every_permutation(rows: int) -> None:
    seen = {tuple(order(0, epoch, rows)(np.arange(rows))) for epoch in range(3_000)}
    assert len(seen) == {2: 2, 3: 6, 4: 24, 5: 120}[rows]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_huge_order_is_uniform_and_uncorrelated(seed: int) -> None:
    rows, asked, bins = 10**10, 10**6, 1_000
    visited = order(seed, 0, rows)(np.arange(asked))
    assert len(np.unique(visited)) == asked
    counts = np.bincount(visited // (rows // bins), minlength=bins)
    statistic = float(((counts - asked / bins) ** 2 / (asked / bins)).sum())
    # Wilson-Hilferty: the cube root of chi-square over its degrees of freedom is close to normal; 3.09 is p = 0.001 on each side.
    freedom = bins - 1
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5
    assert abs(z) < 3.09
    for lag in range(1, 11):
        assert abs(np.corrcoef(visited[:-lag], visited[lag:])[0, 1]) <= 4 / asked**0.5


def test_parts_of_equal_size_have_orders_of_their_own() -> None:
    index = np.arange(1_000)
    parts = [order(0, 0, 1_000, part=part)(index) for part in ("", "wiki", "books")]
    assert all(np.array_equal(np.sort(part), index) for part in parts)
    assert all(np.mean(parts[a] == parts[b]) < 0.02 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_the_page_about_the_order_shows_what_its_example_prints() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    promised = [line.partition("  # ")[2] for line in example.splitlines() if line.startswith("print(")]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, str(PAGE), "exec"), {})
    assert printed.getvalue().splitlines() == promised
    assert len(promised) == 4


def test_the_order_never_changes_between_versions() -> None:
    assert order(0, 0, 10)(np.arange(10)).tolist() == [8, 2, 5, 1, 3, 6, 9, 0, 7, 4]


def test_an_index_outside_the_rows_is_refused() -> None:
    with pytest.raises(IndexError, match="indices 0 to 9; asked for 3 to 10"):
        order(0, 0, 10)([3, 10])
    with pytest.raises(ValueError, match="rows is 0"):
        order(0, 0, 0)
    with pytest.raises(ValueError, match="rows is 0"):
        UniformOrder(0, 0)
