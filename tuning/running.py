"""The trials of one attempt at a study, run by Ray Tune: those that go on, then new ones; at last the best with other seeds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.background import Background
from foundation.errors import RunError
from foundation.progress import say
from tuning import resuming, studies
from tuning.budget import share, spent
from tuning.config import StudyConfig
from tuning.evolving import Population, boundaries
from tuning.gang import resources_of
from tuning.record import Record, Story, Trial
from tuning.scheduler_config import NoScheduler, PopulationConfig
from tuning.scheduling import Rule, Scheduler
from tuning.searching import Again, Listed, Start, StudySearch, handed_out_again, open_storage, reconcile
from tuning.trial import run_trial
from tuning.watching import Watch

if TYPE_CHECKING:
    from tuning.study import StudyPlan

_ENVIRONMENT = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails reports so, instead of a score
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",  # of Tune's own snapshots, which nobody needs
}


def search(plan: StudyPlan, config: StudyConfig, folder: Path) -> None:
    """Run what is left of a study's search.

    Raises:
        RunError: Tune itself failed.
    """
    found, record = studies.open_study(str(folder)), Record(folder / studies.RECORD_FILE)
    storage = open_storage(config.storage or f"sqlite:///{folder / studies.STORAGE_FILE}", plan.study_id, config, plan.mode)
    unheard = reconcile(storage, config, found.trials)
    begun = [_going_on(folder, trial, record) for trial in found.trials.values() if trial.state == "unfinished"]
    for number, sampled in unheard.items():
        record.begun(number, sampled)
    waiting = [*begun, *(Start(number, sampled) for number, sampled in unheard.items())]
    count = len(begun) + config.trials - len(found.trials)
    if not count:
        return
    story = Story(record.path, plan.mode)
    again = _again(config, folder, story)
    searcher = StudySearch(storage, config, waiting, record, story, metric=plan.metric, mode=plan.mode, again=again)
    _tune_within_budget(plan, config, found, record, story, searcher, count=count)


def evolve(plan: StudyPlan, config: StudyConfig, folder: Path) -> None:
    """Run what is left of a population's training.

    Raises:
        RunError: Tune itself failed.
    """
    assert isinstance(config.scheduler, PopulationConfig)
    found, record = studies.open_study(str(folder)), Record(folder / studies.RECORD_FILE)
    story = Story(record.path, plan.mode)
    count = config.trials * len(boundaries(config.scheduler, plan.trial_steps))
    again = _again(config, folder, story)
    population = Population(config, folder, record, story, steps=plan.trial_steps, metric=plan.metric, mode=plan.mode, again=again)
    stretches = (count - population.stretches_left, count)
    _tune_within_budget(plan, config, found, record, story, population, count=count, stretches=stretches)


def _tune_within_budget(
    plan: StudyPlan,
    config: StudyConfig,
    found: studies.Study,
    record: Record,
    story: Story,
    searcher: Any,
    *,
    count: int,
    stretches: tuple[int, int] | None = None,
) -> None:
    """Hand Tune what is left, under the study's scheduler, budget and constraints."""
    rule = Rule(config.scheduler, plan.mode)
    rule.replay(found.rows)

    def used() -> float:
        return share(spent(story.trials().values(), config), config.budget)

    _tune(
        plan,
        config,
        found.folder,
        searcher,
        Scheduler(rule, record, plan.metric, lambda: used() >= 1, config.constraints),
        Watch(
            record,
            lambda: story.trials().values(),
            count=config.trials,
            max_failures=config.recipe.workers.max_failures,
            metric=plan.metric,
            mode=plan.mode,
            spent=used if config.budget else None,
            stretches=stretches,
        ),
        count=count,
        attempt=studies.attempt_folder(found.attempts),
    )


def repeat(plan: StudyPlan, config: StudyConfig, folder: Path) -> None:
    """Train the best trials with other seeds, those that have not been yet.

    Raises:
        RunError: Tune itself failed.
    """
    found, record = studies.open_study(str(folder)), Record(folder / studies.RECORD_FILE)
    asked = resuming.waiting_repeats(found, config)
    if not asked:
        return
    starts = []
    for trial, seed in asked:
        known = found.repeats.get((trial.number, seed))
        sampled = {**trial.sampled, "seed": seed}
        if known is None:
            record.begun(trial.number, sampled, seed)
            known = Trial(trial.number, sampled, seed=seed, mode=plan.mode)
            starts.append(Start(trial.number, sampled, seed=seed, steps=trial.step))
        else:
            starts.append(_going_on(folder, known, record, steps=trial.step))
    story, ended = Story(record.path, plan.mode), sum(trial.state != "unfinished" for trial in found.repeats.values())
    say(f"tune: {len({trial.number for trial, _ in asked})} trials are trained with other seeds, {len(starts)} trainings")
    _tune(
        plan,
        config,
        folder,
        Listed(starts, metric=plan.metric, mode=plan.mode, again=_again(config, folder, story)),
        Scheduler(Rule(NoScheduler(kind="none"), plan.mode), record, plan.metric, lambda: False),
        Watch(
            record,
            lambda: story.repeats().values(),
            count=ended + len(starts),
            max_failures=config.recipe.workers.max_failures,
            metric=plan.metric,
            mode=plan.mode,
        ),
        count=len(starts),
        attempt=studies.attempt_folder(found.attempts, repeats=True),
    )
    resuming.remove_repeats(folder)


def _tune(
    plan: StudyPlan, config: StudyConfig, folder: Path, searcher: Any, scheduler: Any, watch: Watch, *, count: int, attempt: str
) -> None:
    from ray import tune

    trainable = tune.with_parameters(
        run_trial,
        base=plan.config["recipe"],
        locations=plan.locations,
        folder=str(folder),
        max_steps=config.scheduler.max_steps,
        report_every_steps=config.report_every_steps,
        times_answers=bool(config.constraints and config.constraints.latency_ms),
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources_of(config.recipe.workers, is_gang=config.recipe.engine != "torch")),
        tune_config=tune.TuneConfig(
            metric=plan.metric,
            mode=plan.mode,
            num_samples=count * (1 + config.recipe.workers.max_failures),  # the searcher says when there are no more
            max_concurrent_trials=config.concurrent,
            reuse_actors=True,  # the next trial finds torch and transformers loaded
            search_alg=searcher,
            scheduler=scheduler,
            trial_dirname_creator=_folder_of,
            trial_name_creator=_folder_of,
        ),
        run_config=tune.RunConfig(
            name=attempt,
            storage_path=str(folder),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=config.recipe.workers.max_failures),
            callbacks=[watch],
            verbose=0,
        ),
    )
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    with watch.on_terminal(), Background(lambda: list(tuner.fit()), name="ray-tune") as work:
        try:
            work.result()
        except Exception as error:
            raise RunError(f"tune: study {plan.study_id} failed: {str(error).strip().splitlines()[-1]}") from error
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                os.environ.update({name: value} if value is not None else {})


def _going_on(folder: Path, trial: Trial, record: Record, *, steps: int | None = None) -> Start:
    """A trial that its driver left, from its last whole checkpoint; what else it wrote is removed."""
    checkpoint = resuming.last_checkpoint(folder, trial.number, trial.seed)
    resuming.remove_surplus(folder, trial.number, checkpoint, trial.seed)
    record.restarted(trial.number, "the study's driver was gone", trial.seed)
    place = str(checkpoint.folder) if checkpoint else None
    return Start(trial.number, dict(trial.sampled), place, trial.step, trial.seed, steps)


def _folder_of(trial: Any) -> str:
    return studies.trial_folder(trial.config["number"], trial.config["seed"], trial.config["since"], trial.config["again"])


def _again(config: StudyConfig, folder: Path, story: Story) -> Again:
    def again(start: Start) -> Start | None:
        trial = story.trials()[start.number] if start.seed is None else story.repeats()[start.number, start.seed]
        return handed_out_again(start, trial, folder, config.recipe.workers.max_failures)

    return again
