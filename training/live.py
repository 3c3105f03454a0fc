"""What a person sees of a run while it runs, from the rows of its record alone: a panel on a terminal, a line each ten seconds elsewhere.

``seen`` folds a row into the view, ``line`` and ``panel`` show it; all three are pure. ``watching`` does the showing, on stderr.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from foundation.progress import duration, say, size

if TYPE_CHECKING:
    from rich.console import RenderableType

_RECENT = 40
_LINE_EVERY_S = 10.0
_BLOCKS = "▁▂▃▄▅▆▇█"
_NOT_VALIDATION = {"event", "time", "step", "evaluation_seconds", "checkpoint_seconds", "memory_bytes", "gpu_memory_bytes", "attempt"}


class _Step(NamedTuple):
    loss: float
    tokens: int
    seconds: float
    mfu: float


@dataclass(frozen=True)
class View:
    """A run as its record tells it so far. Times are Unix seconds of the workers' clock."""

    what: str
    """Verb and run id."""
    steps: int
    """Steps of the whole run."""
    done: int = 0
    attempts: int = 0
    world_size: int = 0
    began: tuple[float, int] = (0.0, 0)
    """When the current attempt began, and at which step."""
    computed_s: float = 0.0
    """What the steps of the current attempt took."""
    last: float = 0.0
    """Time of the last row."""
    learning_rate: float | None = None
    grad_norm: float | None = None
    recent: tuple[_Step, ...] = field(default=(), repr=False)
    """The last forty steps."""
    memory_bytes: int = 0
    gpu_memory_bytes: int = 0
    checkpoint: tuple[float, int] | None = None
    """When the last checkpoint was written, and at which step."""
    validation: tuple[tuple[str, float], ...] = ()
    skipped: tuple[int, ...] = ()
    """Steps whose gradient was not applied."""

    @property
    def loss(self) -> float | None:
        """Of the last step."""
        return self.recent[-1].loss if self.recent else None

    @property
    def tokens_per_s(self) -> float:
        """Over the last steps; what passes between steps is not counted."""
        seconds = sum(step.seconds for step in self.recent)
        return sum(step.tokens for step in self.recent) / seconds if seconds > 0 else 0.0

    @property
    def mfu(self) -> float:
        """Mean over the last steps."""
        return sum(step.mfu for step in self.recent) / len(self.recent) if self.recent else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to the last step at the pace of the last steps, which another process on the machine may slow down or let go; to each is
        added its part of what the attempt spent between steps, evaluations and checkpoints among it."""
        here = self.done - self.began[1]
        if here <= 0 or not self.recent:
            return None
        between = max(0.0, self.last - self.began[0] - self.computed_s) / here
        return (self.steps - self.done) * (sum(step.seconds for step in self.recent) / len(self.recent) + between)

    @property
    def restarts(self) -> int:
        """Attempts after the first."""
        return max(0, self.attempts - 1)


def seen(view: View, row: Mapping[str, Any]) -> View:
    """The view after one more row of the record."""
    view = replace(view, last=row["time"])
    match row["event"]:
        case "attempt":
            return replace(
                view,
                steps=row.get("steps", view.steps),
                done=row["step"],
                attempts=view.attempts + 1,
                world_size=row["world_size"],
                began=(row["time"], row["step"]),
                computed_s=0.0,
                skipped=tuple(step for step in view.skipped if step < row["step"]),
            )
        case "step":
            step = _Step(row["loss"], row["tokens"], row["seconds"], row.get("mfu", 0.0))
            return replace(
                view,
                done=row["step"] + 1,
                learning_rate=row["learning_rate"],
                grad_norm=row["grad_norm"],
                recent=(*view.recent, step)[-_RECENT:],
                computed_s=view.computed_s + step.seconds,
                memory_bytes=row.get("memory_bytes", view.memory_bytes),
                gpu_memory_bytes=row.get("gpu_memory_bytes", view.gpu_memory_bytes),
                skipped=view.skipped if row["is_applied"] else (*view.skipped, row["step"]),
            )
        case "evaluation":
            found = {name: value for name, value in row.items() if name not in _NOT_VALIDATION and isinstance(value, (int, float))}
            return replace(view, validation=tuple(found.items()))
        case "checkpoint":
            return replace(view, checkpoint=(row["time"], row["step"]))
        case _:
            return view


def sparkline(values: Iterable[float]) -> str:
    """Values as blocks of eight heights, the least and the greatest at the ends; a value that is no number is a gap."""
    values = list(values)
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)


def line(view: View, now: float) -> str:
    """The view in one line; what is not known yet is left out."""
    parts = [f"{view.what}: step {view.done}/{view.steps}"]
    if view.recent:
        parts += [f"loss {view.loss:.4g}", f"lr {view.learning_rate:.3g}", f"norm {view.grad_norm:.3g}"]
        parts.append(f"{view.tokens_per_s:,.0f} tokens/s{f' ({100 * view.mfu:.1f} % of peak)' if view.mfu else ''}")
    if view.memory_bytes:
        parts.append(_memory(view))
    if view.eta_s is not None and view.done < view.steps:
        parts.append(f"ETA {duration(view.eta_s)}")
    if view.world_size > 1 or view.restarts:
        parts.append(_workers(view))
    if view.checkpoint:
        parts.append(_checkpoint(view.checkpoint, now))
        parts += [f"{name} {value:.4g}" for name, value in view.validation]
    if view.skipped:
        parts.append(f"{len(view.skipped)} skipped")
    return "  ".join(parts)


def panel(view: View, now: float) -> RenderableType:
    """The view for a terminal."""
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    if not view.attempts:
        return Panel("starting the workers", title=view.what, title_align="left")
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1, no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1, no_wrap=True)
    eta = "done" if view.done >= view.steps else duration(view.eta_s) if view.eta_s is not None else "–"
    table.add_row("step", f"{view.done:,} of {view.steps:,}", "ETA", eta)
    loss = f"{view.loss:.4f} {sparkline(step.loss for step in view.recent[-20:])}" if view.recent else "–"
    table.add_row("loss", loss, "tokens/s", f"{view.tokens_per_s:,.0f}" if view.recent else "–")
    rate = f"{view.learning_rate:.3g}" if view.learning_rate is not None else "–"
    table.add_row("learning rate", rate, "share of peak", f"{100 * view.mfu:.1f} %" if view.mfu else "–")
    norm = f"{view.grad_norm:.3g}" if view.grad_norm is not None else "–"
    table.add_row("gradient norm", norm, "memory", _memory(view) if view.memory_bytes else "–")
    skipped = f"[bold red]{len(view.skipped)}[/]" if view.skipped else "none"
    table.add_row("skipped steps", skipped, "workers", _workers(view).replace(" workers", "").replace(" worker", ""))
    at = _checkpoint(view.checkpoint, now).removeprefix("checkpoint ") if view.checkpoint else "none yet"
    validation = "  ".join(f"{name.removeprefix('validation_')} {value:.4f}" for name, value in view.validation) or "–"
    below = Table.grid(padding=(0, 2))
    below.add_column(style="dim", no_wrap=True, min_width=len("learning rate"))
    below.add_column()
    below.add_row("checkpoint", at)
    below.add_row("validation", validation)
    whole = Table.grid(expand=True)
    whole.add_row(ProgressBar(total=max(1, view.steps), completed=view.done))
    whole.add_row(table)
    whole.add_row(below)
    return Panel(whole, title=view.what, title_align="left")


def _memory(view: View) -> str:
    return f"{size(view.memory_bytes)} a worker{f', GPU {size(view.gpu_memory_bytes)}' if view.gpu_memory_bytes else ''}"


def _workers(view: View) -> str:
    restarts = f", {view.restarts} restart{'s' if view.restarts > 1 else ''}" if view.restarts else ""
    return f"{view.world_size} worker{'s' if view.world_size != 1 else ''}{restarts}"


def _checkpoint(checkpoint: tuple[float, int], now: float) -> str:
    return f"checkpoint at {checkpoint[1]}, {duration(max(0.0, now - checkpoint[0]))} ago"


class Watch(Protocol):
    """Shows a run to whoever watches."""

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in new rows; called often, also without any."""


class _Lines:
    def __init__(self, view: View) -> None:
        self._view, self._said, self._shown = view, time.monotonic(), view

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._view = _told(self._view, row)
        if time.monotonic() - self._said >= _LINE_EVERY_S:
            self.say()

    def say(self) -> None:
        if self._view != self._shown:
            say(line(self._view, time.time()))
            self._said, self._shown = time.monotonic(), self._view


def _told(view: View, row: Mapping[str, Any]) -> View:
    """The view after ``row``; failures, restarts, waits for nodes, and what is wrong with a checkpoint, are said at once."""
    after = seen(view, row)
    match row["event"]:
        case "damaged":
            say(f"{view.what}: warning: {row['reason']}; goes on from step {row['step']}")
        case "unwritten":
            say(f"{view.what}: warning: the checkpoint at step {row['step']} could not be written: {row['reason']}; the one before stays")
        case "leaving" if not row["ranks"]:
            say(f"{view.what}: there is room for another number of workers; these leave with a checkpoint at step {row['step']}")
        case "leaving":
            going = f"the node of {' and '.join(f'rank {rank}' for rank in row['ranks'])} goes in {row['seconds']:.0f} s"
            leaves = f"; the workers leave it with a checkpoint at step {row['step']}"
            stays = "" if row["leaves"] else f", too soon for a checkpoint, which may take {row['needed_s']:.0f} s; goes on until then"
            say(f"{view.what}: warning: {going}{stays or leaves}")
        case "straggler":
            slow = f"rank {row['rank']} on {row['host']} takes {row['seconds'] / row['others']:.1f} times as long as the others"
            figures = f"{1000 * row['seconds']:.0f} ms against {1000 * row['others']:.0f} ms for its forward passes of a step"
            say(f"{view.what}: warning: {slow}, {figures}, and they wait for it")
        case "failure":
            failed = ", ".join(f"rank {rank}: {reason}" for rank, reason in row["ranks"].items())
            say(f"{view.what}: warning: after step {view.done} the workers were ended; {failed}")
        case "waiting":
            room = f"the cluster's nodes have room for {row['room']} beside what else runs there"
            say(f"{view.what}: waits for {row['least']} workers; {room}")
        case "attempt" if row["step"] > 0:
            say(f"{view.what}: goes on from the checkpoint at step {row['step']} with {_workers(after)}")
    return after


@contextmanager
def watching(verb: str, run_id: str, steps: int) -> Iterator[Watch]:
    """Show a run on stderr: live on a terminal, else a line each ten seconds and one at the end, however it ends."""
    if not sys.stderr.isatty():
        lines = _Lines(View(verb, steps))
        try:
            yield lines
        finally:
            lines.say()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, auto_refresh=False) as live:
        view = View(run_id, steps)

        class _Panel:
            def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
                nonlocal view
                for row in rows:
                    view = _told(view, row)
                live.update(panel(view, time.time()), refresh=True)

        yield _Panel()
