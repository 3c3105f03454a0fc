"""Where a run's wall-clock time went, from the rows of its record: pure arithmetic, no clock of its own.

Goodput is the share that went into steps which count. A step that was done and then done again after a restart is ``lost`` the first
time. The parts add up to the wall-clock time in which a command drove the run; ``other`` is what no row accounts for (logging, export).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Goodput:
    """Seconds of one run by what they were spent on."""

    start: float = 0.0
    """From the command until the first attempt could step: workers, data, model."""
    data: float = 0.0
    """Steps that count, waiting for their micro-batches."""
    compute: float = 0.0
    """Steps that count, the rest of them."""
    evaluation: float = 0.0
    checkpoint: float = 0.0
    lost: float = 0.0
    """Steps, evaluations and checkpoints behind the one that a restart went on from."""
    restart: float = 0.0
    """From the last sign of an attempt until the next one could step."""
    other: float = 0.0

    @property
    def seconds(self) -> float:
        """Wall-clock time in which a command drove the run."""
        return float(sum(asdict(self).values()))

    @property
    def share(self) -> float:
        """Goodput: the share that was computing steps which count."""
        return self.compute / self.seconds if self.seconds > 0 else 0.0

    def as_json(self) -> dict[str, float]:
        """Seconds by part, rounded, and the share."""
        return {**{name: round(value, 3) for name, value in asdict(self).items()}, "share": round(self.share, 4)}


PARTS = tuple(field.name for field in fields(Goodput))
_TELLING = ("failure", "damaged", "leaving", "straggler")
_WORK = ("data", "compute", "evaluation", "checkpoint")


class Ledger:
    """Adds up rows one by one, in a memory that grows with the checkpoints only."""

    def __init__(self, started: float) -> None:
        """``started``: Unix seconds at which the command began."""
        self._started = self._last = started
        self._spent = Goodput()
        # What had been spent at each checkpoint: the places that a restart can go back to.
        self._at: dict[int, Goodput] = {}
        # And after each step since: a checkpoint is whole some steps after the one that it is of.
        self._after: dict[int, Goodput] = {}
        self._has_attempt = False
        self._undriven = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Account for the next row of the record."""
        spent, event = self._spent, row["event"]
        if event in _TELLING:
            return  # a moment of the time between two attempts
        if event == "attempt":
            gap = max(0.0, row["time"] - self._last)
            if self._has_attempt:
                spent = self._back_to(row["step"])
                self._spent = replace(spent, restart=spent.restart + gap)
            else:
                self._spent = replace(spent, start=spent.start + gap)
            self._has_attempt = True
            self._at.setdefault(row["step"], self._spent)
        elif event == "waiting":
            part = "restart" if self._has_attempt else "start"
            self._spent = replace(spent, **{part: getattr(spent, part) + max(0.0, row["time"] - self._last)})
        elif event == "resumed":
            # Between a driver that died and the command that went on, the run took nobody's time.
            self._undriven += max(0.0, row["time"] - self._last)
        elif event == "step":
            data = row["loader_seconds"]
            self._spent = replace(spent, data=spent.data + data, compute=spent.compute + row["seconds"] - data)
            self._after[row["step"] + 1] = self._spent
        elif event in ("evaluation", "checkpoint", "unwritten"):
            step, writing = row["step"], row.get("checkpoint_seconds", 0.0)
            spent = replace(spent, evaluation=spent.evaluation + row.get("evaluation_seconds", 0.0))
            if event == "evaluation":
                self._after[step] = spent
            # Older records have one row for both.
            if event == "checkpoint" or (event == "evaluation" and writing):
                then = self._after.get(step, spent)
                self._at[step] = replace(then, checkpoint=then.checkpoint + writing)
                self._after = {done: kept for done, kept in self._after.items() if done > step}
            self._spent = replace(spent, checkpoint=spent.checkpoint + writing)
        self._last = max(self._last, row["time"])

    def split(self, until: float | None = None) -> Goodput:
        """The parts up to ``until`` (Unix seconds; default: the last row)."""
        wall = max(self._last, until or 0.0) - self._started - self._undriven
        return replace(self._spent, other=max(0.0, wall - self._spent.seconds))

    def _back_to(self, step: int) -> Goodput:
        """What has been spent, with the work after ``step`` moved to ``lost``."""
        self._at = {at: spent for at, spent in self._at.items() if at <= step}
        last = self._at[max(self._at)] if self._at else Goodput()
        then = self._after.get(step, last)  # of a checkpoint whose row was never written
        self._after = {}
        kept = {name: getattr(then, name) for name in _WORK}
        lost = sum(getattr(self._spent, name) - kept[name] for name in _WORK)
        return replace(self._spent, lost=self._spent.lost + lost, **kept)


def goodput(rows: Iterable[Mapping[str, Any]], *, started: float, ended: float | None = None) -> Goodput:
    """The parts of a run from its rows.

    Args:
        rows: Of ``metrics.jsonl``, in order.
        started: Unix seconds at which the command began.
        ended: Unix seconds at which it ended; None: with the last row.
    """
    ledger = Ledger(started)
    for row in rows:
        ledger.add(row)
    return ledger.split(ended)
