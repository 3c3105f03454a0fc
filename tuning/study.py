"""START HERE: a study from plan to winning recipe. Ray Tune runs the trials, Optuna samples (``space.py``), ``trial.py`` trains.

``plan_study`` says what would run; ``run_study`` runs it, or goes on with it. What happens is in the study's own record (``record.py``):
the result is told from it, and a study goes on from it whose driver is gone. Then the sampler (``searching.py``) and the scheduler
(``scheduling.py``) know what they knew, and Tune is begun anew (``running.py``). Of the winner two recipes are left: one trains its
model anew, exactly, one goes on from its checkpoint to the end of the schedule.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.session import Session
from corpus.shards import PackedRows
from foundation import driving
from foundation.config import dump_yaml
from foundation.driving import driven_folder
from foundation.errors import ConfigError, RunError, first_line
from foundation.home import home, new_run_id, write_atomically, write_json
from foundation.progress import duration, say
from foundation.references import check_model_folder, resolve
from training.beginning_checks import check_embeddings, check_length, check_start
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.fitting import fitting
from training.planning import (
    check_room,
    checkpoint_bytes,
    count_parameters,
    counter_of,
    findings_of,
    plan,
    read_labelled,
    total_steps,
)
from training.runs import TOKENS_FOLDER
from training.verb_config import Verb, verb_of
from tuning import studies
from tuning.budget import Spent, limits_told, share, spent
from tuning.config import ChoiceDimension, StudyConfig
from tuning.constraints import told
from tuning.population import Stretch, lineage
from tuning.record import Record, Trial, short
from tuning.recording import StudyRuns
from tuning.repeats import Repeated
from tuning.resuming import check_resumable
from tuning.scheduler_config import PopulationConfig
from tuning.studies import Study
from tuning.trial import trial_recipe
from tuning.winner import leave_recipes


@dataclass(frozen=True)
class Resumption:
    """Where a study stands that is gone on with."""

    ended: int
    """Trials; they are kept."""
    unfinished: dict[int, int]
    """Trials to the steps that they go on from."""


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
    """Optimiser steps of the search if the scheduler stopped no trial."""
    trial_steps: int
    """Of a trial that nobody stops."""
    repeat_steps_at_most: int
    """Of the best trials with other seeds, after it."""
    rungs: tuple[int, ...]
    """Steps at which trials are compared, and some stopped."""
    data_fingerprint: str
    findings: tuple[dict[str, Any], ...] = ()
    """What the checks of labelled rows warn of; tokens are counted with the first encoder's tokenizer."""
    verb: Verb = "finetune"
    """Of the recipe, and of those that the study leaves."""
    resumes: Resumption | None = None
    """Set when it goes on with a study that its driver left."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class TrialRow:
    """One trial's outcome."""

    trial: int
    """From 0."""
    sampled: dict[str, Any]
    step: int
    """That it trained to."""
    score: float | None
    """The best of its reports."""
    best_step: int | None
    """Of that report."""
    seconds: float
    state: str
    """``finished`` (full budget), ``stopped`` (by the scheduler) or ``failed``."""
    cause: str | None = None
    """Of a failure."""
    restarts: int = 0
    """Times that it began again from its last checkpoint."""
    over: dict[str, float] = field(default_factory=dict)
    """Figures beyond what the constraints allow."""


@dataclass(frozen=True)
class StudyResult:
    """What a finished study left."""

    study_id: str
    study_folder: str
    best_recipe: str | None
    """Trains the winning model anew, from the first step; names nothing of the study. None of a population, whose winner has no one
    recipe."""
    continued_recipe: str | None
    """Goes on from the winning trial's last checkpoint, to the end of the schedule; there already, it exports the model."""
    refit_recipe: str | None
    """Trains the winning model anew, on training and validation rows; None where they cannot be done without, and of a pretraining."""
    report: str
    """An HTML file."""
    best: TrialRow
    trials: tuple[TrialRow, ...]
    metric: str
    mode: str
    seconds: float
    """Of this command."""
    spent: Spent
    """By the search."""
    repeated: tuple[Repeated, ...]
    """What the best trials reached with other seeds, the best mean first: none without ``repeat``."""
    lineage: tuple[Stretch, ...] = ()
    """Of a population: by which members the winning model was trained, and with which hyperparameters."""
    findings: tuple[dict[str, Any], ...] = ()
    """What the checks of the labelled rows warned of."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plan_study(config: StudyConfig, *, study_id: str | None = None, resumes: Study | None = None) -> StudyPlan:
    """Check a study against its data and encoders. Starts and writes nothing.

    Args:
        config: The study.
        study_id: Its name; default: one that was never used.
        resumes: The study to go on with, which has a name.

    Raises:
        InputError: What is wrong with recipe, data or an encoder; or with going on.
    """
    found = _of_labelled(config) if isinstance(config.recipe, FinetuneConfig) else _of_packed(config)
    config = config.model_copy(update={"recipe": found.recipe})
    check_start(config.recipe)
    check_room(home().runs, study_bytes(found.parameters, config))
    study_id = resumes.study_id if resumes else study_id or new_run_id("tune")
    steps = min(config.scheduler.max_steps, total_steps(config.recipe, found.rows))
    planned = StudyPlan(
        study_id=study_id,
        study_folder=str(resumes.folder if resumes else home().runs / study_id),
        config=config.model_dump(mode="json"),
        locations=found.locations,
        metric=config.recipe.score,
        mode=config.recipe.score_order,
        cpus=config.concurrent * config.recipe.workers.most * config.recipe.workers.cpus_each,
        steps_at_most=_steps_at_most(config, steps),
        trial_steps=steps,
        repeat_steps_at_most=_repeats(config) * steps,
        rungs=tuple(rung for rung in config.scheduler.rungs if rung < steps),
        data_fingerprint=found.data_fingerprint,
        findings=found.findings,
        verb=verb_of(config.recipe),
    )
    if resumes is None:
        return planned
    check_resumable(resumes, config, planned.as_json())
    unfinished = {number: trial.step for number, trial in resumes.trials.items() if trial.state == "unfinished"}
    return replace(planned, resumes=Resumption(len(resumes.trials) - len(unfinished), unfinished))


@dataclass(frozen=True)
class _Found:
    """What a study's data and encoders are."""

    recipe: RunConfig
    """With the metric that ``auto`` stands for."""
    locations: dict[str, str]
    parameters: int
    """Of the largest encoder; 0 when its weights are not on this machine yet."""
    rows: int
    """To train on."""
    data_fingerprint: str
    findings: tuple[dict[str, Any], ...] = ()


def _of_labelled(config: StudyConfig) -> _Found:
    assert isinstance(config.recipe, FinetuneConfig)
    data = read_labelled(config.recipe)
    if not len(data.validation):
        raise ConfigError("recipe.data.validation_fraction: is 0, but a study chooses on validation rows; set it above 0")
    recipe, locations = fitting(config.recipe, data), {}
    for named in _encoders(config):
        locations[named] = resolve(named).location
        check_model_folder(locations[named])
        check_length(locations[named], recipe.max_length)
        check_embeddings(locations[named])
    findings = findings_of(data, recipe, counter_of(next(iter(locations.values()))))
    parameters = max((count_parameters(Path(place)) or 0 for place in locations.values()), default=0)
    told = tuple(finding.as_json() for finding in findings)
    return _Found(recipe, locations, parameters, len(data.train), data.fingerprint, told)


def _of_packed(config: StudyConfig) -> _Found:
    assert isinstance(config.recipe, PretrainConfig)
    PackedRows.open(Path(config.recipe.data), "validation", check=False)  # refuses a build that has none, by which a study chooses
    if config.recipe.new_model is None:
        plans = {named: plan("pretrain", trial_recipe(config.recipe, {"encoder": named})) for named in _encoders(config)}
    else:
        plans = {config.recipe.encoder: plan("pretrain", config.recipe)}
    first = next(iter(plans.values()))
    locations = {named: found.location for named, found in plans.items()}
    return _Found(config.recipe, locations, max(found.parameters or 0 for found in plans.values()), first.rows, first.data_fingerprint)


def _encoders(config: StudyConfig) -> list[str]:
    """Those that trials begin from, as the recipe names them."""
    dimension = config.space.get("encoder")
    references = [str(value) for value in dimension.values] if isinstance(dimension, ChoiceDimension) else [config.recipe.encoder]
    # The recipe's own validation decides what a REF means (a relative folder becomes absolute), so ask it.
    return [trial_recipe(config.recipe, {"encoder": reference}).encoder for reference in references]


def _steps_at_most(config: StudyConfig, steps: int) -> int:
    limit = config.budget.steps if config.budget else None
    # When it is spent, each trial that runs goes on to its next report.
    return min(steps * config.trials, limit + config.concurrent * config.report_every_steps if limit else steps * config.trials)


def _repeats(config: StudyConfig) -> int:
    return min(config.repeat.top, config.trials) * config.repeat.seeds if config.repeat else 0


def study_bytes(parameters: int, config: StudyConfig) -> int:
    """Bytes that a study's folder may hold at once: a checkpoint for each trial, and one more for each that is writing its next."""
    return (config.trials + _repeats(config) + config.concurrent) * checkpoint_bytes(parameters)


def run_study(plan: StudyPlan, session: Session) -> StudyResult:
    """Run a planned study to its end, or go on with one.

    Raises:
        ConfigError: Its name came into use since it was planned, or another process drives it.
        RunError: No trial finished a report.
    """
    folder = Path(plan.study_folder)
    with driven_folder(folder, studies.STUDY_FILE, is_new=plan.resumes is None):
        return _run(plan, session, folder)


def _run(plan: StudyPlan, session: Session, folder: Path) -> StudyResult:
    from tuning import running  # imports Ray
    from tuning.report import write_report

    config = StudyConfig.model_validate(plan.config)
    study_file = folder / studies.STUDY_FILE
    if plan.resumes is None:
        driving.begin(study_file, attempts=1, plan=plan.as_json())
        say(f"tune: study {plan.study_id} on {session.address}: {config.trials} trials, {config.concurrent} at once, metric {plan.metric}")
    else:
        driving.go_on(study_file, attempts=studies.open_study(str(folder)).attempts + 1, plan=plan.as_json())
        begun = plan.resumes.ended + len(plan.resumes.unfinished)
        say(
            f"tune: study {plan.study_id} on {session.address} goes on: {plan.resumes.ended} of {config.trials} trials have ended, "
            f"{len(plan.resumes.unfinished)} go on, {config.trials - begun} are new"
        )
    write_atomically(folder / studies.CONFIG_FILE, dump_yaml(config))
    runs = StudyRuns(folder, Record(folder / studies.RECORD_FILE))
    began = time.monotonic()
    state = "failed"
    try:
        with runs.following():
            if isinstance(config.scheduler, PopulationConfig):
                running.evolve(plan, config, folder)
            else:
                running.search(plan, config, folder)
                running.repeat(plan, config, folder)
        outcome = _outcome(plan, config, folder, round(time.monotonic() - began, 2))
        write_json(folder / studies.RESULT_FILE, outcome.as_json())
        if config.budget and share(outcome.spent, config.budget) >= 1:
            used, count = limits_told(outcome.spent, config.budget), len(outcome.trials)
            say(f"tune: the budget is spent ({used}), and {count} of {config.trials} trials were begun")
        shutil.rmtree(folder / TOKENS_FOLDER, ignore_errors=True)
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        if state != "finished":
            say(f"tune: {state}; to go on: raybert tune --resume {plan.study_id}")
        runs.finish(state)
        driving.end(study_file, state)
    write_report(studies.open_study(str(folder)))
    return outcome


def _outcome(plan: StudyPlan, config: StudyConfig, folder: Path, seconds: float) -> StudyResult:
    study = studies.open_study(str(folder))
    trials, best = [*study.trials.values()], study.best
    rows = {trial.number: _row(trial) for trial in trials}
    if best is None:
        causes = [trial.cause or told(trial.over, config.constraints) for trial in trials if trial.cause or trial.over]
        raise RunError(
            f"tune: no trial of {plan.study_id} ended as it had to: {causes[0] if causes else 'all were stopped at once'}; see {folder}"
        )
    left = leave_recipes(folder, config, best)
    ways = lineage(study.trials, best.number) if best.is_member else ()
    return StudyResult(
        study_id=plan.study_id,
        study_folder=str(folder),
        best_recipe=str(left.best) if left.best else None,
        continued_recipe=str(left.continued) if left.continued else None,
        refit_recipe=str(left.refit) if left.refit else None,
        report=str(folder / studies.REPORT_FILE),
        best=rows[best.number],
        trials=tuple(rows.values()),
        metric=plan.metric,
        mode=plan.mode,
        seconds=seconds,
        spent=spent(trials, config),
        repeated=study.repeated,
        lineage=ways,
        findings=plan.findings,
    )


def _row(trial: Trial) -> TrialRow:
    return TrialRow(
        trial=trial.number,
        sampled=dict(trial.sampled),
        step=trial.step,
        score=trial.score,
        best_step=trial.best.step if trial.best else None,
        seconds=round(trial.seconds, 1),
        state=trial.state,
        cause=trial.cause,
        restarts=trial.restarts,
        over=dict(trial.over),
    )


def table(result: StudyResult) -> str:
    """The study for people: a line a trial, best first."""
    sign = 1 if result.mode == "max" else -1
    rows = sorted(result.trials, key=lambda row: -sign * row.score if row.score is not None else float("inf"))
    lines = [f"{'trial':>5} {result.metric:>10} {'steps':>6} {'time':>8} {'state':<9} sampled"]
    for row in rows:
        score = f"{row.score:.4f}" if row.score is not None else "–"
        sampled = ", ".join(f"{key}={short(value)}" for key, value in row.sampled.items())
        lines.append(f"{row.trial:>5} {score:>10} {row.step:>6} {duration(row.seconds):>8} {row.state:<9} {sampled}")
        if row.cause:
            lines.append(f"      {first_line(row.cause)}")
        if row.over:
            lines.append(f"      beyond the constraints: {', '.join(f'{name} {value:.4g}' for name, value in row.over.items())}")
    if result.repeated:
        lines.append("with other seeds, which did not choose them:")
        lines += [f"{item.trial:>5} {repeated_told(item)}" for item in result.repeated]
    return "\n".join(lines)


def repeated_told(item: Repeated) -> str:
    """``mean 0.8512 (95 %: 0.8401 to 0.8623) of 3 seeds, not distinguishable from the best``."""
    interval = f" (95 %: {item.low:.4f} to {item.high:.4f})" if item.low is not None else ""
    seeds = f"{len(item.scores)} seed" + "s" * (len(item.scores) != 1)
    against = {None: "", True: ", worse than the best", False: ", not distinguishable from the best"}[item.differs]
    return f"mean {item.mean:.4f}{interval} of {seeds}{against}"
