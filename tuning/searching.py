"""Who chooses the trials: those that a lost driver left unfinished, then new ones from Optuna, whose storage keeps what it has learnt.

Ray Tune's own Optuna searcher keeps its study in a pickle of Tune's last snapshot, and takes its random numbers from where the process
stood. Here each trial's come from the study's seed and the trial's number, so that a study goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from foundation.progress import say
from tuning.budget import is_spent
from tuning.config import SamplerConfig, StudyConfig
from tuning.constraints import excesses
from tuning.record import Record, Story, Trial, named
from tuning.resuming import last_checkpoint
from tuning.space import draw, first_points, new_sampler


@dataclass(frozen=True)
class Start:
    """What a trial's worker is given."""

    number: int
    sampled: dict[str, Any]
    checkpoint: str | None = None
    """To go on from; None begins at step 0."""
    reported_step: int = 0
    """Of the last report that is known. A checkpoint of a later step has one that was lost."""
    seed: int | None = None
    """Of a winner that is trained once more."""
    steps: int | None = None
    """That it trains to; None: the scheduler's most."""
    since: int = 0
    """Of a member of a population: the step after which this stretch of it began."""
    until: int | None = None
    """Of a member of a population: where this stretch ends; None: at its last step."""
    is_copy: bool = False
    """Whether ``checkpoint`` is another member's."""
    again: int = 0
    """Times that it had begun again when it was handed out once more."""


Again = Callable[[Start], Start | None]
"""What to hand out instead of a trial that Tune has given up; None: nothing."""


def handed_out_again(start: Start, trial: Trial, folder: Path, max_failures: int) -> Start | None:
    """A trial that Tune has given up, from its last checkpoint; None when it has lost workers often enough.

    When a worker is lost between two trials, Tune tells its failure twice, and gives the second trial up at the second time, however many
    failures it may have.
    """
    if not trial.may_restart(max_failures):
        return None
    again = replace(start, reported_step=trial.step, again=trial.restarts)
    own = last_checkpoint(folder, start.number, start.seed)
    return again if own is None or own.progress.step <= start.since else replace(again, checkpoint=str(own.folder), is_copy=False)


def open_storage(url: str, study_id: str, config: StudyConfig, mode: str) -> optuna.Study:
    """Optuna's study, made when it is not there yet; the first points are its first trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each study
    direction = "minimize" if mode == "min" else "maximize"
    study = optuna.create_study(storage=url, study_name=study_id, direction=direction, load_if_exists=True)
    # All of them, unless the process that made the study went before.
    for point in first_points(config)[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(point)
    return study


def ask(study: optuna.Study, config: StudyConfig) -> tuple[int, dict[str, Any]]:
    """A trial's number and hyperparameters: one that was asked for and never begun, else a new one.

    Its random numbers follow from seed and number.
    """
    states = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    waiting = [number for number, trial in states.items() if trial.state is TrialState.WAITING]
    number = min(waiting) if waiting else len(states)
    study.sampler = sampler_of(config.sampler, config.seed, number)
    asked = study.ask()
    assert asked.number == number, f"asked for trial {number}, given {asked.number}: another process asks the same storage"
    return number, draw(asked, config.space)


def sampler_of(config: SamplerConfig, seed: int, number: int) -> Any:
    """The sampler for one trial."""
    return new_sampler(config, int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


def reconcile(study: optuna.Study, config: StudyConfig, trials: Mapping[int, Trial]) -> dict[int, dict[str, Any]]:
    """Tell Optuna how trials ended that it believes to run.

    Returns: Hyperparameters of trials that were asked for, and of which the record never heard, by number.
    """
    unheard = {}
    for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial = trials.get(running.number)
        if trial is None:
            study.sampler = sampler_of(config.sampler, config.seed, running.number)
            unheard[running.number] = draw(optuna.trial.Trial(study, running._trial_id), config.space)
        elif trial.state != "unfinished":
            tell(study, trial, config)
    return unheard


def tell(study: optuna.Study, trial: Trial, config: StudyConfig, *, is_lost: bool = False) -> None:
    """How a trial ended, and how far it is beyond constraints; without a score, or when it is lost, as failed."""
    score = None if is_lost or trial.cause else trial.score
    if score is None:
        study.tell(trial.number, state=TrialState.FAIL)
        return
    asked = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[trial.number]._trial_id)
    for name, excess in excesses(trial.reports[-1].figures, config.constraints).items():
        asked.set_constraint(name, excess)
    study.tell(trial.number, score)


class Listed(Searcher):  # type: ignore[misc]
    """Hands Tune some trials, one after the other, and no more.

    Args:
        waiting: The trials.
        metric: That trials are told by.
        mode: ``max`` or ``min``.
        again: Asked when Tune has given a trial up.
    """

    def __init__(self, waiting: Sequence[Start], *, metric: str, mode: str, again: Again | None = None) -> None:
        super().__init__(metric=metric, mode=mode)
        self._waiting, self._again = [*waiting], again
        self._given: dict[str, Start] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial."""
        return self._next(trial_id) if self._waiting else str(Searcher.FINISHED)

    def _next(self, trial_id: str) -> dict[str, Any]:
        start = self._waiting.pop(0)
        begins = f"goes on from step {start.reported_step}" if start.checkpoint else "begins" + " again" * (start.seed is None)
        say(f"tune: {named(start.number, start.seed)} {begins}")
        return self._give(trial_id, start)

    def _give(self, trial_id: str, start: Start) -> dict[str, Any]:
        self._given[trial_id] = start
        return asdict(start)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler hears reports."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial ended, or was given up."""
        start = self._given.pop(trial_id)
        if error and self._again and (again := self._again(start)):
            self._waiting.insert(0, again)
        else:
            self._ended(start, is_lost=error)

    def _ended(self, start: Start, *, is_lost: bool) -> None:
        """Nothing more: the record has it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a study goes on from its record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a study goes on from its record."""


class StudySearch(Listed):
    """Hands Tune the trials of a study: those to go on with, then new ones from Optuna, which hears how they end.

    Args:
        study: Optuna's.
        config: The study's.
        waiting: Trials to go on with first.
        record: Of the study.
        story: What its record tells.
        metric: That trials are told by.
        mode: ``max`` or ``min``.
        again: As ``Listed``'s.
    """

    def __init__(
        self,
        study: optuna.Study,
        config: StudyConfig,
        waiting: Sequence[Start],
        record: Record,
        story: Story,
        *,
        metric: str,
        mode: str,
        again: Again | None = None,
    ) -> None:
        super().__init__(waiting, metric=metric, mode=mode, again=again)
        self._study, self._config, self._record, self._story = study, config, record, story

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial; none when the budget is spent."""
        if self._waiting:
            return self._next(trial_id)
        if len(self._story.trials()) >= self._config.trials or is_spent(self._story.trials().values(), self._config):
            return str(Searcher.FINISHED)
        start = Start(*ask(self._study, self._config))
        self._record.begun(start.number, start.sampled)
        return self._give(trial_id, start)

    def _ended(self, start: Start, *, is_lost: bool) -> None:
        # What it reached is in the record, earlier workers' reports among it.
        tell(self._study, self._story.trials()[start.number], self._config, is_lost=is_lost)
