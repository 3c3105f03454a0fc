"""A study's record, ``study.jsonl``, and what it tells of each trial. Pure but for appending a row.

The rows, in the order in which things happened, are what a study goes on from when its driver is gone: a trial was begun, reported, lost
its worker, ended. Which trial goes on and which is stopped follows from the reports' order alone, so the rows are the decisions' inputs
as well.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foundation.records import Recorder, Tail


@dataclass(frozen=True)
class Report:
    """One evaluation of one trial."""

    step: int
    score: float
    figures: Mapping[str, Any]
    """All metrics, losses and times."""
    goes_on: bool
    """What the scheduler decided."""
    time: float
    """Unix seconds."""


@dataclass(frozen=True)
class Span:
    """A stretch of one trial in one worker, from the start of its training there until its last report."""

    began: float
    """Unix seconds."""
    ended: float
    worker: str
    """Host and process."""


@dataclass(frozen=True)
class Exploited:
    """A member of a population went on from another's checkpoint."""

    step: int
    donor: int
    before: Mapping[str, Any]
    """Its hyperparameters until then."""


@dataclass(frozen=True)
class Trial:
    """What is known of one."""

    number: int
    """From 0, as Optuna's."""
    sampled: Mapping[str, Any]
    reports: tuple[Report, ...] = ()
    cause: str | None = None
    """Of its failure."""
    restarts: int = 0
    """Times that it lost its worker or driver, and began again from its last checkpoint."""
    spans: tuple[Span, ...] = ()
    """One for each worker that it reported from."""
    traceback: str = ""
    mlflow_run: str | None = None
    seed: int | None = None
    """Of a winner that is trained once more; None for the search's own trials."""
    is_cut: bool = False
    """Whether it was stopped because the study's budget was spent."""
    mode: str = "max"
    """Whether a high score is good, or a low one (``min``)."""
    over: Mapping[str, float] = field(default_factory=dict)
    """Figures beyond what the study's constraints allow; then it was stopped, and cannot win."""
    is_member: bool = False
    """Of a population: it goes on from others' checkpoints, and what counts is where it ends."""
    exploits: tuple[Exploited, ...] = ()
    """Of a member, the earliest first."""

    @property
    def step(self) -> int:
        """Of its last report; 0 before the first."""
        return self.reports[-1].step if self.reports else 0

    @property
    def best(self) -> Report | None:
        """Its best report, the earliest of equals, as a fine-tune keeps the best of its checkpoints; of a member its last."""
        if self.is_member:
            return next((report for report in self.reports[-1:] if math.isfinite(report.score)), None)
        sign = 1 if self.mode == "max" else -1
        scored = [report for report in self.reports if math.isfinite(report.score)]
        return max(scored, key=lambda report: sign * report.score, default=None)

    def may_restart(self, max_failures: int) -> bool:
        """Whether it may lose one more worker."""
        return self.restarts < max_failures

    @property
    def score(self) -> float | None:
        """Of its best report."""
        return self.best.score if self.best else None

    @property
    def seconds(self) -> float:
        """That it trained, until its last report."""
        return sum(span.ended - span.began for span in self.spans)

    @property
    def state(self) -> str:
        """``finished`` (all its steps), ``stopped`` (by the scheduler, or for want of budget), ``failed``, or ``unfinished``."""
        if self.cause is not None:
            return "failed"
        if not self.reports:
            return "unfinished"
        last = self.reports[-1]
        return (
            "finished"
            if last.step >= last.figures["steps"]
            else "unfinished"
            if last.goes_on and not self.is_cut and not self.over
            else "stopped"
        )


def named(number: int, seed: int | None) -> str:
    """A trial, for people."""
    return f"trial {number}" if seed is None else f"trial {number} with seed {seed}"


def short(value: Any, longest: int = 48) -> str:
    """A hyperparameter for people: three digits, and of a long text its end."""
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


_WRITING = threading.Lock()
# Names in a report's row that are no figures.
_OWN = frozenset({"event", "time", "number", "seed", "score", "goes_on"})


class Record:
    """Appends to the record. Holds no open file: Ray Tune pickles whoever holds this."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begun(self, number: int, sampled: Mapping[str, Any], seed: int | None = None, *, is_member: bool = False) -> None:
        """A trial has its hyperparameters."""
        self._write("trial", number, seed, sampled=dict(sampled), **({"is_member": True} if is_member else {}))

    def compared(self, step: int, exploits: Mapping[int, Mapping[str, Any]]) -> None:
        """All members of a population have come to a step; ``exploits``: number to ``donor`` and ``sampled`` of those that do not go on as
        they are."""
        with _WRITING:
            recorder = Recorder(self.path)
            recorder.write("compared", step=step, exploits={str(number): dict(exploit) for number, exploit in exploits.items()})
            recorder.close()

    def reported(self, number: int, score: float, figures: Mapping[str, Any], *, goes_on: bool, seed: int | None = None) -> None:
        """A trial reported, and the scheduler decided."""
        self._write("report", number, seed, score=score, goes_on=goes_on, **figures)

    def cut(self, number: int) -> None:
        """A trial is stopped after its report, because the study's budget is spent."""
        self._write("cut", number, None)

    def broke(self, number: int, over: Mapping[str, float], seed: int | None = None) -> None:
        """A trial is stopped after its report, because its model does not keep to the study's constraints."""
        self._write("broke", number, seed, over=dict(over))

    def restarted(self, number: int, cause: str, seed: int | None = None) -> None:
        """A trial lost its worker, or the study its driver."""
        self._write("restart", number, seed, cause=cause)

    def failed(self, number: int, cause: str, seed: int | None = None, **figures: Any) -> None:
        """A trial failed for good; ``figures`` are its traceback, worker and seconds, where it could tell them."""
        self._write("failed", number, seed, cause=cause, **figures)

    def logged(self, number: int, mlflow_run: str, seed: int | None = None) -> None:
        """A trial that has ended is in MLflow."""
        self._write("logged", number, seed, mlflow_run=mlflow_run)

    def _write(self, event: str, number: int, seed: int | None, **values: Any) -> None:
        of_seed = {} if seed is None else {"seed": seed}
        with _WRITING:
            recorder = Recorder(self.path)
            recorder.write(event, number=number, **of_seed, **values)
            recorder.close()


_Known = dict[tuple[int, int | None], Trial]


class Story:
    """The record as it grows: what is known of each trial by now, each row read once.

    Args:
        path: Of the record.
        mode: The study's.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._tail, self._mode = Tail(path), mode
        self._known: _Known = {}
        self._compared: list[int] = []

    def compared(self) -> list[int]:
        """Steps at which the members of a population were compared."""
        self.trials()
        return [*self._compared]

    def trials(self) -> dict[int, Trial]:
        """The search's, by number."""
        self._read()
        return _of_search(self._known)

    def repeats(self) -> dict[tuple[int, int], Trial]:
        """Winners that are trained once more, by number and seed."""
        self._read()
        return _with_seeds(self._known)

    def _read(self) -> None:
        rows = list(self._tail.rows())
        _fold(self._known, rows, self._mode)
        self._compared += [row["step"] for row in rows if row["event"] == "compared"]


def trials_of(rows: Iterable[Mapping[str, Any]], mode: str) -> dict[int, Trial]:
    """The search's trials by number, from the record's rows; ``mode`` is the study's."""
    return all_of(rows, mode)[0]


def all_of(rows: Iterable[Mapping[str, Any]], mode: str) -> tuple[dict[int, Trial], dict[tuple[int, int], Trial]]:
    """The search's trials by number, and winners that were trained once more by number and seed, from the record's rows."""
    known: _Known = {}
    _fold(known, rows, mode)
    return _of_search(known), _with_seeds(known)


def _of_search(known: _Known) -> dict[int, Trial]:
    return {number: trial for (number, seed), trial in known.items() if seed is None}


def _with_seeds(known: _Known) -> dict[tuple[int, int], Trial]:
    return {(number, seed): trial for (number, seed), trial in known.items() if seed is not None}


def _fold(known: _Known, rows: Iterable[Mapping[str, Any]], mode: str) -> None:
    for row in rows:
        number, seed = row.get("number"), row.get("seed")
        if row["event"] == "trial":
            is_member = row.get("is_member", False)
            known[row["number"], seed] = Trial(row["number"], row["sampled"], seed=seed, mode=mode, is_member=is_member)
        elif row["event"] == "compared":
            for name, exploit in row["exploits"].items():
                trial = known[int(name), None]
                exploited = Exploited(row["step"], exploit["donor"], trial.sampled)
                known[int(name), None] = replace(trial, sampled=exploit["sampled"], exploits=(*trial.exploits, exploited))
        elif number is not None and (number, seed) in known:
            known[number, seed] = _with_row(known[number, seed], row)


def _with_row(trial: Trial, row: Mapping[str, Any]) -> Trial:
    match row["event"]:
        case "report":
            figures = {name: value for name, value in row.items() if name not in _OWN}
            report = Report(row["step"], row["score"], figures, row["goes_on"], row["time"])
            return replace(trial, reports=(*trial.reports, report), spans=_spans(trial, row))
        case "cut":
            return replace(trial, is_cut=True)
        case "broke":
            return replace(trial, over=row["over"])
        case "restart":
            return replace(trial, restarts=trial.restarts + 1)
        case "failed":
            return replace(trial, cause=row["cause"], traceback=row.get("traceback", ""), spans=_spans(trial, row))
        case "logged":
            return replace(trial, mlflow_run=row["mlflow_run"])
        case _:
            return trial


def _spans(trial: Trial, row: Mapping[str, Any]) -> tuple[Span, ...]:
    if "trial_seconds" not in row:
        return trial.spans
    span = Span(row["time"] - row["trial_seconds"], row["time"], row["worker"])
    # A restart begins a new one in another process, a member's next stretch one that begins after the last one's end.
    return (*(known for known in trial.spans if known.worker != span.worker or known.ended <= span.began), span)
