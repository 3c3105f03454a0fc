"""``raybert runs``: what training runs did and do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from raybert.options import AsJson, DryRun, show

app = typer.Typer(help="List training runs, show one, write its report, remove what is old.", no_args_is_help=True, rich_markup_mode=None)
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
    from training.runs import RESUMABLE, open_run

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
    if figures["state"] in RESUMABLE:
        lines.append(f"  {'to go on':<14}raybert {figures['verb']} --resume {run.run_id}")
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


@app.command()
def prune(
    refs: Annotated[
        list[str] | None, typer.Argument(help="Runs. Default: all of this home.", metavar="[RUN]...", show_default=False)
    ] = None,
    older_than_days: Annotated[
        float | None,
        typer.Option(
            "--older-than-days", min=0, help="Only runs that ended so long ago. Default: 30; of runs that are named 0.", show_default=False
        ),
    ] = None,
    states: Annotated[
        list[str] | None,
        typer.Option(
            "--state", help="Only runs that are finished, failed, interrupted or lost; more than once for several.", show_default=False
        ),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Remove all of a run, bundle and record too, and of runs in any state.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints of finished runs; bundle, record and report stay. Runs that are running are never touched.

    A run that could be gone on with keeps its checkpoints, and with --whole a run stays from which another one began that stays. Registered
    models have copies of their own.

    Example: raybert runs prune --older-than-days 7 --dry-run
    Example: raybert runs prune --whole --state failed --state lost
    """
    from dataclasses import asdict

    from training.live import size
    from training.pruning import DAY_S
    from training.pruning import prune as prune_runs
    from training.runs import open_run

    days = older_than_days if older_than_days is not None else (0.0 if refs else 30.0)
    chosen = [open_run(ref) for ref in refs] if refs else None
    found = prune_runs(chosen, older_than_s=DAY_S * days, states=states or (), whole=whole, dry_run=dry_run)
    lines = [f"{item.run_id:<34} {item.state:<12}{item.what:<12}{size(item.bytes):>10}" for item in found.gone]
    lines += [f"{item.run_id:<34} stays: {item.reason}" for item in found.kept] if refs else []
    lines.append(
        f"{'would remove' if dry_run else 'removed'} {size(found.bytes)} of {len(found.gone)} runs; {len(found.kept)} stay as they are"
    )
    show({**asdict(found), "bytes": found.bytes, "dry_run": dry_run}, "\n".join(lines), as_json=as_json)
