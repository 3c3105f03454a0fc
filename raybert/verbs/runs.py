"""``raybert runs``: what training runs did and do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from raybert.options import AsJson, show

app = typer.Typer(help="List training runs, show one, write its report.", no_args_is_help=True, rich_markup_mode=None)
COMMANDS = {"runs": app}

RunRef = Annotated[str, typer.Argument(help="Run id, an unambiguous part of it, or the run's folder.", metavar="RUN")]


@app.command("list")
def list_runs(as_json: AsJson = False) -> None:
    """List the runs of this home, the latest first: state, steps, score.

    Example: raybert runs list
    """
    from training.runs import all_runs

    found = [run.brief() for run in all_runs()]
    lines = []
    for item in found:
        begun = f"{datetime.fromtimestamp(item['started'], UTC):%Y-%m-%d %H:%M}"
        score = f"{item['metric']} {item['score']:.4f}" if item["score"] is not None else ""
        lines.append(f"{item['run_id']:<34} {begun}  {item['state']:<12}{item['steps_done']:>7}/{item['steps']:<7} {score}".rstrip())
    show({"runs": found}, "\n".join(lines) or "no runs yet; `raybert finetune` and `raybert pretrain` make them", as_json=as_json)


@app.command("show")
def show_run(ref: RunRef, as_json: AsJson = False) -> None:
    """Show a run's figures: steps, score, speed, memory, and where its time went.

    Example: raybert runs show finetune-20260101-120000-abcdef
    """
    from foundation.progress import duration
    from training.live import size
    from training.phases import table_text
    from training.runs import open_run

    run = open_run(ref)
    figures = run.figures()
    score, goodput = figures["score"], run.goodput()
    best = f"{score['best']:.4f} at step {score['step']}" if score["best"] is not None else "none yet"
    speed = f"{figures['tokens_per_s']:,.0f} tokens/s" if figures["tokens_per_s"] else "–"
    share = f", {100 * figures['mfu']:.1f} % of peak" if figures["mfu"] is not None else ""
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in goodput.as_json().items() if name != "share" and seconds >= 0.5)
    lines = [
        f"{figures['run_id']}: {figures['state']}, {figures['steps_done']} of {figures['steps']} steps",
        f"  {score['metric']:<14}{best}",
        f"  {'speed':<14}{speed}{share}",
        f"  {'memory':<14}{size(figures['memory_bytes'])} a worker",
        f"  {'workers':<14}{figures['workers']}, restarts {figures['restarts']}, skipped steps {figures['skipped_steps']}",
        f"  {'time':<14}{duration(goodput.seconds)}, goodput {100 * goodput.share:.1f} %: {parts}",
        f"  {'data':<14}{figures['data_fingerprint'] or 'not known before the run has finished'}",
        f"  {'folder':<14}{figures['folder']}",
    ]
    if table := run.phases():
        lines.append(table_text(table))
    show(figures, "\n".join(lines), as_json=as_json)


@app.command()
def report(
    ref: RunRef,
    out: Annotated[Path | None, typer.Option("--out", help="HTML file to write. Default: report.html in the run's folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report, one HTML file that needs nothing beside it; of a run that is under way, as far as it is.

    Example: raybert runs report finetune-20260101-120000-abcdef --out report.html
    """
    from training.report import write_report
    from training.runs import open_run

    run = open_run(ref)
    written = write_report(run, out.absolute() if out else None)
    show({"run_id": run.run_id, "report": str(written)}, f"report of {run.run_id}: {written}", as_json=as_json)
