"""A clock with named phases: where a step's time goes. The engines mark what they do with it; it costs about a microsecond a phase.

Nested phases are counted once: what an inner phase takes is taken off the outer one. On a GPU kernels run behind the clock's back, so
``profiling.py`` makes it wait for the device while it profiles, and only then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

NAMES = ("data", "forward", "backward", "communication", "optimiser", "evaluation", "checkpoint", "other")


class Phases:
    """Seconds by phase since the last ``take``."""

    def __init__(self) -> None:
        self.wait_for_device: Callable[[], object] | None = None
        self.mark: Callable[[str], AbstractContextManager[object]] | None = None
        """Wraps each phase, so that it has a name in a trace."""
        self.events: dict[str, Callable[[], Any]] = {}
        """By phase, makes a timing event of the device, whose kernels run behind the clock's back; ``lap`` goes by these. They are kept
        until it is called."""
        self._seconds: dict[str, float] = {}
        self._lap: dict[str, float] = {}
        self._recorded: dict[str, list[tuple[Any, Any]]] = {}
        self._inner: list[float] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block as ``name``."""
        began = time.perf_counter()
        self._inner.append(0.0)
        event = self._event(name)
        try:
            with self.mark(name) if self.mark else nullcontext():
                yield
                if self.wait_for_device:
                    self.wait_for_device()
        finally:
            took = time.perf_counter() - began
            own = took - self._inner.pop()
            self._seconds[name] = self._seconds.get(name, 0.0) + own
            if event is None:
                self._lap[name] = self._lap.get(name, 0.0) + own
            else:
                self._recorded.setdefault(name, []).append((event, self._event(name)))
            if self._inner:
                self._inner[-1] += took

    def take(self) -> dict[str, float]:
        """Seconds by phase, and begin anew."""
        taken, self._seconds = self._seconds, {}
        return taken

    def lap(self, name: str) -> float:
        """Seconds of a phase since this was last asked of it, of the device where that has events; it has to be done with the phase."""
        passed: float = sum(begin.elapsed_time(end) for begin, end in self._recorded.pop(name, ())) / 1000
        return self._lap.pop(name, 0.0) + passed

    def _event(self, name: str) -> Any:
        if name not in self.events:
            return None
        event = self.events[name]()
        event.record()
        return event


@dataclass(frozen=True)
class PhaseTime:
    """One row of the table."""

    phase: str
    seconds: float
    """Of a mean step."""
    share: float


def phase_table(rows: Sequence[Mapping[str, Any]]) -> tuple[PhaseTime, ...]:
    """Where the mean step of a profiled run went; empty when the run was not profiled. Pure.

    Steps are those that the ``profile`` row timed. Evaluations and checkpoints are all of the run's, spread over all its steps.
    """
    profiles = [row for row in rows if row["event"] == "profile"]
    if not profiles:
        return ()
    profile, steps = profiles[-1], max(1, sum(row["event"] == "step" for row in rows))
    seconds = {name: value / profile["steps"] for name, value in profile["phases"].items()}
    for name in ("evaluation", "checkpoint"):
        seconds[name] = sum(row.get(f"{name}_seconds", 0.0) for row in rows) / steps
    known = sum(profile["phases"].values()) / profile["steps"]
    seconds["other"] = max(0.0, profile["seconds"] / profile["steps"] - known)
    total = sum(seconds.values()) or 1.0
    return tuple(PhaseTime(name, seconds.get(name, 0.0), seconds.get(name, 0.0) / total) for name in NAMES)


def table_text(table: Sequence[PhaseTime]) -> str:
    """The table for a terminal."""
    lines = [f"{'phase':<15}{'ms a step':>11}{'share':>9}"]
    return "\n".join(lines + [f"{row.phase:<15}{1e3 * row.seconds:>11.2f}{100 * row.share:>7.1f} %" for row in table])
