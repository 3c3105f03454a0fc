"""What the person watching a study sees: a line for each report, each restart, each end. Runs in the driver, and decides nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray.tune import Callback

from foundation.errors import first_line
from foundation.progress import duration, say
from tuning.budget import share, spent
from tuning.config import StudyConfig
from tuning.record import Record, Story
from tuning.trial import FAILED


class Watch(Callback):  # type: ignore[misc]
    """Prints progress, and writes restarts and failures that only Tune sees into the record.

    Args:
        config: The study's.
        story: What its record tells, trials of earlier attempts among it.
        record: Of the study.
        metric: Shown.
        mode: ``max`` or ``min``.
    """

    def __init__(self, config: StudyConfig, story: Story, record: Record, metric: str, mode: str) -> None:
        self._config, self._story, self._record, self._metric = config, story, record, metric
        self._better = max if mode == "max" else min
        known = story.trials().values()
        self._before = self._done = len([trial for trial in known if trial.state != "unfinished"])
        self._share_before = self._share()
        scores = [report.score for trial in known for report in trial.reports]
        self._best: float | None = self._better(scores) if scores else None
        self._began = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """One report of one trial."""
        score = result.get(self._metric)
        if score is None:  # it tells that it failed
            return
        self._best = score if self._best is None else self._better(self._best, score)
        of_budget = f"  budget {self._share():.0%}" if self._config.budget else ""
        say(f"tune: {_named(trial)}: step {result['step']}  {self._metric} {score:.4f}  best so far {self._best:.4f}{of_budget}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial lost its worker, and begins again from its last checkpoint."""
        cause = _cause(trial)
        self._record.restarted(trial.config["number"], cause)
        say(f"warning: {_named(trial)} begins again from its last checkpoint: {first_line(cause)}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial finished, was stopped, or told that it failed."""
        failure = (trial.last_result or {}).get(FAILED)
        self._ended(trial, f"FAILED: {first_line(failure)}" if failure else "ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial lost its worker once too often."""
        cause = _cause(trial)
        self._record.failed(trial.config["number"], cause)
        self._ended(trial, f"FAILED: {first_line(cause)}")

    def _ended(self, trial: Any, how: str) -> None:
        self._done += 1
        elapsed, trials = time.monotonic() - self._began, self._config.trials
        left = elapsed / (self._done - self._before) * (trials - self._done)
        if (done := self._share() - self._share_before) > 0:
            left = min(left, elapsed / done * max(0.0, 1 - self._share()))
        say(f"tune: {_named(trial)} {how}: {self._done}/{trials} trials, about {duration(left)} left")

    def _share(self) -> float:
        return share(spent(self._story.trials().values(), self._config), self._config.budget)


def _named(trial: Any) -> str:
    return f"trial {trial.config['number']}"


def _cause(trial: Any) -> str:
    """Of the failure that Tune has just noted: what was raised, or why the worker is gone."""
    try:
        told = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2].partition("\n")[2]
    except (OSError, TypeError):
        return "its worker is gone"
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    # A traceback ends with what was raised; Ray begins with why a worker is gone.
    return lines[-1 if "Traceback" in told else 0] if lines else "its worker is gone"
