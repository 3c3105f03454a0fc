"""A step's rows are divided among ranks and micro-batches without losing or repeating one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from training.division import Limits, microbatches_of_rank, microbatches_of_ranks

lengths_of_a_step = st.lists(st.integers(1, 512), min_size=1, max_size=70)
world_sizes = st.integers(1, 90)  # more ranks than rows as well
sizes = st.integers(1, 20)


@given(lengths_of_a_step, world_sizes, sizes)
def test_every_row_is_computed_once_and_every_rank_makes_as_many_passes(lengths: list[int], world_size: int, size: int) -> None:
    plans = [microbatches_of_rank(lengths, rank, world_size, Limits(10**6, size)) for rank in range(world_size)]
    computed = [member for plan in plans for micro in plan if micro.weight for member in micro.members]
    assert sorted(computed) == list(range(len(lengths)))
    assert len({len(plan) for plan in plans}) == 1
    shares = [sum(len(micro.members) for micro in plan if micro.weight) for plan in plans]
    assert max(shares) - min(shares) <= 1


@given(lengths_of_a_step, world_sizes, sizes)
def test_fillers_weigh_nothing_and_cost_the_least(lengths: list[int], world_size: int, size: int) -> None:
    for rank in range(world_size):
        for micro in microbatches_of_rank(lengths, rank, world_size, Limits(10**6, size)):
            assert 1 <= len(micro.members) <= size
            assert micro.weight in (0.0, 1.0)
            if not micro.weight:
                assert [lengths[member] for member in micro.members] == [min(lengths)]


@given(lengths_of_a_step, st.integers(1, 8))
def test_ranks_get_near_equal_work(lengths: list[int], world_size: int) -> None:
    plans = [microbatches_of_rank(lengths, rank, world_size, Limits(600)) for rank in range(world_size)]
    loads = [sum(lengths[member] for micro in plan if micro.weight for member in micro.members) for plan in plans]
    assert max(loads) - min(loads) <= max(lengths)


@given(lengths_of_a_step, world_sizes, st.integers(1, 2000), st.booleans())
def test_all_ranks_at_once_are_divided_like_each_alone(lengths: list[int], world_size: int, tokens: int, is_padded: bool) -> None:
    limits = Limits(tokens, None, is_padded)
    alone = [microbatches_of_rank(lengths, rank, world_size, limits) for rank in range(world_size)]
    assert microbatches_of_ranks(lengths, world_size, limits) == alone


def test_rows_of_like_length_are_computed_together() -> None:
    plan = microbatches_of_rank([3, 100, 2, 90, 1, 80], 0, 1, Limits(10**6, 3))
    assert [set(micro.members) for micro in plan] == [{1, 3, 5}, {0, 2, 4}]


@given(lengths_of_a_step, world_sizes, st.integers(1, 2000), st.booleans())
def test_micro_batches_keep_to_their_tokens_unless_one_row_has_more(
    lengths: list[int], world_size: int, tokens: int, is_padded: bool
) -> None:
    plans = [microbatches_of_rank(lengths, rank, world_size, Limits(tokens, None, is_padded)) for rank in range(world_size)]
    computed = [member for plan in plans for micro in plan if micro.weight for member in micro.members]
    assert sorted(computed) == list(range(len(lengths)))
    assert len({len(plan) for plan in plans}) == 1
    for micro in (micro for plan in plans for micro in plan):
        sizes = [lengths[member] for member in micro.members]
        assert len(sizes) == 1 or (max(sizes) * len(sizes) if is_padded else sum(sizes)) <= tokens


def test_micro_batches_of_a_rank_get_near_equal_work() -> None:
    plan = microbatches_of_rank([10] * 13, 0, 1, Limits(100))
    assert [len(micro.members) for micro in plan] == [7, 6]
