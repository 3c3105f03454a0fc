"""The batch planner, for any queue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.batching import Limits, Waiting, padded_cost, plan

lengths = st.integers(1, 600)
limits_ = st.builds(
    Limits, max_batch_tokens=st.integers(1, 4000), max_batch_rows=st.integers(1, 40), max_wait_s=st.sampled_from([0.0, 0.01])
)
rows = st.builds(
    Waiting,
    tokens=lengths,
    arrived_s=st.floats(0, 10),
    deadline_s=st.none() | st.floats(0, 20),
    is_cancelled=st.booleans(),
)
queues = st.lists(rows, max_size=60).map(lambda found: sorted(found, key=lambda row: row.arrived_s))


@given(queues, st.floats(0, 30), limits_)
def test_a_batch_keeps_its_limits_unless_one_row_alone_is_over_them(queue: list[Waiting], now_s: float, limits: Limits) -> None:
    chosen = [queue[index].tokens for index in plan(queue, now_s, limits).take]
    assert len(chosen) <= limits.max_batch_rows
    assert padded_cost(chosen) <= limits.max_batch_tokens or len(chosen) == 1


@given(queues, st.floats(0, 30), limits_)
def test_expired_and_cancelled_rows_leave_and_never_run(queue: list[Waiting], now_s: float, limits: Limits) -> None:
    decision = plan(queue, now_s, limits)
    gone = {index for index, row in enumerate(queue) if row.is_cancelled or (row.deadline_s is not None and row.deadline_s <= now_s)}
    assert set(decision.drop) == gone
    assert not gone & set(decision.take)


@given(queues, st.floats(0, 30), limits_)
def test_the_oldest_live_row_is_in_every_batch(queue: list[Waiting], now_s: float, limits: Limits) -> None:
    decision = plan(queue, now_s, limits)
    live = [index for index in range(len(queue)) if index not in decision.drop]
    if decision.take:
        assert live[0] in decision.take
    assert bool(decision.take or decision.wait_s is not None) == bool(live)


@given(st.lists(lengths, min_size=1, max_size=80), limits_)
def test_a_row_with_k_rows_before_it_runs_within_k_plus_one_batches(waiting: list[int], limits: Limits) -> None:
    queue = [(place, Waiting(tokens, 0.0)) for place, tokens in enumerate(waiting)]
    batches = 0
    while queue:
        batches += 1
        taken = plan([row for _, row in queue], 1.0, limits).take
        for index in taken:
            assert batches <= queue[index][0] + 1
        queue = [item for index, item in enumerate(queue) if index not in taken]


@given(st.lists(lengths, min_size=1, max_size=80), limits_)
def test_a_row_beyond_the_lookahead_never_overtakes(waiting: list[int], limits: Limits) -> None:
    taken = plan([Waiting(tokens, 0.0) for tokens in waiting], 1.0, limits).take
    assert max(taken) < 8 * limits.max_batch_rows


@given(queues, st.floats(0, 30), limits_)
def test_the_plan_is_a_function_of_its_arguments(queue: list[Waiting], now_s: float, limits: Limits) -> None:
    assert plan(queue, now_s, limits) == plan(list(queue), now_s, limits)


def test_rows_of_one_length_run_together_and_a_long_one_waits_its_turn() -> None:
    queue = [Waiting(tokens, 0.0) for tokens in (10, 500, 11, 490, 9, 12)]
    limits = Limits(max_batch_tokens=1024, max_batch_rows=8)
    assert plan(queue, 0.0, limits).take == (0, 2, 4, 5)
    assert plan([queue[1], queue[3]], 0.0, limits).take == (0, 1)


def test_an_idle_model_waits_for_company_only_as_long_as_it_was_told() -> None:
    limits = Limits(max_batch_tokens=1024, max_batch_rows=4, max_wait_s=0.01)
    assert plan([Waiting(5, 1.0)], 1.004, limits).wait_s is not None
    assert plan([Waiting(5, 1.0)], 1.01, limits).take == (0,)
    assert plan([Waiting(5, 1.0)] * 4, 1.0, limits).take == (0, 1, 2, 3)


def test_nothing_waits_nothing_runs() -> None:
    decision = plan([], 0.0, Limits(max_batch_tokens=10, max_batch_rows=1))
    assert (decision.take, decision.drop, decision.wait_s) == ((), (), None)
