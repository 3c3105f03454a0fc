"""Weighted mixes keep their quotas and their balance, curricula their order, and both are found by index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.mixture import CurriculumOrder, Source, WeightedOrder, quotas
from corpus.order import order

seeds = st.integers(0, 2**40)
sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 80)), min_size=1, max_size=7).filter(lambda s: any(quota for _, quota in s))


def mix(sizes: list[tuple[int, int]], seed: int = 0) -> WeightedOrder:
    return WeightedOrder(tuple(Source(f"source-{i}", rows, quota) for i, (rows, quota) in enumerate(sizes)), seed)


def begins(sizes: list[tuple[int, int]]) -> list[int]:
    return [sum(rows for rows, _ in sizes[:number]) for number in range(len(sizes))]


@given(sizes=sizes, seed=seeds, epoch=st.integers(0, 10**6))
def test_an_epoch_holds_each_sources_quota_exactly(sizes: list[tuple[int, int]], seed: int, epoch: int) -> None:
    mixed = mix(sizes, seed)
    rows = mixed.rows_at(epoch * mixed.epoch_rows + np.arange(mixed.epoch_rows)).rows
    of_source = np.searchsorted(begins(sizes), rows, side="right") - 1
    assert np.bincount(of_source, minlength=len(sizes)).tolist() == [quota for _, quota in sizes]
    assert rows.max() < mixed.rows == sum(count for count, _ in sizes)


@given(sizes=sizes, seed=seeds)
def test_no_row_is_seen_again_before_all_of_its_source_were_seen(sizes: list[tuple[int, int]], seed: int) -> None:
    mixed = mix(sizes, seed)
    passes, rows, _ = mixed.rows_at(np.arange(4 * mixed.epoch_rows))
    for begin, (count, quota) in zip(begins(sizes), sizes, strict=True):
        inside = (rows >= begin) & (rows < begin + count)
        assert passes[inside].tolist() == [turn // count for turn in range(4 * quota)]
        for number in range(4 * quota // count):
            assert np.array_equal(np.sort(rows[inside & (passes == number)]), begin + np.arange(count))
    assert len(set(zip(passes.tolist(), rows.tolist(), strict=True))) == len(rows)


weights_of_all_shapes = st.one_of(
    st.lists(st.integers(0, 300), min_size=2, max_size=12),
    st.lists(st.integers(0, 11).map(lambda power: 2**power), min_size=2, max_size=8),
    st.lists(st.sampled_from([1, 1, 2, 90, 100, 110]), min_size=2, max_size=40),
).filter(any)


@given(parts=weights_of_all_shapes)
def test_every_prefix_of_an_epoch_holds_each_source_in_its_share(parts: list[int]) -> None:
    mixed = mix([(1, quota) for quota in parts])
    of_source = mixed.sources_at(np.arange(mixed.epoch_rows))
    position = np.arange(1, mixed.epoch_rows + 1)
    live = sum(quota > 0 for quota in parts)
    bound = {1: 0.0, 2: 0.5, 3: 1.0}.get(live, 1.68)
    for number, quota in enumerate(parts):
        off = np.abs(np.cumsum(of_source == number) - position * quota / mixed.epoch_rows)
        assert off.max() <= bound + 1e-9
        assert off[-1] < 1e-9


@given(quota=st.integers(1, 2**48), more=st.integers(0, 2**48), offset=st.integers(0, 2**49))
def test_epochs_too_large_for_products_of_64_bits_interleave_exactly(quota: int, more: int, offset: int) -> None:
    small, large = quota, quota + more
    whole = small + large
    places = [(offset + i) % whole for i in range(20)]
    # Halves up, in whole numbers of any size.
    expected = [(2 * (n + 1) * small + whole) // (2 * whole) == (2 * n * small + whole) // (2 * whole) for n in places]
    assert mix([(1, small), (1, large)]).sources_at(places).tolist() == expected


def test_a_source_keeps_its_order_when_another_one_joins() -> None:
    wiki, books, web = Source("wiki", 50, 30), Source("books", 20, 30), Source("web", 90, 60)
    alone = WeightedOrder((wiki, books), seed=4).rows_at(np.arange(60)).rows
    joined = WeightedOrder((wiki, books, web), seed=4).rows_at(np.arange(120)).rows
    assert alone[alone < 50].tolist() == joined[joined < 50].tolist()
    assert joined[joined < 50].tolist() == order(4, 0, 50, part="source wiki")(np.arange(30)).tolist()


def test_sources_of_equal_size_have_orders_of_their_own() -> None:
    rows = mix([(100, 100), (100, 100)]).rows_at(np.arange(200)).rows
    assert np.mean(rows[rows < 100] == rows[rows >= 100] - 100) < 0.1


@pytest.mark.parametrize("number", range(2))
def test_huge_sources_are_visited_evenly_and_without_correlation(number: int) -> None:
    count, asked, bins = 5 * 10**9, 200_000, 100
    mixed = WeightedOrder((Source("a", count, count), Source("b", count, 2 * count)), seed=1)
    rows = mixed.rows_at(np.arange(asked)).rows - number * count
    rows = rows[(rows >= 0) & (rows < count)]
    assert abs(len(rows) - asked * (number + 1) / 3) <= 1
    counts = np.bincount(rows // (count // bins), minlength=bins)
    freedom = bins - 1
    statistic = float(((counts - len(rows) / bins) ** 2 / (len(rows) / bins)).sum())
    # Wilson-Hilferty, as in test_order.py: p between 0.001 and 0.999.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5
    assert abs(z) < 3.09
    for lag in range(1, 11):
        assert abs(np.corrcoef(rows[:-lag], rows[lag:])[0, 1]) <= 4 / len(rows) ** 0.5


@given(buckets=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any), seed=seeds, epoch=st.integers(0, 10**6))
def test_a_curriculum_goes_through_its_buckets_in_order_and_every_row_once(buckets: list[int], seed: int, epoch: int) -> None:
    curriculum = CurriculumOrder(tuple(buckets), seed)
    epochs, rows, _ = curriculum.rows_at(epoch * curriculum.epoch_rows + np.arange(curriculum.epoch_rows))
    assert set(epochs.tolist()) == {epoch}
    begin = 0
    for size in buckets:
        assert np.array_equal(np.sort(rows[begin : begin + size]), begin + np.arange(size))
        begin += size
    assert begin == curriculum.rows == curriculum.epoch_rows


def test_a_curriculum_shuffles_within_buckets_and_anew_each_epoch() -> None:
    curriculum = CurriculumOrder((500, 500), seed=2)
    rows = curriculum.rows_at(np.arange(2_000)).rows
    drawn = [rows[begin : begin + 500] % 500 for begin in range(0, 2_000, 500)]
    for first in range(4):
        assert np.mean(drawn[first] == np.arange(500)) < 0.05
        for second in range(first):
            assert np.mean(drawn[first] == drawn[second]) < 0.05


def test_a_curriculum_of_billions_of_rows_costs_no_memory() -> None:
    curriculum = CurriculumOrder((10**10, 10**10), seed=0)
    epochs, rows, _ = curriculum.rows_at([0, 10**10 - 1, 10**10, 2 * 10**10])
    assert epochs.tolist() == [0, 0, 0, 1]
    assert (rows >= 10**10).tolist() == [False, False, True, False]


@given(weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=9).filter(lambda w: sum(w) > 1e-3), epoch_rows=st.integers(0, 10**12))
def test_quotas_are_the_weights_shares_to_the_row(weights: list[float], epoch_rows: int) -> None:
    found = quotas(weights, epoch_rows)
    assert sum(found) == epoch_rows
    for quota, weight in zip(found, weights, strict=True):
        assert abs(quota - epoch_rows * (weight / sum(weights))) < 1 + 1e-3


def test_mixes_and_curricula_never_change_between_versions() -> None:
    passes, rows, _ = mix([(4, 6), (5, 3), (3, 1)], seed=7).rows_at(np.arange(10))
    assert rows.tolist() == [3, 6, 0, 9, 2, 1, 8, 0, 4, 2]
    assert passes.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    assert CurriculumOrder((3, 5), seed=7).rows_at(np.arange(8)).rows.tolist() == [0, 2, 1, 6, 5, 3, 7, 4]


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match="named wiki, wiki; each needs a name of its own"):
        WeightedOrder((Source("wiki", 1, 1), Source("wiki", 2, 2)), 0)
    with pytest.raises(ValueError, match="source-0 has 0 rows and a quota of 5"):
        mix([(0, 5)])
    with pytest.raises(ValueError, match="add up to 0"):
        mix([(5, 0)])
    with pytest.raises(ValueError, match=r"buckets hold \[3, -1\] rows"):
        CurriculumOrder((3, -1), 0)
    with pytest.raises(ValueError, match="one must be positive"):
        quotas([0.0, 0.0], 5)
    with pytest.raises(IndexError, match="positions count from 0; asked for -1"):
        mix([(5, 5)]).rows_at([-1])
