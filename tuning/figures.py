"""The figures of a study's page, as plotly's: Optuna's own where it has one, from the study's record. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from tuning.config import ChoiceDimension, StudyConfig
from tuning.record import Trial, short
from tuning.repeats import Repeated
from tuning.space import draw

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go

RESAMPLES = 20
"""Of the trials, for the uncertainty of importances."""
LEAST_FOR_IMPORTANCE = 6
"""Scored trials; of fewer, nothing is told."""
STATES = {"finished": "#2f6f9f", "stopped": "#c2571a", "failed": "#b03a55", "unfinished": "#8a949e"}
_PAIRED = 3
"""Most hyperparameters in the figure of pairs."""


@dataclass(frozen=True)
class Importance:
    """One hyperparameter's share of the score's variance, by fANOVA (Hutter et al. 2014)."""

    key: str
    share: float
    """Mean over resamples, of 1."""
    low: float
    """A tenth of the resamples lie below."""
    high: float
    """A tenth lie above."""


@dataclass(frozen=True)
class Rung:
    """One step at which trials were compared."""

    step: int
    reached: int
    stopped: int
    lowest_that_went_on: float | None
    highest_that_was_stopped: float | None
    """Both in the study's sense: with mode min, the highest that went on and the lowest that was stopped."""


def as_optuna(config: StudyConfig, trials: Sequence[Trial], mode: str) -> optuna.Study:
    """The study in Optuna's terms, in memory; trials that have not ended are left out."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    for trial in trials:
        if trial.state == "unfinished":
            continue
        fixed = optuna.trial.FixedTrial(dict(trial.sampled), trial.number)
        draw(fixed, config.space)
        failed = trial.state == "failed" or trial.score is None
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
                value=None if failed else trial.score,
                params=fixed.params,
                distributions=fixed.distributions,
                intermediate_values={report.step: report.score for report in trial.reports},
            )
        )
    return study


def history(study: optuna.Study, metric: str) -> go.Figure:
    """Each trial's score, and the best so far."""
    from optuna.visualization import plot_optimization_history

    return plot_optimization_history(study, target_name=metric)


def parallel(study: optuna.Study, metric: str) -> go.Figure | None:
    """A line for each trial over its hyperparameters; those that not every trial has are left out."""
    from optuna.visualization import plot_parallel_coordinate

    keys = common(study)
    return plot_parallel_coordinate(study, params=keys, target_name=metric) if keys else None


def slices(study: optuna.Study, metric: str) -> go.Figure:
    """The score over each hyperparameter."""
    from optuna.visualization import plot_slice

    return plot_slice(study, target_name=metric)


def contour(study: optuna.Study, metric: str, keys: Sequence[str]) -> go.Figure | None:
    """The score over pairs of hyperparameters, of these."""
    from optuna.visualization import plot_contour

    return plot_contour(study, params=[*keys], target_name=metric) if len(keys) > 1 else None


def common(study: optuna.Study) -> list[str]:
    """Hyperparameters that every scored trial has, and of which there are two values at least."""
    from optuna.trial import TrialState

    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    keys = [key for key in (scored[0].params if scored else {}) if all(key in trial.params for trial in scored)]
    return [key for key in keys if len({str(trial.params[key]) for trial in scored}) > 1]


def importances(study: optuna.Study, *, seed: int = 0) -> list[Importance]:
    """Of each hyperparameter that every trial has, the greatest first; empty when there are too few trials, or all score alike."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    keys = common(study)
    if len(scored) < LEAST_FOR_IMPORTANCE or not keys or len({trial.value for trial in scored}) < 2:
        return []
    chance = np.random.default_rng(seed)
    found: dict[str, list[float]] = {key: [] for key in keys}
    for number in range(RESAMPLES):
        drawn = [scored[place] for place in chance.integers(len(scored), size=len(scored))]
        varied = [key for key in keys if len({str(trial.params[key]) for trial in drawn}) > 1]
        if not varied or len({trial.value for trial in drawn}) < 2:
            continue
        resampled = optuna.create_study(direction=study.direction)
        resampled.add_trials(drawn)
        told = get_param_importances(resampled, evaluator=FanovaImportanceEvaluator(n_trees=32, seed=number), params=varied)
        for key in keys:
            found[key].append(told.get(key, 0.0))
    rows = [
        Importance(key, float(np.mean(shares)), float(np.percentile(shares, 10)), float(np.percentile(shares, 90)))
        for key, shares in found.items()
        if shares
    ]
    return sorted(rows, key=lambda row: -row.share)


def importance_bars(found: Sequence[Importance]) -> go.Figure:
    """Shares with their spread over resamples."""
    import plotly.graph_objects as go

    rows = [*reversed(found)]
    bars = go.Bar(
        x=[row.share for row in rows],
        y=[row.key for row in rows],
        orientation="h",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [row.high - row.share for row in rows],
            "arrayminus": [row.share - row.low for row in rows],
        },
        marker_color="#2f6f9f",
    )
    return go.Figure(bars).update_layout(xaxis_title="share of the score's variance", xaxis_range=[0, 1.05])


def learning_curves(trials: Sequence[Trial], metric: str, rungs: Sequence[int]) -> go.Figure:
    """The score over optimiser steps, a line for each trial; rungs as dotted lines, and a cross where a trial was stopped."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for trial in trials:
        if not trial.reports:
            continue
        steps, scores = [report.step for report in trial.reports], [report.score for report in trial.reports]
        figure.add_scatter(
            x=steps,
            y=scores,
            mode="lines+markers",
            name=f"{trial.number} {trial.state}",
            line={"color": STATES[trial.state], "width": 1.5},
            marker={"size": [4] * (len(steps) - 1) + [10 if trial.state == "stopped" else 6], "symbol": _ends(trial, len(steps))},
            hovertext=f"trial {trial.number}<br>{told(trial.sampled)}",
        )
    for rung in rungs:
        figure.add_vline(x=rung, line_dash="dot", line_color="#8a949e")
    return figure.update_layout(xaxis_title="optimiser steps", yaxis_title=metric)


def score_by_cost(trials: Sequence[Trial], parameters: Mapping[str, int], default: str, metric: str) -> go.Figure:
    """Each trial's score over the seconds that it trained; the larger the dot, the larger its encoder.

    Args:
        trials: Of the study.
        parameters: Encoder to its parameters.
        default: The encoder of trials that did not draw one.
        metric: The score's name.
    """
    import plotly.graph_objects as go

    scored = [trial for trial in trials if trial.score is not None]
    sizes = [parameters.get(str(trial.sampled.get("encoder", default)), 0) for trial in scored]
    largest = max([*sizes, 1])
    dots = go.Scatter(
        x=[trial.seconds for trial in scored],
        y=[trial.score for trial in scored],
        mode="markers+text",
        text=[str(trial.number) for trial in scored],
        textposition="top center",
        marker={
            "size": [8 + 16 * (size / largest) ** 0.5 for size in sizes],
            "color": [STATES[trial.state] for trial in scored],
            "opacity": 0.8,
        },
        hovertext=[
            f"trial {trial.number}, {size:,} parameters<br>{told(trial.sampled)}" for trial, size in zip(scored, sizes, strict=True)
        ],
    )
    return go.Figure(dots).update_layout(xaxis_title="seconds of training", yaxis_title=metric)


def score_by_latency(trials: Sequence[Trial], metric: str, most: float | None) -> go.Figure | None:
    """Each trial's score over how long its model takes for an answer, with the most that a study allows; None where nobody measured it."""
    import plotly.graph_objects as go

    timed = [(trial, report.figures["latency_ms"]) for trial in trials if (report := trial.best) and "latency_ms" in report.figures]
    if not timed:
        return None
    dots = go.Scatter(
        x=[latency for _, latency in timed],
        y=[trial.score for trial, _ in timed],
        mode="markers+text",
        text=[str(trial.number) for trial, _ in timed],
        textposition="top center",
        marker={"size": 10, "color": [STATES["failed"] if trial.over else STATES[trial.state] for trial, _ in timed]},
        hovertext=[f"trial {trial.number}<br>{told(trial.sampled)}" for trial, _ in timed],
    )
    figure = go.Figure(dots).update_layout(xaxis_title="ms for one text", yaxis_title=metric)
    return figure.add_vline(x=most, line_dash="dot") if most is not None else figure


def repeated_scores(repeated: Sequence[Repeated], metric: str) -> go.Figure:
    """Scores of trials with other seeds, and where the mean of more of them would lie."""
    import plotly.graph_objects as go

    names = [f"trial {item.trial}" for item in repeated]
    figure = go.Figure()
    figure.add_scatter(
        x=names,
        y=[item.mean for item in repeated],
        error_y={"array": [(item.high or item.mean) - item.mean for item in repeated]},
        mode="markers",
        name="mean, 95 %",
        marker={"color": STATES["finished"], "size": 11},
    )
    each = [(name, seed, score) for name, item in zip(names, repeated, strict=True) for seed, score in item.scores.items()]
    figure.add_scatter(
        x=[name for name, _, _ in each],
        y=[score for _, _, score in each],
        mode="markers",
        name="one seed",
        hovertext=[f"seed {seed}" for _, seed, _ in each],
        marker={"color": STATES["unfinished"], "symbol": "line-ew-open", "size": 16},
    )
    return figure.update_layout(yaxis_title=metric)


def timeline(trials: Sequence[Trial]) -> go.Figure:
    """When each trial trained, and in which worker."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for state, colour in STATES.items():
        spans = [(trial, span) for trial in trials if trial.state == state for span in trial.spans]
        if spans:
            figure.add_bar(
                base=[datetime.fromtimestamp(span.began, UTC) for _, span in spans],
                x=[1000 * (span.ended - span.began) for _, span in spans],
                y=[span.worker for _, span in spans],
                orientation="h",
                name=state,
                marker={"color": colour, "line": {"color": "white", "width": 1}},
                text=[str(trial.number) for trial, _ in spans],
                hovertext=[f"trial {trial.number}, {span.ended - span.began:.1f} s<br>{told(trial.sampled)}" for trial, span in spans],
            )
    return figure.update_layout(barmode="overlay", xaxis_type="date", xaxis_title="UTC", yaxis_title="worker")


def rungs_of(trials: Sequence[Trial], steps: Sequence[int], mode: str) -> list[Rung]:
    """What happened at each rung: of each trial, its first report at or after it."""
    sign = 1 if mode == "max" else -1
    found = []
    for step in steps:
        at = [next((report for report in trial.reports if report.step >= step), None) for trial in trials]
        reports = [report for report in at if report is not None]
        on = [report.score for report in reports if report.goes_on]
        off = [report.score for report in reports if not report.goes_on and report.step < report.figures["steps"]]
        found.append(
            Rung(
                step,
                len(reports),
                len(off),
                min(on, key=lambda score: sign * score, default=None),
                max(off, key=lambda score: sign * score, default=None),
            )
        )
    return found


def told(sampled: Mapping[str, Any]) -> str:
    """Hyperparameters in a few words."""
    return ", ".join(f"{key} {short(value)}" for key, value in sampled.items())


def pairs(found: Sequence[Importance], study: optuna.Study, config: StudyConfig) -> list[str]:
    """The hyperparameters for a figure of pairs: the most important numbers first, else as they come."""
    keys = [row.key for row in found] or common(study)
    numbers = [key for key in keys if not isinstance(config.space.get(key), ChoiceDimension)]
    return (numbers if len(numbers) > 1 else keys)[:_PAIRED]


def _ends(trial: Trial, count: int) -> list[str]:
    return ["circle"] * (count - 1) + ["x" if trial.state in ("stopped", "failed") else "circle"]
