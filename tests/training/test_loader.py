"""The loader makes ahead what the loop would have made itself, keeps within its depth, and leaves no thread behind."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corpus.mixture import CurriculumOrder
from corpus.positions import constant
from tests.support.tiny import make_encoder, make_packed
from training.assembly import assemble, loop_arguments, torch_engine
from training.config import PretrainConfig
from training.division import Limits
from training.hardware import Hardware, decide
from training.loader import THREAD_NAME, StepBatches, prefetched, step_batches
from training.loop import StepReport, Stop, train


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@given(count=st.integers(0, 12), ahead=st.integers(0, 15), asked=st.integers(0, 12))
def test_results_come_in_order_and_never_more_than_the_depth_ahead(count: int, ahead: int, asked: int) -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    found = []
    with closing(prefetched(make, range(count), ahead=ahead)) as results:
        for taken, result in enumerate(results, start=1):
            found.append(result)
            assert len(made) <= taken + ahead
            if taken >= asked:
                break
    assert found == [number * number for number in range(count)][: max(asked, 1)]
    assert made == list(range(len(made)))
    assert not loaders()


def test_the_next_results_are_made_while_the_caller_is_busy_with_this_one() -> None:
    is_made = [threading.Event() for _ in range(5)]
    with closing(prefetched(lambda number: is_made[number].set(), range(5), ahead=2)) as results:
        next(results)
        assert is_made[1].wait(30)
        assert is_made[2].wait(30)
        assert not is_made[3].is_set()


def test_without_depth_there_is_no_thread() -> None:
    with closing(prefetched(lambda _: threading.current_thread(), range(3), ahead=0)) as results:
        assert list(results) == [threading.current_thread()] * 3


def test_a_negative_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="ahead is -1"):
        next(prefetched(str, [1], ahead=-1))


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
def test_an_error_is_raised_at_the_step_it_belongs_to(ahead: int) -> None:
    def make(number: int) -> int:
        if number == 4:
            raise OSError("row 4 cannot be read")
        return number

    found = []
    with pytest.raises(OSError, match="row 4"), closing(prefetched(make, range(9), ahead=ahead)) as results:
        found.extend(results)
    assert found == [0, 1, 2, 3]
    assert not loaders()


class Pretraining:
    """A tiny pretraining with dropout, a batch ramp and a share of masks that falls."""

    def __init__(self, folder: Path) -> None:
        self.encoder = make_encoder(folder / "encoder")
        self.tree: dict[str, Any] = {
            "data": str(make_packed(folder / "packed", self.encoder)),
            "encoder": str(self.encoder),
            "steps": 6,
            "rows_per_step": 7,
            "rows_per_microbatch": 3,
            "dropout": 0.2,
            "batch_ramp": {"first_rows": 3, "increment": 2, "over_rows": 10},
            "masking": {"final_share": 0.3},
            "schedule": {"peak_lr": 1e-2},
        }

        self.in_buckets = str(make_packed(folder / "in_buckets", self.encoder, length_buckets=[12, 16]))

    def run(self, prefetch_steps: int, **more: Any) -> tuple[list[StepReport], dict[str, torch.Tensor]]:
        recipe = PretrainConfig.model_validate(self.tree | {"prefetch_steps": prefetch_steps})
        assembly = assemble(recipe, str(self.encoder))
        engine = torch_engine(assembly, recipe, decide(Hardware(), recipe), device=torch.device("cpu"), checkpoint=None)
        arguments = loop_arguments(recipe, recipe.steps, "runs") | {"steps": recipe.steps, "order": assembly.order} | more
        assert arguments["prefetch_steps"] == prefetch_steps
        return list(train(engine, assembly.objective, **arguments)), dict(engine.model.state_dict())


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> Pretraining:
    return Pretraining(tmp_path_factory.mktemp("loader"))


def compared(reports: list[StepReport]) -> list[tuple[Any, ...]]:
    return [(r.step, r.loss, r.grad_norm, r.learning_rate, r.tokens, r.row_ids) for r in reports]


@pytest.mark.slow
def test_a_run_with_the_loader_equals_one_without_bit_for_bit(pretraining: Pretraining) -> None:
    plain_reports, plain_weights = pretraining.run(0)
    for prefetch_steps in (1, 3):
        reports, weights = pretraining.run(prefetch_steps)
        assert compared(reports) == compared(plain_reports)
        assert all(torch.equal(tensor, plain_weights[name]) for name, tensor in weights.items())
    assert len({len(report.row_ids) for report in plain_reports}) == 3  # the ramp's sizes
    assert all(0 < report.loader_seconds < report.seconds for report in plain_reports)
    assert not loaders()


def test_a_run_that_starts_later_is_loaded_from_its_own_step(pretraining: Pretraining) -> None:
    whole, _ = pretraining.run(2)
    tail, _ = pretraining.run(2, start_step=4, optimiser_steps=4)
    assert [report.row_ids for report in tail] == [report.row_ids for report in whole[4:]]


@pytest.mark.slow
def test_early_stops_and_interrupts_leave_no_thread(pretraining: Pretraining) -> None:
    def stop(report: StepReport) -> Stop | None:
        return Stop("enough") if report.step == 1 else None

    def interrupt(report: StepReport) -> None:
        if report.step == 1:
            assert loaders()
            raise KeyboardInterrupt

    reports, _ = pretraining.run(3, hooks=[stop])
    assert [report.step for report in reports] == [0, 1]
    assert not loaders()
    # The traceback that pytest holds keeps the loop's frame: the thread must not wait for it.
    with pytest.raises(KeyboardInterrupt):
        pretraining.run(3, hooks=[interrupt])
    assert not loaders()


def test_a_curriculum_makes_batches_of_short_rows_first(pretraining: Pretraining) -> None:
    recipe = PretrainConfig.model_validate(pretraining.tree | {"data": pretraining.in_buckets, "curriculum": "short_first"})
    assembly = assemble(recipe, str(pretraining.encoder))
    order = assembly.order
    assert isinstance(order, CurriculumOrder)
    assert order.buckets[0] >= 4
    steps = order.rows // 4
    widths = []
    for step in range(steps):
        ready = step_batches(step, assembly.objective, order, constant(4), rank=0, world_size=1, limits=Limits(512, 4))
        widths.append(len(ready.batches[0]["documents"].ids_N) // 4)
    assert widths[0] <= 12
    assert widths[-1] > 12
    assert widths[: order.buckets[0] // 4] == sorted(widths)[: order.buckets[0] // 4]


def test_what_is_made_is_the_ranks_share_alone(pretraining: Pretraining) -> None:
    recipe = PretrainConfig.model_validate(pretraining.tree)
    assembly = assemble(recipe, str(pretraining.encoder))
    order, schedule = assembly.order, loop_arguments(recipe, recipe.steps, "runs")["batches"]
    assert order is not None

    def ready(rank: int, world_size: int) -> StepBatches:
        return step_batches(5, assembly.objective, order, schedule, rank=rank, world_size=world_size, limits=Limits(512, 2))

    alone = ready(0, 1)
    for world_size in (2, 3, 9):
        ranks = [ready(rank, world_size) for rank in range(world_size)]
        assert {(found.count, found.tokens) for found in ranks} == {(alone.count, alone.tokens)}
        assert len({len(found.batches) for found in ranks}) == 1  # as many backward passes on every rank
        assert sorted(row for found in ranks for row in found.row_ids) == sorted(alone.row_ids)
        masked = sum(len(batch["labels"]) for found in ranks for batch in found.batches if batch["weight"])
        assert masked == alone.count
