"""What a person sees of a study on a terminal: its trials in a table, from the record alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundation.progress import duration
from tuning.record import Trial, named, short

if TYPE_CHECKING:
    from rich.console import RenderableType

_ROWS, _WIDEST = 20, 24
_WORDS = {"unfinished": "running", "finished": "[green]finished[/]", "stopped": "[dim]stopped[/]", "failed": "[bold red]failed[/]"}


@dataclass(frozen=True)
class View:
    """A study as far as it has come."""

    what: str
    """The study's id."""
    metric: str
    mode: str
    trials: Sequence[Trial]
    """Those that were begun."""
    count: int
    """How many there will be."""
    left_s: float | None = None
    """Seconds to the end, as far as can be told."""
    spent: float | None = None
    """Share of the budget; None without one."""

    @property
    def best(self) -> Trial | None:
        """The trial with the best score so far."""
        return next(iter(_by_score([trial for trial in self.trials if trial.score is not None], self.mode)), None)


def eta_s(trial: Trial, now: float) -> float | None:
    """Seconds to a trial's last step at the pace of its reports; None before the second one.

    Args:
        trial: That runs.
        now: Unix seconds.
    """
    if len(trial.reports) < 2:
        return None
    first, last = trial.reports[0], trial.reports[-1]
    if last.step <= first.step:
        return None
    pace, left = (last.time - first.time) / (last.step - first.step), int(last.figures["steps"]) - last.step
    return max(0.0, pace * left - (now - last.time))


def differing(trials: Sequence[Trial]) -> dict[str, str]:
    """Hyperparameters whose values are not all alike, to a short name for the head of a column: the last part of the key, where no other
    key ends so."""
    found: dict[str, set[str]] = {}
    for trial in trials:
        for key, value in trial.sampled.items():
            found.setdefault(key, set()).add(repr(value))
    keys = [key for key, values in found.items() if len(values) > 1 or sum(key in trial.sampled for trial in trials) < len(trials)]
    ends = [key.rpartition(".")[2] for key in found]
    return {key: end if ends.count(end := key.rpartition(".")[2]) == 1 else key for key in keys}


def table(view: View, now: float) -> RenderableType:
    """The view for a terminal: trials that run, then the best of those that have ended."""
    from rich.markup import escape
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if not view.trials:
        return Panel("starting the first trials", title=view.what, title_align="left")
    columns = differing(view.trials)
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("trial", *columns.values(), "step", view.metric, "state", "ETA"):
        grid.add_column(head, no_wrap=True, justify="right" if head in ("step", view.metric, "ETA") else "left")
    running = [trial for trial in view.trials if trial.state == "unfinished"]
    ended = [trial for trial in view.trials if trial.state != "unfinished"]
    scored = _by_score([trial for trial in ended if trial.score is not None], view.mode)
    ordered = [*running, *scored, *(trial for trial in ended if trial.score is None)]
    for trial in ordered[:_ROWS]:
        is_best = view.best is not None and (trial.number, trial.seed) == (view.best.number, view.best.seed)
        grid.add_row(
            named(trial.number, trial.seed).removeprefix("trial "),
            *(escape(short(trial.sampled[key], _WIDEST)) if key in trial.sampled else "–" for key in columns),
            _steps(trial),
            ("[bold]{:.4f}[/]" if is_best else "{:.4f}").format(trial.score) if trial.score is not None else "–",
            _WORDS[trial.state] + (f" ×{trial.restarts + 1}" if trial.restarts else ""),
            duration(left) if trial.state == "unfinished" and (left := eta_s(trial, now)) is not None else "",
        )
    done = len(ended)
    told = [f"{done} of {view.count} trials"]
    if view.best is not None:
        told.append(f"best {view.metric} {view.best.score:.4f}, {named(view.best.number, view.best.seed)}")
    if view.spent is not None:
        told.append(f"budget {view.spent:.0%}")
    if view.left_s is not None and done < view.count:
        told.append(f"about {duration(view.left_s)} left")
    whole = Table.grid(expand=True)
    for part in (ProgressBar(total=max(1, view.count), completed=done), Text("   ".join(told)), grid):
        whole.add_row(part)
    if len(ordered) > _ROWS:
        whole.add_row(Text(f"and {len(ordered) - _ROWS} others that have ended", style="dim"))
    return Panel(whole, title=view.what, title_align="left")


def _by_score(trials: Sequence[Trial], mode: str) -> list[Trial]:
    sign = -1 if mode == "max" else 1
    return sorted(trials, key=lambda trial: sign * (trial.score or 0.0))


def _steps(trial: Trial) -> str:
    return f"{trial.step}/{trial.reports[-1].figures['steps']}" if trial.reports else "–"
