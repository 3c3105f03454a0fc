"""What the person watching a study sees: a line for each report, each end and each failure. Runs in the driver."""

from __future__ import annotations

import time
from typing import Any

from ray.tune import Callback

from foundation.progress import duration, say


class Watch(Callback):  # type: ignore[misc]
    """Prints progress; decides nothing."""

    def __init__(self, trials: int, metric: str, mode: str) -> None:
        self._trials, self._metric = trials, metric
        self._better = max if mode == "max" else min
        self._done = 0
        self._best: float | None = None
        self._began = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """One report of one trial."""
        score = result.get(self._metric)
        if score is None:
            return
        self._best = score if self._best is None else self._better(self._best, score)
        say(f"tune: trial {trial.trial_id}: step {result['step']}  {self._metric} {score:.4f}  best so far {self._best:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial finished or was stopped."""
        self._ended(trial, "ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial failed."""
        self._ended(trial, "FAILED")

    def _ended(self, trial: Any, how: str) -> None:
        self._done += 1
        elapsed = time.monotonic() - self._began
        left = elapsed / self._done * (self._trials - self._done)
        say(f"tune: trial {trial.trial_id} {how}: {self._done}/{self._trials} trials, about {duration(left)} left")
