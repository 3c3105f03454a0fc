"""A study's page and its CSV, from a record: every figure is there, nothing is fetched, and what is told is true."""

from __future__ import annotations

import csv
import io
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from foundation import driving
from foundation.records import read_rows
from tests.support.browser import BROWSER, see
from tests.support.tiny import make_encoder, write_reviews
from tuning import figures, studies
from tuning.config import StudyConfig
from tuning.record import Record, trials_of
from tuning.report import as_csv, page
from tuning.scheduling import Rule
from tuning.studies import Study, open_study
from tuning.study import plan_study

pytestmark = pytest.mark.usefixtures("raybert_home")
TRIALS = 14
RUNGS = (10, 20, 40)
SPACE: dict[str, Any] = {
    "schedule.peak_lr": {"kind": "log_uniform", "low": 1e-5, "high": 1e-2},
    "schedule.decay": {"kind": "choice", "values": ["linear", "cosine"]},
    "dropout": {"kind": "uniform", "low": 0.0, "high": 0.3},
    "label_smoothing": {"kind": "uniform", "low": 0.0, "high": 0.2, "when": {"schedule.decay": ["linear"]}},
}


def made(folder: Path, trials: int = TRIALS) -> Study:
    """A study whose scores follow the learning rate, with ASHA's decisions, one failed trial and one that goes on."""
    encoder, data = make_encoder(folder / "encoder", layers=1), write_reviews(folder / "r.csv", 60)
    recipe = {"encoder": str(encoder), "data": {"train": str(data)}, "max_length": 32, "rows_per_step": 1}
    asha = {"kind": "asha", "max_steps": 80, "grace_steps": 10, "reduction_factor": 2}
    config = StudyConfig.model_validate({"recipe": recipe, "space": SPACE, "trials": TRIALS, "scheduler": asha, "report_every_steps": 10})
    planned = plan_study(config, study_id="made")
    place = Path(planned.study_folder)
    place.mkdir(parents=True)
    driving.begin(place / studies.STUDY_FILE, attempts=1, plan=planned.as_json())
    record, rule, chance = Record(place / studies.RECORD_FILE), Rule(config.scheduler, "max"), random.Random(3)
    for number in range(trials):
        rate = 10 ** chance.uniform(-5, -2)
        sampled = {"schedule.peak_lr": rate, "schedule.decay": chance.choice(["linear", "cosine"]), "dropout": chance.uniform(0, 0.3)}
        if sampled["schedule.decay"] == "linear":
            sampled["label_smoothing"] = chance.uniform(0, 0.2)
        record.begun(number, sampled)
        worker = {"worker": f"host:{number % 2}"}
        if number == 4:
            record.failed(number, "ValueError: <b>no</b> such rate", traceback="Traceback\n  ValueError", trial_seconds=0.5, **worker)
            continue
        for step in range(10, 90, 10):
            score = 0.9 - abs(3 + math.log10(rate)) / 5 - 1 / step + chance.uniform(0, 0.01)
            goes_on = rule.goes_on(number, step, score)
            record.reported(number, score, {"step": step, "steps": 80, "trial_seconds": step / 8, **worker}, goes_on=goes_on)
            if not goes_on or number == trials - 1:
                break
    return open_study("made")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made(tmp_path)


def test_the_page_has_every_figure_and_fetches_nothing(study: Study) -> None:
    found = page(study)
    figures_there = re.findall(r'<div id="([a-z]+)" class="plotly-graph-div"', found)
    assert figures_there == ["history", "curves", "importance", "parallel", "slices", "contour", "cost", "timeline"]
    own = re.sub(r"<script.*?</script>", "", found, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=|@import|url\(""", own)
    assert "<b>no</b>" not in own
    assert "ValueError: &lt;b&gt;no&lt;/b&gt; such rate" in own
    assert "so its own score flatters it; the test rows have not been read" in own


def test_the_page_tells_what_the_best_reached_with_other_seeds(study: Study) -> None:
    record = Record(study.folder / studies.RECORD_FILE)
    first, second = sorted((trial for trial in study.trials.values() if trial.score), key=lambda trial: -(trial.score or 0))[:2]
    for trial, scores in ((first, (0.70, 0.71)), (second, (0.80, 0.81))):
        for seed, score in enumerate(scores, start=1):
            record.begun(trial.number, {**trial.sampled, "seed": seed}, seed)
            record.reported(
                trial.number, score, {"step": 80, "steps": 80, "trial_seconds": 9.0, "worker": "host:1"}, goes_on=True, seed=seed
            )
    again = open_study("made")
    assert again.best == again.trials[second.number]
    found = page(again)
    assert '<div id="repeats" class="plotly-graph-div"' in found
    assert "1: 0.8000, 2: 0.8100" in found
    assert "so its own score flatters it" not in found
    assert re.search(rf"<td[^>]*>{first.number}</td>.*?<td[^>]*>worse</td>", found, re.DOTALL)
    rows = [*csv.DictReader(io.StringIO(as_csv(again)))]
    assert [(int(row["trial"]), row["seed"]) for row in rows[TRIALS:]] == [
        (trial.number, seed) for trial in (first, second) for seed in ("1", "2")
    ]


def test_the_page_of_a_study_that_has_just_begun_says_so(tmp_path: Path) -> None:
    found = page(made(tmp_path, trials=1))
    assert "Optimisation history" not in found
    assert "No trial has ended with a score yet" in found


def test_rungs_tell_who_was_stopped_where(study: Study) -> None:
    trials = [*study.trials.values()]
    assert tuple(study.plan["rungs"]) == RUNGS
    found = figures.rungs_of(trials, RUNGS, "max")
    for rung in found:
        at = [trial for trial in trials if any(report.step == rung.step for report in trial.reports)]
        stopped = [trial for trial in at if trial.step == rung.step and trial.state == "stopped"]
        assert (rung.reached, rung.stopped) == (len(at), len(stopped))
    assert sum(rung.stopped for rung in found) == sum(trial.state == "stopped" for trial in trials) > 3
    assert found[0].reached == TRIALS - 1


def test_the_hyperparameter_that_the_score_follows_is_the_most_important_one(study: Study) -> None:
    config = StudyConfig.model_validate(study.plan["config"])
    found = figures.importances(figures.as_optuna(config, [*study.trials.values()], "max"))
    assert found[0].key == "schedule.peak_lr"
    assert found[0].share > 0.5
    for row in found:
        assert 0 <= row.low <= row.share <= row.high <= 1
    assert "label_smoothing" not in {row.key for row in found}, "not every trial has it"
    assert figures.importances(figures.as_optuna(config, [*study.trials.values()][:5], "max")) == []


def test_csv_has_a_row_for_each_trial(study: Study) -> None:
    rows = [*csv.DictReader(io.StringIO(as_csv(study)))]
    assert [int(row["trial"]) for row in rows] == [*range(TRIALS)]
    trials = trials_of(read_rows(study.folder / studies.RECORD_FILE), "max")
    for row in rows:
        trial = trials[int(row["trial"])]
        assert row["state"] == trial.state
        assert (float(row["macro_f1"]) if row["macro_f1"] else None) == trial.score
        assert float(row["schedule.peak_lr"]) == trial.sampled["schedule.peak_lr"]
        assert (row["label_smoothing"] == "") == ("label_smoothing" not in trial.sampled)
    assert rows[4]["cause"] == "ValueError: <b>no</b> such rate"


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on PATH (Debian: apt install chromium)")
def test_a_browser_draws_every_figure_asks_for_nothing_and_has_nothing_to_complain_of(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(study), encoding="utf-8")
    drawn = (
        "[...document.querySelectorAll('.plotly-graph-div')].map(d => [d.id, d.querySelectorAll('.main-svg path, .main-svg rect').length])"
    )
    seen = see(
        file, tmp_path / "browser", until=f"document.readyState == 'complete' && {drawn}.every(([, shapes]) => shapes > 5) ? {drawn} : null"
    )
    assert [name for name, _ in seen.answer] == ["history", "curves", "importance", "parallel", "slices", "contour", "cost", "timeline"]
    assert (seen.requests, seen.complaints) == ([], [])
