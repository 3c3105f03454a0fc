"""The loop alone: an engine that only keeps a diary, and an objective of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from corpus.order import StepRows, rows_of_step
from training.division import Limits
from training.guard import Apply, GiveUp, GuardError, Skip
from training.loop import Applied, Hook, StepReport, Stop, every, noise_seed, train
from training.optimiser_config import GuardConfig


class ScriptedEngine:
    """Sums what it is given, skips the steps it is told to, says that it lost where it is told to, and writes down every call."""

    def __init__(self, rank: int = 0, world_size: int = 1, skips: Sequence[int] = (), losses: Mapping[int, float] | None = None) -> None:
        self.rank, self.world_size = rank, world_size
        self._losses, self._totals, self.begun = losses or {}, 0, 0
        self.diary: list[Any] = []
        self.rates: list[float] = []
        self._skips = skips
        self.clock: dict[int, float] = {}
        """Rank 0's seconds by step, as they come from the sum over ranks."""

    def accumulate(self, batch: Any, *, scale: float) -> float:
        self.diary.append(batch)
        return float(sum(batch)) * scale

    def apply(self, *, learning_rate: float) -> Applied:
        self.diary.append("apply")
        self.rates.append(learning_rate)
        return Applied(is_applied=len(self.rates) - 1 not in self._skips, grad_norm=1.0)

    def discard(self) -> None:
        self.diary.append("discard")

    def total(self, values: Sequence[float]) -> list[float]:
        step = self.begun + self._totals
        self._totals += 1
        loss, elapsed_s = values
        return [self._losses.get(step, loss * self.world_size), self.clock.get(step, elapsed_s)]

    def evaluate(self, batch: Any) -> Sequence[float]:
        return [0.0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def save(self, folder: Path) -> dict[str, Any]:
        return {}


class Numbers:
    """Row r is the number r; the loss of a batch is its sum."""

    rows = 10

    def lengths(self, rows: StepRows) -> Sequence[int]:
        return [int(row) + 1 for row in rows.rows]

    def count(self, rows: StepRows) -> float:
        return float(len(rows.rows))

    def batch(self, rows: StepRows, members: Sequence[int], weight: float) -> list[float]:
        return [float(rows.rows[member]) * weight for member in members]

    def row_ids(self, rows: StepRows, members: Sequence[int]) -> list[str]:
        return [f"{rows.epochs[member]}/{rows.rows[member]}" for member in members]


@pytest.fixture(params=[0, 2], ids=["made-at-need", "made-ahead"], autouse=True)
def prefetch_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every test of the loop holds with the loader's thread and without it."""
    monkeypatch.setitem(DEFAULTS, "prefetch_steps", request.param)
    return int(request.param)


DEFAULTS: dict[str, Any] = {"steps": 4, "rows_per_step": 6, "limits": Limits(1000, 4), "seed": 3, "hooks": ()}


def run(engine: ScriptedEngine, *, seeds: list[int] | None = None, **values: Any) -> list[StepReport]:
    arguments: dict[str, Any] = DEFAULTS | values
    drawn = seeds if seeds is not None else []
    return list(train(engine, Numbers(), learning_rate=lambda step: step / 10, seed_noise=drawn.append, **arguments))


def test_a_step_accumulates_its_micro_batches_applies_once_and_reports() -> None:
    engine = ScriptedEngine()
    reports = run(engine)
    assert [report.step for report in reports] == [0, 1, 2, 3]
    assert [entry == "apply" for entry in engine.diary] == [False, False, True] * 4
    assert engine.rates == [0.0, 0.1, 0.2, 0.3]
    for report in reports:
        rows = rows_of_step(report.step, rows_per_step=6, rows=10, seed=3)
        assert report.loss == pytest.approx(rows.rows.mean())
        assert report.tokens == rows.rows.sum() + 6
        assert sorted(report.row_ids) == sorted(f"{epoch}/{row}" for epoch, row in zip(*rows[:2], strict=True))


def test_ranks_share_a_step_without_overlap_and_fillers_are_in_no_report() -> None:
    reports = [run(ScriptedEngine(rank, 9), steps=2) for rank in range(9)]  # more ranks than rows
    for step in range(2):
        rows = rows_of_step(step, rows_per_step=6, rows=10, seed=3)
        named = [row for rank in reports for row in rank[step].row_ids]
        assert sorted(named) == sorted(f"{epoch}/{row}" for epoch, row in zip(*rows[:2], strict=True))


def test_a_skipped_step_consumes_its_rows_and_does_not_count_as_an_optimiser_step() -> None:
    reports = run(ScriptedEngine(skips=[1]))
    assert [report.is_applied for report in reports] == [True, False, True, True]
    assert [report.optimiser_steps for report in reports] == [1, 1, 2, 3]


def test_a_resumed_run_is_the_tail_of_an_undisturbed_one() -> None:
    whole_seeds: list[int] = []
    tail_seeds: list[int] = []
    whole, tail = ScriptedEngine(), ScriptedEngine()
    undisturbed = run(whole, seeds=whole_seeds)
    resumed = run(tail, seeds=tail_seeds, start_step=2, optimiser_steps=2)
    assert [(r.step, r.loss, r.learning_rate, r.optimiser_steps, r.row_ids) for r in resumed] == [
        (r.step, r.loss, r.learning_rate, r.optimiser_steps, r.row_ids) for r in undisturbed[2:]
    ]
    assert tail.diary == whole.diary[-len(tail.diary) :]
    assert tail_seeds == whole_seeds[-len(tail_seeds) :]


def ends(diary: Sequence[Any]) -> list[str]:
    """How each step ended."""
    return [entry for entry in diary if isinstance(entry, str)]


def test_a_step_that_the_guard_objects_to_is_discarded_reported_with_all_ranks_rows_and_not_counted() -> None:
    engine = ScriptedEngine(rank=1, world_size=2, losses={1: math.nan})
    reports = run(engine)
    assert ends(engine.diary) == ["apply", "discard", "apply", "apply"]
    assert [report.is_applied for report in reports] == [True, False, True, True]
    assert [report.optimiser_steps for report in reports] == [1, 1, 2, 3]
    rows = rows_of_step(1, rows_per_step=6, rows=10, seed=3)
    named = tuple(f"{epoch}/{row}" for epoch, row in zip(*rows[:2], strict=True))
    assert [report.decision for report in reports] == [Apply(), Skip("the loss is nan", named), Apply(), Apply()]
    assert set(reports[1].row_ids) < set(named)
    assert math.isnan(reports[1].grad_norm)


def test_what_the_engine_skips_counts_for_the_guard_too() -> None:
    reports = run(ScriptedEngine(skips=[1]))
    assert isinstance(reports[1].decision, Skip)
    assert reports[1].decision.reason == "the gradient norm is 1.0"
    assert [report.memory.skipped_in_a_row for report in reports] == [0, 1, 0, 0]


def test_too_many_skips_in_a_row_end_the_run_after_hooks_saw_the_last_one() -> None:
    seen: list[StepReport] = []
    engine = ScriptedEngine(skips=[1], losses={2: math.inf})  # one by the engine, one by the guard
    with pytest.raises(GuardError, match=r"step 2: the loss is inf; 2 steps in a row .* Rows of this step: 1/\d, ") as raised:
        run(engine, guard=GuardConfig(stop_after=2), hooks=[seen.append])
    assert raised.value.exit_code == 1
    assert [type(report.decision) for report in seen] == [Apply, Skip, GiveUp]
    assert ends(engine.diary) == ["apply", "apply", "discard"]


@pytest.mark.parametrize("start", range(1, 8))
def test_a_resumed_run_skips_the_steps_that_the_undisturbed_one_skips(start: int) -> None:
    losses = {0: 2.0, 1: 2.1, 2: 2.0, 3: 9.0, 4: math.nan, 5: 2.2, 6: 4.5, 7: 2.0}
    guard = GuardConfig(spike_factor=2, window=3, stop_after=3)
    whole = run(ScriptedEngine(losses=losses), steps=8, guard=guard)
    assert [report.is_applied for report in whole] == [True, True, True, False, False, True, False, True]
    engine = ScriptedEngine(losses=losses)
    engine.begun = start
    before = whole[start - 1]
    tail = run(engine, steps=8, guard=guard, start_step=start, optimiser_steps=before.optimiser_steps, memory=before.memory)
    assert [(r.decision, r.memory, r.optimiser_steps) for r in tail] == [(r.decision, r.memory, r.optimiser_steps) for r in whole[start:]]


def test_a_hook_that_stops_ends_the_run_after_the_other_hooks_saw_the_step() -> None:
    seen: list[int] = []

    def stop_at_one(report: StepReport) -> Stop | None:
        return Stop("enough") if report.step == 1 else None

    def see(report: StepReport) -> None:
        seen.append(report.step)

    assert [report.step for report in run(ScriptedEngine(), hooks=[stop_at_one, see])] == [0, 1]
    assert seen == [0, 1]


@pytest.mark.parametrize(("cadence", "last", "called"), [(3, 8, [3, 6, 8]), (4, 8, [4, 8]), (100, 8, [8])])
def test_a_cadence_counts_finished_steps_and_always_has_the_last(cadence: int, last: int, called: list[int]) -> None:
    found: list[int] = []

    def note(report: StepReport) -> None:
        found.append(report.step + 1)

    hook: Hook = every(cadence, note, last=last)
    run(ScriptedEngine(), steps=last, hooks=[hook])
    assert found == called


def test_between_two_of_a_cadence_another_hook_is_called_when_so_many_seconds_of_rank_0_have_passed() -> None:
    found: list[tuple[str, int]] = []

    def note(name: str) -> Hook:
        return lambda report: found.append((name, report.step + 1))

    engine = ScriptedEngine(rank=1, world_size=2)
    engine.clock = {step: 2.0 * step for step in range(9)}
    hook = every(4, note("whole"), last=9, seconds=3.5, between=note("between"))
    reports = run(engine, steps=9, hooks=[hook])
    assert [report.elapsed_s for report in reports] == [2.0 * step for step in range(9)]
    assert found == [("between", 3), ("whole", 4), ("between", 7), ("whole", 8), ("whole", 9)]


def test_only_rank_0_adds_its_clock_to_the_sum_over_ranks() -> None:
    class Summing(ScriptedEngine):
        def total(self, values: Sequence[float]) -> list[float]:
            self.added = list(values)
            return super().total(values)

    engines = [Summing(rank=rank, world_size=2) for rank in range(2)]
    for engine in engines:
        run(engine)
    assert engines[0].added[1] > 0
    assert engines[1].added[1] == 0.0


def test_noise_differs_between_micro_batches_ranks_steps_and_seeds_and_is_the_same_again() -> None:
    places = [(seed, step, rank, index) for seed in range(3) for step in range(20) for rank in range(3) for index in range(3)]
    seeds = [noise_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [noise_seed(*place) for place in places]
    assert all(0 <= one < 2**63 for one in seeds)  # what torch takes
