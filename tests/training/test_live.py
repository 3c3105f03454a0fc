"""What a person sees of a run, from made-up rows: the view, the line, and the panel as rich draws it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console

from tests.support.record import attempt, checkpoint, evaluation, step
from training.live import View, line, panel, seen, sparkline, watching


def view_of(rows: Iterable[dict[str, Any]]) -> View:
    view = View("finetune", 100)
    for row in rows:
        view = seen(view, row)
    return view


def drawn(view: View, now: float, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    console.print(panel(view, now))
    return console.export_text()


UNDER_WAY = [attempt(1000.0), *(step(1000.5 + i / 2, i) for i in range(20)), evaluation(1012.0, 20), checkpoint(1012.0, 20)]


def test_the_view_follows_the_rows() -> None:
    view = view_of(UNDER_WAY)
    assert (view.done, view.steps, view.world_size, view.restarts) == (20, 100, 2, 0)
    assert view.loss == pytest.approx(0.1)
    assert view.tokens_per_s == pytest.approx(1000.0)
    assert view.mfu == pytest.approx(0.25)
    assert view.eta_s == pytest.approx(80 * 12.0 / 20)
    assert view.checkpoint == (1012.0, 20)
    assert dict(view.validation) == {"validation_loss": 0.7, "accuracy": 0.8}


def test_the_time_left_follows_the_pace_of_the_last_steps() -> None:
    slow = [step(1000.0 + 4 * (i + 1), i, seconds=4.0) for i in range(20)]
    quick = [step(1080.0 + i + 1, 20 + i, seconds=1.0) for i in range(40)]
    view = view_of([attempt(1000.0), *slow, *quick])
    assert view.eta_s == pytest.approx(40 * 1.0)
    evaluated = view_of([attempt(1000.0), *slow, *quick, evaluation(1150.0, 60)])
    assert evaluated.eta_s == pytest.approx(40 * (1.0 + 30.0 / 60))  # thirty seconds in sixty steps were spent between steps


def test_a_restart_goes_back_to_its_step_and_forgets_what_was_skipped_after_it() -> None:
    skipped = [step(1013.0, 20, is_applied=False), step(1014.0, 21), step(1015.0, 22, is_applied=False)]
    view = view_of([*UNDER_WAY, *skipped])
    assert view.skipped == (20, 22)
    again = seen(view, attempt(1100.0, 21, world_size=1))
    assert (again.done, again.world_size, again.restarts, again.skipped) == (21, 1, 1, (20,))
    assert again.eta_s is None
    assert seen(again, step(1102.0, 21)).eta_s == pytest.approx(78 * 2.0)


def test_rows_of_another_kind_change_nothing_but_the_time() -> None:
    view = view_of(UNDER_WAY)
    assert seen(view, {"event": "profile", "time": 1012.0, "step": 3}) == view


def test_the_line_holds_the_same_figures_in_short() -> None:
    told = line(view_of(UNDER_WAY), 1024.0)
    assert told == (
        "finetune: step 20/100  loss 0.1  lr 0.0001  norm 1.5  1,000 tokens/s (25.0 % of peak)  600 MB a worker  ETA 48 s  2 workers  "
        "checkpoint at 20, 12 s ago  validation_loss 0.7  accuracy 0.8"
    )
    assert line(View("finetune", 100), 0.0) == "finetune: step 0/100"


def test_the_panel_shows_every_figure() -> None:
    text = drawn(view_of([*UNDER_WAY, step(1013.0, 20, is_applied=False, loss=math.nan)]), 1085.0)
    for expected in (
        "finetune",
        "21 of 100",
        "learning rate",
        "0.0001",
        "gradient norm",
        "1.5",
        "tokens/s",
        "1,000",
        "share of peak",
        "25.0 %",
        "600 MB a worker",
        "at 20, 1 m 13 s ago",
        "loss 0.7000  accuracy 0.8000",
        "skipped steps",
        "█",
        "▁",
    ):
        assert expected in text, f"{expected!r} is not in\n{text}"


def test_the_panel_is_there_before_the_first_step_and_fits_into_a_narrow_terminal() -> None:
    assert "starting the workers" in drawn(View("finetune-1", 100), 0.0)
    assert "0 of 100" in drawn(view_of([attempt(0.0)]), 0.0)
    assert all(len(found) <= 72 for found in drawn(view_of(UNDER_WAY), 1085.0, width=72).splitlines())


def test_a_sparkline_spans_its_values_and_leaves_a_gap_for_what_is_no_number() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, math.nan, 3.0, math.inf]) == "▁ █ "
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


def test_without_a_terminal_there_is_a_line_now_and_then_one_at_the_end_and_one_for_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("finetune", "finetune-1", 4) as watch:
        watch.show([attempt(0.0, steps=4), step(1.0, 0), step(2.0, 1)])
        watch.show([])
        watch.show([attempt(9.0, 1, steps=4), step(10.0, 1), step(11.0, 2), step(12.0, 3)])
        watch.show([evaluation(13.0, 4), checkpoint(13.0, 4)])
        watch.show([])
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.splitlines()
    assert first == "finetune: goes on from the checkpoint at step 1 with 2 workers, 1 restart"
    assert last.startswith("finetune: step 4/4  loss 0.5")
    assert "checkpoint at 4, " in last


def test_a_checkpoint_that_is_passed_over_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("finetune", "finetune-1", 6) as watch:
        watch.show([{"event": "damaged", "time": 0.0, "step": 2, "reason": "step-0000004-abcdef: altered"}, attempt(0.0, 2, steps=6)])
        assert "finetune: warning: step-0000004-abcdef: altered; goes on from step 2" in capsys.readouterr().err


def test_a_checkpoint_that_could_not_be_written_is_said_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("finetune", "finetune-1", 6) as watch:
        watch.show([attempt(0.0, steps=6), step(1.0, 0), {"event": "unwritten", "time": 2.0, "step": 1, "reason": "rank 1: no space left"}])
        said = capsys.readouterr().err
    assert "finetune: warning: the checkpoint at step 1 could not be written: rank 1: no space left; the one before stays" in said


def test_a_failure_is_said_with_its_rank_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("finetune", "finetune-1", 6) as watch:
        watch.show([attempt(0.0, 2, steps=6), step(1.0, 2), {"event": "failure", "time": 2.0, "ranks": {"1": "its process died"}}])
        assert "warning: after step 3 the workers were ended; rank 1: its process died" in capsys.readouterr().err


def test_a_node_that_is_about_to_go_is_said_with_what_the_workers_do(capsys: pytest.CaptureFixture[str]) -> None:
    notice = {"event": "leaving", "time": 2.0, "step": 3, "ranks": [0, 2], "seconds": 28.4}
    with watching("finetune", "finetune-1", 6) as watch:
        watch.show([attempt(0.0, 2, steps=6), step(1.0, 2), notice | {"leaves": True}, notice | {"leaves": False, "needed_s": 31.0}])
        watch.show([notice | {"ranks": [], "leaves": True}])
        said = capsys.readouterr().err
    assert "finetune: there is room for another number of workers; these leave with a checkpoint at step 3" in said
    assert "warning: the node of rank 0 and rank 2 goes in 28 s; the workers leave it with a checkpoint at step 3" in said
    assert "warning: the node of rank 0 and rank 2 goes in 28 s, too soon for a checkpoint, which may take 31 s; goes on until then" in said


def test_a_wait_for_nodes_is_said_with_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("finetune", "finetune-1", 6) as watch:
        watch.show([{"event": "waiting", "time": 0.0, "room": 1, "least": 2}])
        assert "finetune: waits for 2 workers; the cluster's nodes have room for 1" in capsys.readouterr().err


def test_a_run_that_is_interrupted_leaves_its_last_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with watching("finetune", "finetune-1", 4) as watch:
            watch.show([attempt(0.0, steps=4), step(1.0, 0), step(2.0, 1)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err.startswith("finetune: step 2/4  loss ")
