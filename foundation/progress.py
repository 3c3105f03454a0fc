"""Progress of long work: a bar with rate, ETA and loss on a terminal, plain lines elsewhere. Always on stderr; stdout is for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol


def say(message: str) -> None:
    """Print one line for the person watching."""
    print(message, file=sys.stderr, flush=True)


class Progress(Protocol):
    """What long work reports to."""

    def update(self, done: int, **figures: float | str) -> None:
        """Say that ``done`` units are finished; ``figures`` (loss, accuracy, …) are shown beside them."""


def duration(seconds: float) -> str:
    """Seconds as people write them: ``42 s``, ``3 m 05 s``, ``2 h 10 m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def minute(seconds: float) -> str:
    """Unix seconds as people write them, in UTC: ``2026-01-01 12:00``."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


class _Rate:
    """Units per second since the first update; a resumed run does not count what an earlier attempt did."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def __call__(self, done: int) -> float:
        now = time.monotonic()
        if self._start is None or done < self._start[1]:
            self._start = (now, done)
        elapsed = now - self._start[0]
        return (done - self._start[1]) / elapsed if elapsed > 0 else 0.0


def _figures(figures: dict[str, float | str]) -> str:
    return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items())


class _Lines:
    def __init__(self, what: str, total: int, unit: str, every_s: float) -> None:
        self._what, self._total, self._unit, self._every_s = what, total, unit, every_s
        self._rate, self._last = _Rate(), -every_s

    def update(self, done: int, **figures: float | str) -> None:
        rate = self._rate(done)
        now = time.monotonic()
        if now - self._last < self._every_s and done < self._total:
            return
        self._last = now
        eta = f"  ETA {duration((self._total - done) / rate)}" if rate > 0 and done < self._total else ""
        speed = f"  {rate:.2f} {self._unit}/s" if rate > 0 else ""
        say(f"{self._what}: {self._unit} {done}/{self._total}{speed}{eta}  {_figures(figures)}".rstrip())


def size(count: float) -> str:
    """Bytes as people write them: ``4 kB``, ``612 MB``, ``1.4 GB``."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


@contextmanager
def progress(what: str, total: int, *, unit: str = "step", every_s: float = 10.0) -> Iterator[Progress]:
    """Show the progress of ``total`` units of work: a bar when stderr is a terminal, else a line each ``every_s`` seconds."""
    if not sys.stderr.isatty():
        yield _Lines(what, total, unit, every_s)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, note="")
        rate = _Rate()

        class _Bar:
            def update(self, done: int, **figures: float | str) -> None:
                speed = rate(done)
                eta = f"ETA {duration((total - done) / speed)}" if speed > 0 else ""
                bar.update(task, completed=done, note=f"{speed:.2f} {unit}/s {eta} {_figures(figures)}")

        yield _Bar()
