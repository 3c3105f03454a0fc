"""A population under Ray Tune: each member's training in stretches, between which it is decided who goes on from whose checkpoint.

Tune is handed a trial for each stretch of each member. A member whose stretch has ended frees its workers until all others have come as
far; what is decided then is in ``population.py``, and goes into the record before anyone begins.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from ray.tune.search import Searcher

from foundation.errors import RunError
from foundation.progress import say
from training.checkpoint import Checkpoint
from tuning import studies
from tuning.bandit import Bandit
from tuning.budget import is_spent
from tuning.config import StudyConfig
from tuning.population import Exploit, Explore, Standing, decide, explored, gains
from tuning.record import Record, Story, Trial
from tuning.resuming import last_checkpoint
from tuning.scheduler_config import PopulationConfig
from tuning.searching import Again, Listed, Start, sampler_of
from tuning.space import draw, first_points


def first_members(config: StudyConfig) -> dict[int, dict[str, Any]]:
    """Every member's first hyperparameters, by number: the study's first points, then draws by its seed and the number."""
    points = first_points(config)
    return {number: points[number] if number < len(points) else _drawn(config, number) for number in range(config.trials)}


def _drawn(config: StudyConfig, seed: int) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each study
    study = optuna.create_study(sampler=sampler_of(config.sampler.model_copy(update={"kind": "random"}), config.seed, seed))
    return draw(study.ask(), config.space)


def boundaries(config: PopulationConfig, steps: int) -> list[int]:
    """Steps at which stretches end, when a member trains to ``steps``."""
    return [*(rung for rung in config.rungs if rung < steps), steps]


class Population(Listed):
    """Hands Tune the stretches of a population's members.

    Args:
        config: The study's.
        folder: The study's.
        record: Of the study.
        story: What its record tells.
        steps: That a member trains to.
        metric: That trials are told by.
        mode: ``max`` or ``min``.
        again: As ``Listed``'s.
    """

    def __init__(
        self,
        config: StudyConfig,
        folder: Path,
        record: Record,
        story: Story,
        *,
        steps: int,
        metric: str,
        mode: str,
        again: Again | None = None,
    ) -> None:
        assert isinstance(config.scheduler, PopulationConfig)
        self._config, self._scheduler, self._folder, self._record, self._mode = config, config.scheduler, folder, record, mode
        self._story, self._boundaries = story, boundaries(config.scheduler, steps)
        super().__init__(self._left(), metric=metric, mode=mode, again=again)

    def _left(self) -> list[Start]:
        """What is left of the stretches that were begun, or that nobody has begun yet."""
        known, since = self._story.trials(), self._since
        for number, sampled in first_members(self._config).items():
            if number not in known:
                self._record.begun(number, sampled, is_member=True)
        starts = []
        for number, trial in self._alive().items():
            if trial.step >= self._until:
                continue
            own = last_checkpoint(self._folder, number)
            starts.append(self._start(trial, own if own and own.progress.step > since else self._beginning(trial)))
            if number in known:
                self._record.restarted(number, "the study's driver was gone")
        return starts

    @property
    def _since(self) -> int:
        """Step after which the stretches began that are trained now."""
        return max(self._story.compared(), default=0)

    @property
    def _until(self) -> int:
        """Step at which they end."""
        return next((step for step in self._boundaries if step > self._since), self._boundaries[-1])

    @property
    def stretches_left(self) -> int:
        """How many there will be, with those that wait."""
        later = sum(step > self._until for step in self._boundaries)
        return len(self._waiting) + later * len(self._alive())

    def _alive(self) -> dict[int, Trial]:
        return {number: trial for number, trial in self._story.trials().items() if trial.state in ("unfinished", "finished")}

    def _start(self, trial: Trial, checkpoint: Checkpoint | None) -> Start:
        since = self._since
        return Start(
            trial.number,
            dict(trial.sampled),
            str(checkpoint.folder) if checkpoint else None,
            trial.step,
            since=since,
            until=self._until,
            is_copy=any(exploited.step == since for exploited in trial.exploits)
            and checkpoint is not None
            and checkpoint.progress.step == since,
        )

    def _beginning(self, trial: Trial) -> Checkpoint | None:
        """From which a member's stretch begins: its donor's at that step, or its own; None at the first step."""
        since = self._since
        if not since:
            return None
        who = next((exploited.donor for exploited in trial.exploits if exploited.step == since), trial.number)
        for folder in studies.checkpoints(self._folder, who):
            if (checkpoint := _at(folder, since)) is not None:
                return checkpoint
        raise RunError(f"{self._folder}: no checkpoint of trial {who} at step {since} is whole, from which trial {trial.number} goes on")

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next stretch; None while members train that the others wait for."""
        if not self._waiting and not self._given and (self._is_over() or not self._compare()):
            return str(Searcher.FINISHED)
        if not self._waiting:
            return None
        return self._next(trial_id)

    def _is_over(self) -> bool:
        """Whether the budget is spent; members that wait for others are cut then."""
        if not is_spent(self._story.trials().values(), self._config):
            return False
        for trial in self._alive().values():
            if trial.state == "unfinished":
                self._record.cut(trial.number)
        return True

    def _compare(self) -> bool:
        """Decide who goes on from where. Returns whether anybody goes on."""
        alive = self._alive()
        step = self._until
        if step >= self._boundaries[-1] or not alive:
            return False
        standings = [Standing(number, trial.score, trial.sampled) for number, trial in alive.items()]
        exploits = decide(
            standings, step, quantile=self._scheduler.quantile, seed=self._config.seed, mode=self._mode, explore=self._explore(step)
        )
        self._record.compared(step, {number: vars(exploit) for number, exploit in exploits.items()})
        _tell(step, exploits)
        self._waiting = [self._start(trial, self._beginning(trial)) for trial in self._alive().values()]
        self._remove_before(step)
        return True

    def _explore(self, step: int) -> Explore:
        space = self._config.space
        a_little = partial(explored, config=self._scheduler, space=space, draw=lambda key, seed: _drawn(self._config, seed)[key])
        if self._scheduler.kind == "pbt":
            return a_little
        ends = [end for end in self._boundaries if end <= step]
        return Bandit(gains(self._story.trials().values(), ends, self._mode), step, space, a_little)

    def _remove_before(self, step: int) -> None:
        """Remove the checkpoints of stretches that ended before ``step``; from one at ``step`` a stretch may begin again."""
        for folder in studies.all_checkpoints(self._folder):
            if _at(folder, step) is None:
                shutil.rmtree(folder, ignore_errors=True)


def _at(folder: Path, step: int) -> Checkpoint | None:
    """A folder's checkpoint if it is whole, and of this step."""
    try:
        checkpoint = Checkpoint.open(folder)
    except RunError:
        return None
    return checkpoint if checkpoint.progress.step == step else None


def _tell(step: int, exploits: Mapping[int, Exploit]) -> None:
    told = ", ".join(f"trial {number} goes on from trial {exploit.donor}" for number, exploit in exploits.items())
    say(f"tune: step {step}: {told or 'all go on as they are'}")
