"""Who stops trials early: Tune's rules, asked with a trial's number, step and score, so that what they know can be told again.

``Rule`` is the decision alone; ``Scheduler`` hands it to Tune and writes it into the study's record. After a lost driver, the rule is told
the record's reports in their order, and knows what it knew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from foundation.progress import say
from tuning import scheduler_config
from tuning.config import ConstraintsConfig
from tuning.constraints import broken, told
from tuning.record import Record, named
from tuning.scheduler_config import AshaConfig, HyperBandConfig, MedianStopConfig, NoScheduler, PopulationConfig
from tuning.trial import FAILED, NAMES

_STEP, _SCORE = "step", "score"


class Rule:
    """Whether a trial goes on, by the reports so far.

    Args:
        scheduler: Which rule, and its numbers.
        mode: Whether a high score is good (``max``) or a low one (``min``).
    """

    def __init__(self, scheduler: scheduler_config.Scheduler, mode: str) -> None:
        self._bracket_of: Callable[[int], int] = lambda number: 0
        if isinstance(scheduler, HyperBandConfig):
            # By number: Tune draws its brackets from an unseeded generator.
            self._bracket_of = scheduler.bracket_of
            self._rules = [_tunes(bracket) for bracket in scheduler.brackets]
        else:
            self._rules = [_tunes(scheduler)]
        for rule in self._rules:
            rule.set_search_properties(_SCORE, mode)
        self._trials: dict[int, _StandIn] = {}

    def goes_on(self, number: int, step: int, score: float) -> bool:
        """Take in a report, and decide."""
        if number not in self._trials:
            trial = self._trials[number] = _StandIn(number, self._rules[self._bracket_of(number)])
            trial.rule.on_trial_add(None, trial)
        trial = self._trials[number]
        decision = trial.rule.on_trial_result(None, trial, {_STEP: step, _SCORE: score})
        return bool(decision == TrialScheduler.CONTINUE)

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the search's reports of a record."""
        for row in rows:
            if row["event"] == "report" and "seed" not in row:
                self.goes_on(row["number"], row["step"], row["score"])


class _StandIn:
    """All that the rules ask of a trial is who it is; ``rule`` is the one of its bracket."""

    def __init__(self, number: int, rule: Any) -> None:
        self.trial_id, self.rule = str(number), rule


def _tunes(scheduler: NoScheduler | AshaConfig | MedianStopConfig | PopulationConfig) -> Any:
    match scheduler:
        case NoScheduler() | PopulationConfig():  # between two decisions nobody stops a member
            return FIFOScheduler()
        case AshaConfig():
            return AsyncHyperBandScheduler(
                time_attr=_STEP,
                max_t=scheduler.max_steps,
                grace_period=scheduler.grace_steps,
                reduction_factor=scheduler.reduction_factor,
                brackets=1,
            )
        case MedianStopConfig():
            return MedianStoppingRule(
                time_attr=_STEP,
                grace_period=scheduler.grace_steps,
                min_samples_required=scheduler.least_trials,
                hard_stop=True,
                min_time_slice=math.inf,  # else it would pause a trial while another waits for its worker
            )
        case _:
            assert_never(scheduler)


class Scheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's view of a rule: trials in the order in which they come, stopped when the rule says so.

    Args:
        rule: Decides.
        record: Is told every report, and what was decided.
        metric: The score's name in a report.
        is_spent: Whether the study's budget is spent; then every trial is stopped at its report.
        constraints: Whoever does not keep to them is stopped at its report.
    """

    def __init__(
        self, rule: Rule, record: Record, metric: str, is_spent: Callable[[], bool], constraints: ConstraintsConfig | None = None
    ) -> None:
        super().__init__()
        self._rule, self._record, self._name, self._is_spent, self._constraints = rule, record, metric, is_spent, constraints

    def set_search_properties(self, metric: str | None, mode: str | None, **_: Any) -> bool:
        """Tune offers them; the rule has them."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """One report."""
        number, seed = trial.config["number"], trial.config["seed"]
        if FAILED in result:
            self._record.failed(number, result[FAILED], seed, **{name: result[name] for name in result[NAMES]})
            return str(TrialScheduler.STOP)
        score = result[self._name]
        goes_on = self._rule.goes_on(number, result[_STEP], score)
        self._record.reported(number, score, {name: result[name] for name in result[NAMES]}, goes_on=goes_on, seed=seed)
        if over := broken(result, self._constraints):
            self._record.broke(number, over, seed)
            say(f"tune: {named(number, seed)} does not keep to the constraints: {told(over, self._constraints)}")
            return str(TrialScheduler.STOP)
        if goes_on and self._is_spent():
            self._record.cut(number)
            goes_on = False
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)
