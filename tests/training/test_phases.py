"""The clock of phases, with a time of its own, and the table that is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import make_encoder, make_packed
from training.assembly import assemble, loop_arguments, torch_engine
from training.config import PretrainConfig
from training.hardware import Hardware, decide
from training.loop import train
from training.phases import NAMES, Phases, phase_table, table_text
from training.profiling import StepProfiler, window


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a box: tests move it."""
    box = [0.0]
    monkeypatch.setattr("training.phases.time.perf_counter", lambda: box[0])
    return box


def test_phases_add_up_and_are_counted_once_when_one_is_inside_another(now: list[float]) -> None:
    phases = Phases()
    for _ in range(2):
        with phases("backward"):
            now[0] += 3.0
            with phases("communication"):
                now[0] += 1.0
            now[0] += 0.5
    assert phases.take() == {"communication": 2.0, "backward": 7.0}
    assert phases.take() == {}


def test_a_phase_that_fails_is_counted_too(now: list[float]) -> None:
    phases = Phases()

    def fail() -> None:
        with phases("forward"):
            now[0] += 1.0
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    with phases("optimiser"):
        now[0] += 2.0
    assert phases.take() == {"forward": 1.0, "optimiser": 2.0}


def test_the_device_is_awaited_within_the_phase(now: list[float]) -> None:
    phases = Phases()

    def wait() -> None:
        now[0] += 4.0

    phases.wait_for_device = wait
    with phases("forward"):
        now[0] += 1.0
    assert phases.take() == {"forward": 5.0}


def test_the_table_spreads_checkpoints_over_all_steps_and_names_what_is_left() -> None:
    rows: list[dict[str, Any]] = [{"event": "step"}] * 20
    rows += [{"event": "evaluation", "evaluation_seconds": 2.0}, {"event": "checkpoint", "checkpoint_seconds": 4.0}] * 2
    rows += [{"event": "profile", "steps": 4, "seconds": 4.0, "phases": {"data": 0.4, "forward": 1.2, "backward": 2.0}}]
    table = {row.phase: row for row in phase_table(rows)}
    assert list(table) == list(NAMES)
    assert table["forward"].seconds == pytest.approx(0.3)
    assert table["other"].seconds == pytest.approx(0.1)
    assert table["evaluation"].seconds == pytest.approx(0.2)
    assert table["checkpoint"].seconds == pytest.approx(0.4)
    assert sum(row.share for row in table.values()) == pytest.approx(1.0)
    assert "checkpoint 400.00 25.0 %" in [" ".join(line.split()) for line in table_text(phase_table(rows)).splitlines()]
    assert phase_table(rows[:-1]) == ()


@pytest.mark.parametrize(
    ("first", "last", "wanted", "timed", "traced"),
    [
        (0, 100, 5, range(3, 8), range(8, 13)),
        (40, 100, 2, range(43, 45), range(45, 47)),
        (0, 11, 5, range(1, 6), range(6, 11)),
        (0, 4, 5, range(2), range(2, 4)),
        (0, 1, 5, range(1), range(1, 1)),
    ],
)
def test_the_profiled_steps_come_after_a_warm_up_and_fit_into_the_run(
    first: int, last: int, wanted: int, timed: range, traced: range
) -> None:
    found = window(first, last, wanted)
    assert (list(found.timed), list(found.traced)) == (list(timed), list(traced))


def test_a_profiled_run_writes_a_trace_with_the_phases_in_it_and_their_times_and_learns_the_same(tmp_path: Path) -> None:
    import gzip

    encoder = make_encoder(tmp_path / "encoder", layers=1)
    data = make_packed(tmp_path / "packed", encoder)
    recipe = PretrainConfig.model_validate({"encoder": str(encoder), "data": str(data), "steps": 6, "rows_per_step": 4})

    def losses(*, profiled: bool) -> list[float]:
        assembly = assemble(recipe, str(encoder))
        engine = torch_engine(assembly, recipe, decide(Hardware(), recipe), device=torch.device("cpu"), checkpoint=None)
        arguments = {"steps": 6, "order": assembly.order, **loop_arguments(recipe, 6, "runs")}
        if not profiled:
            return [report.loss for report in train(engine, assembly.objective, **arguments)]

        def write(event: str, **values: Any) -> None:
            written.append({"event": event, **values})

        with StepProfiler(window(0, 6, 2), engine.phases, tmp_path / "trace.json.gz", write, torch.device("cpu")) as profiler:
            arguments["hooks"] = [profiler.after_step, profiler.before_next]
            return [report.loss for report in train(engine, assembly.objective, **arguments)]

    written: list[dict[str, Any]] = []
    assert losses(profiled=True) == losses(profiled=False)
    (row,) = written
    assert (row["event"], row["step"], row["steps"]) == ("profile", 2, 2)
    assert set(row["phases"]) == {"data", "forward", "backward", "optimiser"}
    assert all(seconds > 0 for seconds in row["phases"].values())
    assert sum(row["phases"].values()) <= row["seconds"]
    trace = gzip.decompress((tmp_path / "trace.json.gz").read_bytes()).decode()
    assert all(f"raybert:{phase}" in trace for phase in ("forward", "backward", "optimiser"))
    assert torch.distributed.Work.wait.__module__ != "training.profiling"


class Event:
    """Of a device whose kernels take ten milliseconds each; the second of a pair comes after one."""

    at = 0.0

    def record(self) -> None:
        Event.at += 10.0
        self.recorded = Event.at

    def elapsed_time(self, end: Event) -> float:
        return end.recorded - self.recorded


def test_a_lap_is_the_devices_time_where_it_has_events_whatever_the_profiler_takes() -> None:
    phases = Phases()
    phases.events["forward"] = Event
    for _ in range(2):
        with phases("forward"):
            pass
    assert phases.lap("forward") == pytest.approx(0.02)
    with phases("forward"):
        pass
    phases.take()
    assert phases.lap("forward") == pytest.approx(0.01)
    assert phases.lap("forward") == phases.lap("backward") == 0.0


def test_without_events_a_lap_is_the_clocks_time_since_the_last_one() -> None:
    phases, taken = Phases(), []
    for _ in range(2):
        with phases("forward"):
            sum(range(1_000))
        taken.append(phases.lap("forward"))
    assert all(taken)
    assert sum(taken) == pytest.approx(phases.take()["forward"])
    assert phases.lap("forward") == 0.0
