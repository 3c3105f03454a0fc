"""The table of a study says what is known of each trial, and no more than fits."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tuning.live import View, differing, eta_s, table
from tuning.record import Report, Trial

NOW = 1000.0


def trial(number: int, scores: list[float], *, of: int = 40, goes_on: bool = True, **sampled: Any) -> Trial:
    """A trial that reported every ten steps, ten seconds apart, the last time just now."""
    times = [NOW - 10 * (len(scores) - place) for place in range(1, len(scores) + 1)]
    reports = [Report(10 * (place + 1), score, {"steps": of}, True, times[place]) for place, score in enumerate(scores)]
    if reports and not goes_on:
        reports[-1] = Report(reports[-1].step, reports[-1].score, {"steps": of}, False, NOW)
    return Trial(number, sampled or {"schedule.peak_lr": 10.0**-number}, tuple(reports))


def drawn(view: View, now: float = NOW) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(table(view, now))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def view_of(*trials: Trial, **more: Any) -> View:
    return View("rates", "accuracy", "max", trials, **{"count": 8, **more})


def test_the_table_has_a_row_for_each_trial_with_what_is_known_of_it() -> None:
    finished, running, begun = trial(1, [0.5, 0.7, 0.8, 0.75]), trial(2, [0.4, 0.6]), trial(3, [])
    stopped = trial(4, [0.1], goes_on=False)
    failed = Trial(5, {"schedule.peak_lr": 1e30}, cause="no number")
    found = drawn(view_of(finished, running, begun, stopped, failed, left_s=125.0, spent=0.25))
    assert "3 of 8 trials" in found
    assert "best accuracy 0.8000, trial 1" in found
    assert "budget 25%" in found
    assert "about 2 m 05 s left" in found
    rows = {
        line.split()[1]: " ".join(line.split()[2:-1]) for line in found.splitlines() if line.startswith("│ ") and line.split()[1].isdigit()
    }
    assert rows["1"] == "0.1 40/40 0.8000 finished"
    assert rows["2"] == "0.01 20/40 0.6000 running 20 s"
    assert rows["3"] == "0.001 – – running"
    assert rows["4"] == "0.0001 10/40 0.1000 stopped"
    assert rows["5"] == "1e+30 – – failed"


def test_what_runs_stands_first_then_the_best_and_the_rest_is_counted() -> None:
    ended = [trial(number, [number / 100] * 4) for number in range(30)]
    found = drawn(view_of(*ended, trial(30, [0.2]), count=40))
    order = [int(line.split()[1]) for line in found.splitlines() if line.startswith("│ ") and line.split()[1].isdigit() and "/40" in line]
    assert order == [30, *range(29, 10, -1)]
    assert "and 11 others that have ended" in found


def test_of_losses_the_lowest_is_the_best() -> None:
    view = View("rates", "validation_loss", "min", [trial(0, [2.0] * 4), trial(1, [1.0] * 4)], 2)
    assert view.best is not None
    assert view.best.number == 1


def test_before_the_first_trial_it_says_that_it_starts() -> None:
    assert "starting the first trials" in drawn(view_of())


def test_only_hyperparameters_that_differ_are_shown_under_names_that_tell_them_apart() -> None:
    trials = [
        trial(0, [], **{"schedule.peak_lr": 1e-3, "optimiser.kind": "adamw", "data.kind": "a", "seed": 1}),
        trial(1, [], **{"schedule.peak_lr": 2e-3, "optimiser.kind": "lamb", "data.kind": "b", "seed": 1, "optimiser.beta2": 0.9}),
    ]
    assert differing(trials) == {
        "schedule.peak_lr": "peak_lr",
        "optimiser.kind": "optimiser.kind",
        "data.kind": "data.kind",
        "optimiser.beta2": "beta2",
    }


def test_a_trial_ends_at_the_pace_of_its_reports() -> None:
    running = trial(0, [0.1, 0.2])
    assert eta_s(running, NOW) == pytest.approx(20.0)
    assert eta_s(running, NOW + 5) == pytest.approx(15.0)
    assert eta_s(running, NOW + 100) == 0
    assert eta_s(trial(0, [0.1]), NOW) is None
