"""A run as one self-contained HTML page: figures, curves, where its time went, its recipe. Pure, from what ``runs.py`` read; the charts are
``charts.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import yaml

from foundation.home import write_atomically
from foundation.page import page as framed
from foundation.page import table, tiles
from foundation.progress import duration, minute, size
from training.charts import STYLE, bar, curves, legend
from training.runs import REPORT_FILE, TRACE_FILE, Run

_PARTS = {
    "compute": "steps that count",
    "data": "of those steps, the wait for data",
    "evaluation": "held-out rows",
    "checkpoint": "writing checkpoints",
    "start": "until the first step could run",
    "restart": "from a failure until the next step could run",
    "lost": "done, then done again after a restart",
    "other": "export, records, what no row accounts for",
}


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write the page, by default into the run's folder; returns its path."""
    target = out or run.folder / REPORT_FILE
    write_atomically(target, page(run))
    return target


def page(run: Run) -> str:
    """The page."""
    figures = run.figures()
    body = [_head(run, figures), _tiles(figures), _charts(run), _time(run), _phases(run), _validation(run)]
    findings = "".join(f"<li>{escape(found['kind'])}: {escape(found['message'])}</li>" for found in run.plan.get("findings") or ())
    body.append(f"<h2>Findings about the data</h2><ul>{findings}</ul>" if findings else "")
    body.append(_attempts(run))
    body.append(f"<h2>Recipe</h2><pre>{escape(yaml.safe_dump(run.plan['recipe'], sort_keys=False, allow_unicode=True))}</pre>")
    return framed(run.run_id, "".join(body), style=STYLE)


def _head(run: Run, figures: Mapping[str, Any]) -> str:
    told = [
        f"<span class=state>{escape(figures['state'])}</span>",
        f"begun {minute(run.about['started'])} UTC",
        f"{duration(sum(seconds for part, seconds in figures['goodput'].items() if part != 'share'))} in all",
        f"encoder {escape(str(run.plan['recipe'].get('encoder', 'from scratch')))}",
    ]
    if figures["data_fingerprint"]:
        told.append(f"data {escape(figures['data_fingerprint'][:12])}")
    return f"<p>{', '.join(told)}.</p>"


def _tiles(figures: Mapping[str, Any]) -> str:
    score = figures["score"]
    told = {
        f"best {score['metric']}": f"{score['best']:.4f} at {score['step']:,}" if score["best"] is not None else "–",
        "steps": f"{figures['steps_done']:,} of {figures['steps']:,}",
        "last loss": _text(figures["loss"], ".4f"),
        "tokens a second": _text(figures["tokens_per_s"], ",.0f"),
        "share of peak": f"{100 * figures['mfu']:.1f} %" if figures["mfu"] is not None else "–",
        "goodput": f"{100 * figures['goodput']['share']:.1f} %",
        "memory of a worker": size(figures["memory_bytes"]) if figures["memory_bytes"] else "–",
        "workers, restarts": f"{figures['workers']}, {figures['restarts']}",
        "skipped steps": f"{figures['skipped_steps']:,}",
    }
    return tiles(told)


def _charts(run: Run) -> str:
    steps, evaluations = run.surviving("step"), run.surviving("evaluation")
    marks = [attempt["step"] for attempt in run.attempts[1:]]

    def of(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        return [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]

    losses = {"training": of(steps, "loss"), "held-out": of(evaluations, "validation_loss")}
    scores = {name: of(evaluations, name) for name in _scores(evaluations) if name != "validation_loss"}
    charts = [
        curves("Loss", losses, marks=marks),
        curves("Held-out scores", scores, marks=marks),
        curves("Learning rate", {"learning rate": of(steps, "learning_rate")}, marks=marks, from_zero=True),
        curves("Tokens a second", {"tokens a second": of(steps, "tokens_per_s")}, marks=marks, from_zero=True),
        curves("Gradient norm before clipping", {"gradient norm": of(steps, "grad_norm")}, marks=marks, from_zero=True),
        curves("Share of peak", {"share of peak": of(steps, "mfu")}, marks=marks, from_zero=True),
    ]
    note = "<p>A dashed line marks a restart.</p>" if marks else ""
    return f"<h2>Curves</h2><div class=charts>{''.join(charts)}</div>{note}" if any(charts) else ""


def _time(run: Run) -> str:
    goodput = run.goodput()
    spent = {name: asdict(goodput)[name] for name in _PARTS}
    total = goodput.seconds or 1.0
    rows = [(name, _seconds(value), f"{100 * value / total:.1f} %", _PARTS[name]) for name, value in spent.items()]
    colours = legend({name: f"var(--c{colour})" for colour, name in enumerate(spent)})
    return (
        f"<h2>Where the time went</h2><p>Goodput {100 * goodput.share:.1f} %: the share of {duration(goodput.seconds)} that was computing "
        f"steps which count.</p>{bar(spent)}{colours}{table(('part', 'time', 'share', 'what'), rows, numbers=(1, 2))}"
    )


def _phases(run: Run) -> str:
    found = run.phases()
    if not found:
        return ""
    rows = [(row.phase, f"{1e3 * row.seconds:.2f}", f"{100 * row.share:.1f} %") for row in found]
    colours = {row.phase: row.seconds for row in found}
    spots = legend({name: f"var(--c{place})" for place, name in enumerate(colours)})
    trace = f"<p>The trace of further steps is {TRACE_FILE} beside this page; chrome://tracing and ui.perfetto.dev open it.</p>"
    return (
        f"<h2>Where a step went</h2>{bar(colours)}{spots}{table(('phase', 'ms a step', 'share'), rows, numbers=(1, 2))}"
        f"<p>Rank 0, mean of the profiled steps; evaluations and checkpoints are the run's, spread over all steps.</p>"
        f"{trace if (run.folder / TRACE_FILE).exists() else ''}"
    )


def _validation(run: Run) -> str:
    evaluations = run.surviving("evaluation")
    names = _scores(evaluations)
    rows = [[f"{row['step']:,}", *(_text(row.get(name), ".4f") for name in names)] for row in evaluations[-30:]]
    if not rows:
        return ""
    heads = ["after step", *(name.replace("_", " ") for name in names)]
    return f"<h2>Held-out rows</h2>{table(heads, rows, numbers=range(len(heads)))}"


def _attempts(run: Run) -> str:
    rows = [
        (
            str(number),
            f"{row['step']:,}",
            str(row["world_size"]),
            row["engine"],
            f"{row['peak_flops'] / 1e9:,.0f}" if "peak_flops" in row else "–",
        )
        for number, row in enumerate(run.attempts, 1)
    ]
    heads = ("attempt", "from step", "workers", "engine", "measured peak, GFLOPs/s")
    return f"<h2>Attempts</h2>{table(heads, rows, numbers=(0, 1, 2, 4))}" if rows else ""


def _scores(evaluations: list[dict[str, Any]]) -> list[str]:
    beside = ("step", "time", "evaluation_seconds", "checkpoint_seconds", "memory_bytes", "gpu_memory_bytes")
    return [
        name for name, value in (evaluations[-1] if evaluations else {}).items() if name not in beside and isinstance(value, (int, float))
    ]


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else duration(value)


def _text(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) else "–"
