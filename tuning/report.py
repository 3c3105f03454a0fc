"""A study as one self-contained HTML page that can be explored, and as CSV. From what ``studies.py`` read; the figures are ``figures.py``.

plotly's own script is within the page, so nothing is fetched.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from foundation.errors import first_line
from foundation.home import write_atomically
from foundation.page import page as framed
from foundation.page import table, tiles
from foundation.progress import minute
from training.planning import count_parameters
from tuning import figures
from tuning.config import StudyConfig
from tuning.population import lineage
from tuning.record import Trial, short
from tuning.repeats import Repeated
from tuning.resuming import last_checkpoint
from tuning.studies import REPORT_FILE, Study

_LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 30, "b": 50}, "title": None, "height": 420, "width": None}


def write_report(study: Study, out: Path | None = None) -> Path:
    """Write the page, by default into the study's folder; returns its path."""
    target = out or study.folder / REPORT_FILE
    write_atomically(target, page(study))
    return target


def page(study: Study) -> str:
    """The page."""
    from plotly.offline import get_plotlyjs

    config = StudyConfig.model_validate(study.plan["config"])
    trials = [*study.trials.values()]
    body = [f"<script>{get_plotlyjs()}</script>", _head(study, config), _tiles(study, config, trials), _winner(study, trials)]
    body += [*_population(study), *_repeated(study)]
    body += _drawn(study, config, trials)
    body += [_trials(study, trials), _failures(trials)]
    body.append(f"<h2>Study</h2><pre>{escape(yaml.safe_dump(study.plan['config'], sort_keys=False, allow_unicode=True))}</pre>")
    return framed(study.study_id, "".join(body))


def as_csv(study: Study) -> str:
    """A row for each trial, and each repeat of one with another seed: its hyperparameters, score and cost."""
    trials = [*study.trials.values(), *study.repeats.values()]
    keys = [*dict.fromkeys(key for trial in trials for key in trial.sampled)]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["trial", "state", study.plan["metric"], "step", "seconds", "restarts", "cause", *keys])
    for trial in trials:
        told = [trial.number, trial.state, trial.score, trial.step, round(trial.seconds, 1), trial.restarts, first_line(trial.cause or "")]
        writer.writerow([*(told if trial.cause else [*told[:-1], None]), *(trial.sampled.get(key) for key in keys)])
    return written.getvalue()


def _head(study: Study, config: StudyConfig) -> str:
    told = [
        f"<span class=state>{escape(study.state)}</span>",
        f"begun {minute(study.about['started'])} UTC",
        f"sampler {escape(config.sampler.kind)}, scheduler {escape(config.scheduler.kind)}, {config.concurrent} at once",
        f"data {escape(study.plan['data_fingerprint'][:12])}",
    ]
    return f"<p>{', '.join(told)}.</p>"


def _tiles(study: Study, config: StudyConfig, trials: Sequence[Trial]) -> str:
    best = study.best
    steps = sum(trial.step for trial in trials)
    most = study.plan["steps_at_most"]
    seconds = sum(trial.seconds for trial in trials)
    states = {state: sum(trial.state == state for trial in trials) for state in figures.STATES}
    workers = config.recipe.workers
    each = workers.most * (workers.gpus_each or workers.cpus_each)
    unit = f"{'GPUs' if workers.gpus_each else 'CPUs'} ({each:g} a trial)"
    hours = each * seconds / 3600
    return tiles(
        {
            f"best {study.plan['metric']}": f"{best.score:.4f} in trial {best.number}" if best else "–",
            "trials": f"{len(trials)} of {config.trials}",
            "finished, stopped, failed": ", ".join(str(states[state]) for state in ("finished", "stopped", "failed")),
            "optimiser steps": f"{steps:,}",
            f"of {most:,} without stopping": f"{100 * steps / most:.0f} %" if most else "–",
            f"hours of {unit}": f"{hours:.2f}",
        }
    )


def _winner(study: Study, trials: Sequence[Trial]) -> str:
    best = study.best
    if best is None:
        return ""
    rows = [(key, short(value)) for key, value in best.sampled.items()]
    scored = sum(trial.score is not None for trial in trials)
    checkpoint = last_checkpoint(study.folder, best.number)
    flatters = "" if study.repeated else ", so its own score flatters it"
    return (
        f"<h2>Winner</h2>{table(('hyperparameter', 'trial ' + str(best.number)), rows)}"
        f"<p>The best of {scored} scores on the same validation rows{flatters}; the test rows have not been read."
        f"{' Its checkpoint is ' + escape(str(checkpoint.folder)) + '.' if checkpoint else ''}</p>"
    )


def _population(study: Study) -> list[str]:
    """Who went on from whom, and the way of the winner's model."""
    exploited = sorted(
        ((one.step, trial, one) for trial in study.trials.values() for one in trial.exploits), key=lambda item: (item[0], item[1].number)
    )
    if study.best is None or not study.best.is_member:
        return []
    way = [
        (str(one.member), f"{one.since:,}", f"{one.until:,}", figures.told(one.sampled)) for one in lineage(study.trials, study.best.number)
    ]
    rows = [(f"{step:,}", str(trial.number), str(one.donor), figures.told(one.before)) for step, trial, one in exploited]
    return [
        f"<h2>The winner's way</h2>{table(('member', 'after step', 'to', 'hyperparameters'), way, numbers=range(3))}",
        f"<h2>Copies</h2>{table(('after step', 'member', 'went on from', 'its hyperparameters until then'), rows, numbers=range(3))}"
        if rows
        else "",
    ]


def _repeated(study: Study) -> list[str]:
    if not study.repeated:
        return []
    rows = [(str(item.trial), *map(_score, (item.mean, item.low, item.high)), _by_seed(item), _against(item)) for item in study.repeated]
    heads = ("trial", "mean", "95 % from", "to", "by seed", "against the best")
    note = (
        "The best trials trained once more with other seeds, which had no part in choosing them. The winner has the best mean; differences "
        "are judged by a paired t-test at 5 %."
    )
    drawn = _figure("repeats", "With other seeds", figures.repeated_scores(study.repeated, study.plan["metric"]), note)
    return [drawn, table(heads, rows, numbers=range(4))]


def _by_seed(item: Repeated) -> str:
    return ", ".join(f"{seed}: {score:.4f}" for seed, score in item.scores.items())


def _against(item: Repeated) -> str:
    return {None: "–", True: "worse", False: "not distinguishable"}[item.differs]


def _drawn(study: Study, config: StudyConfig, trials: Sequence[Trial]) -> list[str]:
    metric, mode = study.plan["metric"], study.plan["mode"]
    scored = [trial for trial in trials if trial.score is not None and trial.state in ("finished", "stopped")]
    if not scored:
        return ["<p>No trial has ended with a score yet.</p>"]
    optunas = figures.as_optuna(config, trials, mode)
    found = figures.importances(optunas, seed=config.seed)
    # A model from scratch has no place; its dots are alike.
    parameters = {name: (count_parameters(Path(place)) or 0) if place else 0 for name, place in study.plan["locations"].items()}
    rungs = figures.rungs_of(trials, study.plan["rungs"], mode)
    importance = (
        f"fANOVA (Hutter et al. 2014) on all scored trials, those that were stopped with what they had reached; bars are means over "
        f"{figures.RESAMPLES} resamples of the trials, whiskers 10 % and 90 % of them."
    )
    drawn = [
        _figure("history", "Optimisation history", figures.history(optunas, metric)),
        _figure("curves", "Learning curves", figures.learning_curves(trials, metric, study.plan["rungs"])),
        _rungs(rungs),
        _figure("importance", "Importance", figures.importance_bars(found), importance)
        if found
        else f"<h2>Importance</h2><p>Told of {figures.LEAST_FOR_IMPORTANCE} scored trials at least, whose scores differ.</p>",
        _figure("parallel", "Parallel coordinates", figures.parallel(optunas, metric), "Drag along an axis to choose trials."),
        _figure("slices", "Slices", figures.slices(optunas, metric)),
        _figure("contour", "Contour", figures.contour(optunas, metric, figures.pairs(found, optunas, config))),
        _figure(
            "cost",
            "Score and cost",
            figures.score_by_cost(trials, parameters, config.recipe.encoder, metric),
            "The larger the dot, the more parameters the encoder has.",
        ),
        _figure(
            "latency",
            "Score and latency",
            figures.score_by_latency(trials, metric, config.constraints.latency_ms if config.constraints else None),
            "Of one validation text, beside what else ran there; red is beyond the constraints.",
        ),
        _figure("timeline", "Timeline", figures.timeline(trials)),
    ]
    return [part for part in drawn if part]


def _figure(name: str, title: str, figure: Any | None, note: str = "") -> str:
    if figure is None:
        return ""
    figure.update_layout(_LAYOUT)
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False, "responsive": True})
    return f"<h2>{escape(title)}</h2>{f'<p>{escape(note)}</p>' if note else ''}{drawn}"


def _rungs(rungs: Sequence[figures.Rung]) -> str:
    if not rungs:
        return ""
    rows = [
        (f"{rung.step:,}", str(rung.reached), str(rung.stopped), _score(rung.highest_that_was_stopped), _score(rung.lowest_that_went_on))
        for rung in rungs
    ]
    heads = ("step", "reached by", "stopped", "best that was stopped", "worst that went on")
    return f"<h2>Rungs</h2>{table(heads, rows, numbers=range(5))}"


def _trials(study: Study, trials: Sequence[Trial]) -> str:
    sign = 1 if study.plan["mode"] == "max" else -1
    ranked = sorted(trials, key=lambda trial: -sign * trial.score if trial.score is not None else float("inf"))
    rows = [
        (
            str(trial.number),
            _score(trial.score),
            f"{trial.step:,}",
            f"{trial.seconds:.1f}",
            trial.state,
            str(trial.restarts),
            figures.told(trial.sampled),
            (trial.mlflow_run or "–")[:12],
        )
        for trial in ranked
    ]
    heads = ("trial", study.plan["metric"], "steps", "seconds", "state", "restarts", "hyperparameters", "MLflow run")
    return f"<h2>Trials</h2>{table(heads, rows, numbers=(0, 1, 2, 3, 5))}"


def _failures(trials: Sequence[Trial]) -> str:
    failed = [trial for trial in trials if trial.cause]
    told = "".join(
        f"<details><summary>trial {trial.number}: {escape(first_line(trial.cause or ''))}</summary>"
        f"<p>{escape(figures.told(trial.sampled))}</p><pre>{escape(trial.traceback or trial.cause or '')}</pre></details>"
        for trial in failed
    )
    return f"<h2>Failures</h2>{told}" if told else ""


def _score(value: float | None) -> str:
    return f"{value:.4f}" if value is not None else "–"
