"""The trials of one attempt at a study, run by Ray Tune: those that go on, then new ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.background import Background
from foundation.errors import RunError
from training.runs import TOKENS_FOLDER
from tuning import studies
from tuning.budget import is_spent
from tuning.config import StudyConfig
from tuning.record import Record, Story, Trial
from tuning.scheduling import Rule, Scheduler
from tuning.searching import Start, StudySearch, open_storage, reconcile
from tuning.trial import run_trial
from tuning.watching import Watch

if TYPE_CHECKING:
    from tuning.study import StudyPlan

_ENVIRONMENT = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails reports so, instead of a score
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",  # of Tune's own snapshots, which nobody needs
}


def search(plan: StudyPlan, config: StudyConfig, folder: Path) -> None:
    """Run what is left of a study.

    Raises:
        RunError: Tune itself failed.
    """
    from ray import tune

    found, record = studies.open_study(str(folder)), Record(folder / studies.RECORD_FILE)
    trials = dict(found.trials)
    storage = open_storage(config.storage or f"sqlite:///{folder / studies.STORAGE_FILE}", plan.study_id, config, plan.mode)
    for number, sampled in reconcile(storage, config, trials).items():
        record.begun(number, sampled)
        trials[number] = Trial(number, sampled, mode=plan.mode)
    waiting = [_going_on(folder, trial, record) for trial in trials.values() if trial.state == "unfinished"]
    count = len(waiting) + config.trials - len(trials)
    if not count:
        return
    story = Story(record.path, plan.mode)
    rule = Rule(config.scheduler, plan.mode)
    rule.replay(found.rows)
    trainable = tune.with_parameters(
        run_trial,
        base=plan.config["recipe"],
        locations=plan.locations,
        tokens=str(folder / TOKENS_FOLDER),
        max_steps=config.scheduler.max_steps,
        report_every_steps=config.report_every_steps,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": config.recipe.workers.cpus_each, "GPU": config.recipe.workers.gpus_each}),
        tune_config=tune.TuneConfig(
            metric=plan.metric,
            mode=plan.mode,
            num_samples=count,
            max_concurrent_trials=config.concurrent,
            reuse_actors=True,  # the next trial finds torch and transformers loaded
            search_alg=StudySearch(storage, config, waiting, record, story, metric=plan.metric, mode=plan.mode),
            scheduler=Scheduler(rule, record, plan.metric, lambda: is_spent(story.trials().values(), config)),
            trial_dirname_creator=_folder_of,
            trial_name_creator=_folder_of,
        ),
        run_config=tune.RunConfig(
            name=studies.attempt_folder(found.attempts),
            storage_path=str(folder),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=config.recipe.workers.max_failures),
            callbacks=[Watch(config, story, record, plan.metric, plan.mode)],
            verbose=0,
        ),
    )
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    with Background(lambda: list(tuner.fit()), name="ray-tune") as work:
        try:
            work.result()
        except Exception as error:
            raise RunError(f"tune: study {plan.study_id} failed: {str(error).strip().splitlines()[-1]}") from error
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                os.environ.update({name: value} if value is not None else {})


def _going_on(folder: Path, trial: Trial, record: Record) -> Start:
    """A trial that its driver left, from its last whole checkpoint; what else it wrote is removed."""
    checkpoint = studies.last_checkpoint(folder, trial.number)
    studies.remove_surplus(folder, trial.number, checkpoint)
    record.restarted(trial.number, "the study's driver was gone")
    return Start(trial.number, dict(trial.sampled), str(checkpoint.folder) if checkpoint else None, trial.step)


def _folder_of(trial: Any) -> str:
    return studies.trial_folder(trial.config["number"])
