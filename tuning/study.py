"""START HERE: a study from plan to winning recipe. Ray Tune schedules the trials, Optuna samples (``space.py``), ``trial.py`` trains.

``plan_study`` says what would run; ``run_study`` runs it and writes ``study.json`` and ``best_recipe.yaml`` into the study's folder. The
winning recipe names the winning trial's checkpoint, so that the fine-tune goes on where the trial stopped.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from cluster.background import Background
from cluster.session import Session
from foundation.config import dump_yaml
from foundation.errors import ConfigError, RunError
from foundation.home import home, new_run_id, write_atomically, write_json
from foundation.progress import duration, say
from foundation.references import check_model_folder, resolve
from training.beginning_checks import check_embeddings, check_length, check_start
from training.fitting import fitting
from training.planning import (
    check_room,
    checkpoint_bytes,
    count_parameters,
    counter_of,
    findings_of,
    read_labelled,
    total_steps,
)
from training.runs import TOKENS_FOLDER
from tuning.config import AshaConfig, ChoiceDimension, MedianStopConfig, NoScheduler, Scheduler, StudyConfig
from tuning.space import draw, first_points, new_sampler
from tuning.trial import run_trial, trial_recipe


@dataclass(frozen=True)
class StudyPlan:
    """A study before it is started."""

    study_id: str
    study_folder: str
    config: dict[str, Any]
    locations: dict[str, str]
    """Encoder REF to folder."""
    metric: str
    mode: str
    cpus: float
    """At once."""
    steps_at_most: int
    """Optimiser steps if no trial were stopped."""
    rungs: tuple[int, ...]
    """Steps at which trials are compared, and some stopped."""
    findings: tuple[dict[str, Any], ...] = ()
    """What the checks of labelled rows warn of; tokens are counted with the first encoder's tokenizer."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class TrialRow:
    """One trial's outcome."""

    trial: str
    sampled: dict[str, Any]
    step: int
    score: float | None
    seconds: float
    state: str
    """``finished`` (full budget), ``stopped`` (by the scheduler) or ``failed``."""


@dataclass(frozen=True)
class StudyResult:
    """What a finished study left."""

    study_id: str
    study_folder: str
    best_recipe: str
    best: TrialRow
    trials: tuple[TrialRow, ...]
    metric: str
    seconds: float
    findings: tuple[dict[str, Any], ...] = ()
    """What the checks of the labelled rows warned of."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plan_study(config: StudyConfig) -> StudyPlan:
    """Check a study against its data and encoders. Starts and writes nothing.

    Raises:
        InputError: What is wrong with recipe, data or an encoder.
    """
    data = read_labelled(config.recipe)
    if not len(data.validation):
        raise ConfigError("recipe.data.validation_fraction: is 0, but a study chooses on validation rows; set it above 0")
    config = config.model_copy(update={"recipe": fitting(config.recipe, data)})
    encoder = config.space.get("encoder")
    references = [str(value) for value in encoder.values] if isinstance(encoder, ChoiceDimension) else [config.recipe.encoder]
    locations = {}
    for reference in references:
        # The recipe's own validation decides what a REF means (a relative folder becomes absolute), so ask it.
        named = trial_recipe(config.recipe, {"encoder": reference}).encoder
        locations[named] = resolve(named).location
        check_model_folder(locations[named])
        check_length(locations[named], config.recipe.max_length)
        check_embeddings(locations[named])
    check_start(config.recipe)
    findings = findings_of(data, config.recipe, counter_of(next(iter(locations.values()))))
    parameters = max((count_parameters(Path(place)) or 0 for place in locations.values()), default=0)
    check_room(home().runs, study_bytes(parameters, config))
    study_id = new_run_id("tune")
    steps = min(config.scheduler.max_steps, total_steps(config.recipe, len(data.train)))
    return StudyPlan(
        study_id=study_id,
        study_folder=str(home().runs / study_id),
        config=config.model_dump(mode="json"),
        locations=locations,
        metric=config.recipe.score,
        mode=config.recipe.score_order,
        cpus=config.concurrent * config.recipe.workers.cpus_each,
        steps_at_most=steps * config.trials,
        rungs=tuple(rung for rung in config.scheduler.rungs if rung < steps),
        findings=tuple(finding.as_json() for finding in findings),
    )


def study_bytes(parameters: int, config: StudyConfig) -> int:
    """Bytes that a study's folder may hold at once: a checkpoint for each trial, and one more for each that is writing its next."""
    return (config.trials + config.concurrent) * checkpoint_bytes(parameters)


def run_study(plan: StudyPlan, session: Session) -> StudyResult:
    """Run a planned study to its end.

    Raises:
        RunError: No trial finished a report.
    """
    config = StudyConfig.model_validate(plan.config)
    folder = Path(plan.study_folder)
    folder.mkdir(parents=True)
    write_atomically(folder / "study.yaml", dump_yaml(config))
    say(f"tune: study {plan.study_id} on {session.address}: {config.trials} trials, {config.concurrent} at once, metric {plan.metric}")
    began = time.monotonic()
    try:
        results = _fit(plan, config)
    finally:
        shutil.rmtree(folder / TOKENS_FOLDER, ignore_errors=True)
    rows = [_row(result, plan.metric, config) for result in results]
    scored = [(row.score, result, row) for result, row in zip(results, rows, strict=True) if row.score is not None and result.checkpoint]
    if not scored:
        errors = [str(result.error).strip().splitlines()[-1] for result in results if result.error]
        raise RunError(f"tune: no trial of {plan.study_id} reported: {errors[0] if errors else 'all were stopped at once'}; see {folder}")
    sign = 1 if plan.mode == "max" else -1
    _, winner, best = max(scored, key=lambda item: sign * item[0])
    recipe = trial_recipe(config.recipe, {**best.sampled, "start_from": str(winner.checkpoint.path)})
    best_recipe = folder / "best_recipe.yaml"
    write_atomically(best_recipe, dump_yaml(recipe))
    outcome = StudyResult(
        study_id=plan.study_id,
        study_folder=str(folder),
        best_recipe=str(best_recipe),
        best=best,
        trials=tuple(rows),
        metric=plan.metric,
        seconds=round(time.monotonic() - began, 2),
        findings=plan.findings,
    )
    write_json(folder / "study.json", outcome.as_json())
    return outcome


def _fit(plan: StudyPlan, config: StudyConfig) -> list[Any]:
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from tuning.watching import Watch

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each study
    trainable = tune.with_parameters(
        run_trial,
        base=plan.config["recipe"],
        locations=plan.locations,
        tokens=str(Path(plan.study_folder) / TOKENS_FOLDER),
        max_steps=config.scheduler.max_steps,
        report_every_steps=config.report_every_steps,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": config.recipe.workers.cpus_each, "GPU": config.recipe.workers.gpus_each}),
        tune_config=tune.TuneConfig(
            metric=plan.metric,
            mode=plan.mode,
            num_samples=config.trials,
            max_concurrent_trials=config.concurrent,
            search_alg=OptunaSearch(
                partial(draw, space=config.space),
                metric=plan.metric,
                mode=plan.mode,
                sampler=new_sampler(config.sampler, config.seed),
                points_to_evaluate=first_points(config) or None,
            ),
            scheduler=_scheduler(config.scheduler),
        ),
        run_config=tune.RunConfig(
            name=plan.study_id,
            storage_path=str(Path(plan.study_folder).parent),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            callbacks=[Watch(config.trials, plan.metric, plan.mode)],
            verbose=0,
        ),
    )
    with Background(lambda: list(tuner.fit()), name="ray-tune") as work:
        try:
            found: list[Any] = work.result()
        except Exception as error:
            raise RunError(f"tune: study {plan.study_id} failed: {str(error).strip().splitlines()[-1]}") from error
    return found


def _scheduler(scheduler: Scheduler) -> Any:
    """Tune's scheduler."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule

    match scheduler:
        case NoScheduler():
            return FIFOScheduler()
        case AshaConfig():
            # One bracket: with more, Tune draws brackets from an unseeded generator.
            return AsyncHyperBandScheduler(
                time_attr="step",
                max_t=scheduler.max_steps,
                grace_period=scheduler.grace_steps,
                reduction_factor=scheduler.reduction_factor,
                brackets=1,
            )
        case MedianStopConfig():
            return MedianStoppingRule(
                time_attr="step", grace_period=scheduler.grace_steps, min_samples_required=scheduler.least_trials, hard_stop=True
            )
        case _:
            assert_never(scheduler)


def _row(result: Any, metric: str, config: StudyConfig) -> TrialRow:
    metrics = result.metrics or {}
    step = int(metrics.get("step", 0))
    state = "failed" if result.error else "finished" if step >= metrics.get("steps", config.scheduler.max_steps) else "stopped"
    return TrialRow(
        trial=str(metrics.get("trial_id", Path(result.path).name)),
        sampled=dict(result.config or {}),
        step=step,
        score=metrics.get(metric),
        seconds=round(float(metrics.get("trial_seconds", 0.0)), 1),
        state=state,
    )


def table(result: StudyResult) -> str:
    """The study for people: a line a trial, best first."""
    rows = sorted(result.trials, key=lambda row: -(row.score if row.score is not None else float("-inf")))
    lines = [f"{'trial':<12} {result.metric:>10} {'steps':>6} {'time':>8} {'state':<9} sampled"]
    for row in rows:
        score = f"{row.score:.4f}" if row.score is not None else "–"
        sampled = ", ".join(f"{key}={_short(value)}" for key, value in row.sampled.items())
        lines.append(f"{row.trial:<12} {score:>10} {row.step:>6} {duration(row.seconds):>8} {row.state:<9} {sampled}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return text if len(text) <= 48 else f"…{text[-47:]}"
