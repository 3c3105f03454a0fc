"""Which rows a step holds follows from the step's number: under any batch warm-up, in any order, for any number of workers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.masks import mask_row
from corpus.mixture import CurriculumOrder, Source, WeightedOrder
from corpus.order import RowOrder, UniformOrder, rows_of_step
from corpus.positions import BatchSchedule, BatchStage, constant, linear_ramp, position, rows_per_step_at, step_of, step_rows

seeds = st.integers(0, 2**40)


@st.composite
def schedules(draw: st.DrawFn) -> BatchSchedule:
    lengths = draw(st.lists(st.integers(1, 7), max_size=4))
    begins = [0, *itertools.accumulate(lengths)]
    return BatchSchedule(tuple(BatchStage(begin, draw(st.integers(1, 50))) for begin in begins))


@st.composite
def weighted(draw: st.DrawFn) -> WeightedOrder:
    sizes = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=5))
    return WeightedOrder(tuple(Source(f"s{i}", rows, quota) for i, (rows, quota) in enumerate(sizes)), draw(seeds))


uniform = st.builds(UniformOrder, rows=st.integers(1, 200), seed=seeds)
curricula = st.builds(CurriculumOrder, buckets=st.lists(st.integers(1, 60), min_size=1, max_size=5).map(tuple), seed=seeds)
orders = st.one_of(uniform, weighted(), curricula)


@given(schedule=schedules())
def test_a_steps_position_is_the_rows_of_all_steps_before(schedule: BatchSchedule) -> None:
    consumed = 0
    for step in range(40):
        size = rows_per_step_at(step, schedule)
        assert position(step, schedule) == consumed
        assert step_of(consumed, schedule) == step_of(consumed + size - 1, schedule) == step
        consumed += size


def test_positions_need_no_loop_over_the_steps() -> None:
    schedule = BatchSchedule((BatchStage(0, 3), BatchStage(10**12, 7)))
    assert position(2 * 10**12, schedule) == 10 * 10**12
    assert step_of(10**13 - 1, schedule) == 2 * 10**12 - 1


@given(first=st.integers(1, 40), more=st.integers(0, 200), increment=st.integers(1, 60), over_rows=st.integers(0, 5_000))
def test_a_ramp_grows_by_its_increment_and_ends_with_its_rows(first: int, more: int, increment: int, over_rows: int) -> None:
    last = first + more
    schedule = linear_ramp(first, last, increment=increment, over_rows=over_rows)
    sizes = [stage.rows_per_step for stage in schedule.stages]
    assert sizes == sorted(set(sizes))
    assert set(sizes) <= {*range(first, last, increment), last}
    assert sizes[-1] == last
    if first < last:
        # The last stage begins with the step after the one that reaches over_rows.
        late = position(schedule.stages[-1].from_step, schedule) - over_rows
        assert 0 <= late < max(sizes[:-1], default=1)


def test_a_ramp_holds_each_size_for_an_equal_part_of_its_rows() -> None:
    # 256, 384, …, 896 rows a step over 600,000 rows: 100,000 each, up to the end of a step.
    schedule = linear_ramp(256, 1_024, increment=128, over_rows=600_000)
    assert [stage.rows_per_step for stage in schedule.stages] == [256, 384, 512, 640, 768, 896, 1_024]
    parts = np.array(schedule.positions)
    assert np.all(parts - np.arange(7) * 100_000 < [1, 256, 384, 512, 640, 768, 896])
    assert np.all(parts >= np.arange(7) * 100_000)


@given(order=orders, schedule=schedules(), restart=st.integers(0, 14))
def test_a_run_resumed_at_any_step_goes_on_as_if_it_had_never_stopped(order: RowOrder, schedule: BatchSchedule, restart: int) -> None:
    whole = order.rows_at(np.arange(position(15, schedule)))
    resumed = [step_rows(step, order, schedule) for step in range(restart, 15)]
    begin = position(restart, schedule)
    assert np.array_equal(np.concatenate([step.rows for step in resumed]), whole.rows[begin:])
    assert np.array_equal(np.concatenate([step.epochs for step in resumed]), whole.epochs[begin:])


@given(order=st.one_of(uniform, curricula), schedule=schedules())
def test_every_row_is_visited_exactly_once_an_epoch_under_any_ramp(order: RowOrder, schedule: BatchSchedule) -> None:
    steps = step_of(2 * order.epoch_rows - 1, schedule) + 1
    asked = [step_rows(step, order, schedule) for step in range(steps)]
    epochs, rows = np.concatenate([s.epochs for s in asked]), np.concatenate([s.rows for s in asked])
    for epoch in range(2):
        assert np.array_equal(np.sort(rows[epochs == epoch]), np.arange(order.rows))


@given(order=orders, schedule=schedules(), step=st.integers(0, 30), world_size=st.integers(1, 64), microbatch=st.integers(1, 9))
def test_a_step_has_the_same_rows_and_masks_for_any_world_size(
    order: RowOrder, schedule: BatchSchedule, step: int, world_size: int, microbatch: int
) -> None:
    begin, size = position(step, schedule), rows_per_step_at(step, schedule)
    whole = step_rows(step, order, schedule)
    expected = {member: masked_positions(int(whole.epochs[member]), int(whole.rows[member])) for member in range(size)}
    found = {}
    for rank in range(world_size):
        mine = np.arange(size)[rank::world_size]
        for start in range(0, len(mine), microbatch):
            members = mine[start : start + microbatch]
            # Each micro-batch finds its rows by itself, from their positions alone.
            epochs, rows, _ = order.rows_at(begin + members)
            assert np.array_equal(rows, whole.rows[members])
            for member, epoch, row in zip(members.tolist(), epochs.tolist(), rows.tolist(), strict=True):
                assert member not in found
                found[member] = masked_positions(epoch, row)
    assert found == expected


@given(rows=st.integers(1, 300), rows_per_step=st.integers(1, 90), step=st.integers(0, 40), seed=seeds)
def test_a_constant_batch_in_a_uniform_order_is_the_plain_step(rows: int, rows_per_step: int, step: int, seed: int) -> None:
    plain = rows_of_step(step, rows_per_step=rows_per_step, rows=rows, seed=seed)
    planned = step_rows(step, UniformOrder(rows, seed), constant(rows_per_step))
    assert np.array_equal(plain.rows, planned.rows)
    assert np.array_equal(plain.epochs, planned.epochs)


def test_what_cannot_be_a_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"begin at steps \[1\]; the first begins at 0"):
        BatchSchedule((BatchStage(1, 8),))
    with pytest.raises(ValueError, match=r"begin at steps \[0, 5, 5\]"):
        BatchSchedule((BatchStage(0, 8), BatchStage(5, 9), BatchStage(5, 10)))
    with pytest.raises(ValueError, match="from step 4 on is 0 rows"):
        BatchSchedule((BatchStage(0, 8), BatchStage(4, 0)))
    with pytest.raises(ValueError, match="a ramp from 9 to 8"):
        linear_ramp(9, 8, increment=1, over_rows=100)
    with pytest.raises(ValueError, match="steps count from 0; asked for -1"):
        position(-1, constant(8))
    with pytest.raises(ValueError, match="positions count from 0; asked for -1"):
        step_of(-1, constant(8))
    with pytest.raises(IndexError, match="positions count from 0; asked for -3"):
        UniformOrder(10, 0).rows_at([2, -3])


def masked_positions(epoch: int, row: int) -> tuple[int, ...]:
    ids = np.full(12, 500, dtype=np.int32)
    found = mask_row(ids, ids > 0, share=0.4, seed=3, epoch=epoch, row=row, mask_id=103, vocabulary=1_000)
    return (*found.positions.tolist(), *found.ids.tolist())
