"""What the person watching a study sees: a table on a terminal, else a line for each report and each end; restarts are always said. Runs in
the driver, and decides nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from foundation.errors import first_line
from foundation.progress import duration, say
from tuning.live import View, table
from tuning.record import Record, Trial, named
from tuning.trial import FAILED

if TYPE_CHECKING:
    from rich.live import Live

_DRAW_EVERY_S = 1.0


class Watch(Callback):  # type: ignore[misc]
    """Prints progress, and writes restarts and failures that only Tune sees into the record.

    Args:
        record: Of the study.
        trials: What is known of them now; at first those of earlier attempts.
        count: How many there will be.
        max_failures: Workers that a trial may lose.
        metric: Shown.
        mode: ``max`` or ``min``.
        spent: Share of the budget; None without one.
        stretches: Of a population: how many have ended, and how many there will be. None: a trial ends once.
    """

    def __init__(
        self,
        record: Record,
        trials: Callable[[], Iterable[Trial]],
        *,
        count: int,
        max_failures: int,
        metric: str,
        mode: str,
        spent: Callable[[], float] | None = None,
        stretches: tuple[int, int] | None = None,
    ) -> None:
        self._record, self._trials, self._metric, self._mode, self._count, self._spent = record, trials, metric, mode, count, spent
        self._max_failures = max_failures
        self._better = max if mode == "max" else min
        before = [*trials()]
        self._before = self._done = stretches[0] if stretches else len([trial for trial in before if trial.state != "unfinished"])
        self._ends, self._unit = (stretches[1], "stretches") if stretches else (count, "trials")
        self._spent_before = spent() if spent else 0.0
        scores = [report.score for trial in before for report in trial.reports]
        self._best: float | None = self._better(scores) if scores else None
        self._began = time.monotonic()
        self._left_s: float | None = None
        self._live: Live | None = None
        self._drawn = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Without the terminal: Tune pickles its callbacks, and nobody reads that."""
        return self.__dict__ | {"_live": None, "_trials": None, "_spent": None}

    @contextmanager
    def on_terminal(self) -> Iterator[None]:
        """A table for the length of the block, if this is a terminal."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), auto_refresh=False) as self._live:
            self._draw()
            try:
                yield
            finally:
                self._draw()
                self._live = None

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Many times a second."""
        if self._live is not None and time.monotonic() - self._drawn >= _DRAW_EVERY_S:
            self._draw()

    def _draw(self) -> None:
        assert self._live is not None
        self._drawn = time.monotonic()
        spent = self._spent() if self._spent else None
        view = View(self._record.path.parent.name, self._metric, self._mode, [*self._trials()], self._count, self._left_s, spent)
        self._live.update(table(view, time.time()), refresh=True)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """One report of one trial."""
        score = result.get(self._metric)
        if score is None:  # it tells that it failed
            return
        self._best = score if self._best is None else self._better(self._best, score)
        if self._live is not None:
            return
        of_budget = f"  budget {self._spent():.0%}" if self._spent else ""
        say(f"tune: {_named(trial)}: step {result['step']}  {self._metric} {score:.4f}  best so far {self._best:.4f}{of_budget}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial lost its worker, and begins again from its last checkpoint."""
        cause = _cause(trial)
        self._record.restarted(trial.config["number"], cause, trial.config["seed"])
        say(f"warning: {_named(trial)} begins again from its last checkpoint: {first_line(cause)}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial finished, was stopped, or told that it failed."""
        failure = (trial.last_result or {}).get(FAILED)
        self._ended(trial, f"FAILED: {first_line(failure)}" if failure else "ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial lost its worker once too often, or was given up too early and is handed out again."""
        number, seed = trial.config["number"], trial.config["seed"]
        if any(one.may_restart(self._max_failures) for one in self._trials() if (one.number, one.seed) == (number, seed)):
            return
        cause = _cause(trial)
        self._record.failed(trial.config["number"], cause, trial.config["seed"])
        self._ended(trial, f"FAILED: {first_line(cause)}")

    def _ended(self, trial: Any, how: str) -> None:
        self._done += 1
        elapsed = time.monotonic() - self._began
        left = elapsed / (self._done - self._before) * (self._ends - self._done)
        if self._spent and (spent := self._spent()) > self._spent_before:
            left = min(left, elapsed / (spent - self._spent_before) * max(0.0, 1 - spent))
        self._left_s = left
        if self._live is None or how != "ended":
            say(f"tune: {_named(trial)} {how}: {self._done}/{self._ends} {self._unit}, about {duration(left)} left")


def _named(trial: Any) -> str:
    return named(trial.config["number"], trial.config["seed"])


def _cause(trial: Any) -> str:
    """Of the failure that Tune has just noted: what was raised, or why the worker is gone."""
    try:
        told = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2].partition("\n")[2]
    except (OSError, TypeError):
        return "its worker is gone"
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    # A traceback ends with what was raised; Ray begins with why a worker is gone.
    return lines[-1 if "Traceback" in told else 0] if lines else "its worker is gone"
