"""``raybert runs``: what training runs did and do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foundation.errors import DataError
from foundation.progress import say
from raybert.options import AsJson, DryRun, OlderThan, States, asked_for, line_of, require_absent, show, show_pruning

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint

app = typer.Typer(
    help="List training runs, show one, write its report, export and import checkpoints, remove what is old.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
COMMANDS = {"runs": app}

RunRef = Annotated[str, typer.Argument(help="Run id, an unambiguous part of it, or the run's folder.", metavar="RUN")]


@app.command("list")
def list_runs(as_json: AsJson = False) -> None:
    """List the runs of this home, the latest first: state, steps, score.

    Example: raybert runs list
    """
    from training.runs import all_runs

    found = [run.brief() for run in all_runs()]
    lines = [line_of(item["run_id"], item, f"{item['steps_done']:>7}/{item['steps']:<7}") for item in found]
    show({"runs": found}, "\n".join(lines) or "no runs yet; `raybert finetune` and `raybert pretrain` make them", as_json=as_json)


@app.command("show")
def show_run(ref: RunRef, as_json: AsJson = False) -> None:
    """Show a run's figures: steps, score, speed, memory, and where its time went.

    Example: raybert runs show finetune-20260101-120000-abcdef
    """
    from foundation.driving import RESUMABLE
    from foundation.progress import duration, size
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


@app.command("export")
def export_run(
    ref: Annotated[str, typer.Argument(help="Run id, an unambiguous part of it, or a checkpoint's folder.", metavar="RUN")],
    target: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    step: Annotated[int | None, typer.Option("--step", help="Of a run, the checkpoint of that step. Default: the last.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint (parameters and optimiser state) in DeepSpeed's universal form, for a program that trains with DeepSpeed alone.

    It is loaded with "checkpoint": {"load_universal": true} in the DeepSpeed JSON, at any ZeRO stage from 1 on and any number of GPUs.

    Example: raybert runs export pretrain-20260101-120000-abcdef universal
    """
    from training.universal import check_exportable, export_universal

    require_absent(target)
    checkpoint = _checkpoint_of(ref, step)
    found = {"from": checkpoint.folder, "to": target.absolute(), "step": checkpoint.progress.step, "dry_run": dry_run}
    text = f"checkpoint of step {checkpoint.progress.step}, {checkpoint.folder}"
    if dry_run:
        check_exportable(checkpoint)
        show(found, f"would export the {text} to {found['to']}", as_json=as_json)
        return
    written = export_universal(checkpoint, target.absolute())
    show(
        found | {"tensors": written.tensors, "parameters": written.parameters},
        f"exported the {text}\n{written.parameters:,} parameters in {written.tensors} tensors, with optimiser state: {written.folder}",
        as_json=as_json,
    )


@app.command("import")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="Folder of a universal checkpoint, as DeepSpeed's ds_to_universal.py writes it.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    step: Annotated[
        int | None, typer.Option("--step", min=0, help="Step of the recipe to go on at. Default: the steps that were done.")
    ] = None,
    strip: Annotated[str, typer.Option("--strip", help="Beginning of every parameter's name to take off, such as 'model.'.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Turn a universal checkpoint of DeepSpeed into one that runs go on from, with start_from.

    Nothing that the files name is executed.

    Example: raybert runs import universal/global_step1000 imported --strip model.

    Example: raybert pretrain -c recipe.yaml start_from=imported
    """
    from training.universal import Universal, import_universal

    require_absent(target)
    universal = Universal(source)
    at = universal.step if step is None else step
    found = {
        "from": universal.folder,
        "to": target.absolute(),
        "step": at,
        "optimiser_steps": universal.optimiser_steps,
        "dry_run": dry_run,
    }
    if dry_run:
        show(
            found, f"would import {universal.folder}, {universal.optimiser_steps} steps of the optimiser, to {found['to']}", as_json=as_json
        )
        return
    written = import_universal(universal, target.absolute(), step=step, strip=strip)
    show(
        found | {"tensors": written.tensors, "parameters": written.parameters},
        f"imported {written.parameters:,} parameters in {written.tensors} tensors, {universal.optimiser_steps} steps of the optimiser\n"
        f"to go on at step {at}: start_from={written.folder}",
        as_json=as_json,
    )


def _checkpoint_of(ref: str, step: int | None) -> Checkpoint:
    from training.checkpoint import MANIFEST, Checkpoint, first_whole
    from training.runs import checkpoints, open_run, step_of

    if (folder := Path(ref).expanduser() / MANIFEST).is_file():
        return Checkpoint.open(folder.parent)
    run = open_run(ref)
    of_run = checkpoints(run.folder)
    wanted = [path for path in of_run if step is None or step_of(path) == step]
    found, damaged = first_whole(wanted)
    if found is None:
        there = ", ".join(str(step_of(path)) for path in of_run) or "none"
        told = "; ".join(damaged) or f"--step: {step}: no checkpoint of that step" if of_run else "no checkpoint is left of it"
        raise DataError(f"{run.run_id}: {told}; checkpoints of steps: {there}")
    for reason in damaged:
        say(f"warning: {reason}; takes the one of step {found.progress.step}")
    return found


@app.command()
def prune(
    refs: Annotated[
        list[str] | None, typer.Argument(help="Runs. Default: all of this home.", metavar="[RUN]...", show_default=False)
    ] = None,
    older_than_days: OlderThan = None,
    states: States = None,
    whole: Annotated[bool, typer.Option("--whole", help="Remove all of a run, bundle and record too, and of runs in any state.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints of finished runs; bundle, record and report stay. Runs that are running are never touched.

    A run that could be gone on with keeps its checkpoints, and with --whole a run stays from which another one began that stays, or which a
    study's recipes name. Registered models have copies of their own.

    Example: raybert runs prune --older-than-days 7 --dry-run

    Example: raybert runs prune --whole --state failed --state lost
    """
    from training.pruning import prune as prune_runs
    from training.runs import open_run
    from tuning.studies import all_studies

    asked = asked_for(refs, older_than_days, states, whole, dry_run)
    chosen = [open_run(ref) for ref in refs] if refs else None
    studies = {study.study_id: study.places for study in all_studies()} if whole else {}
    show_pruning(prune_runs(asked, chosen, studies=studies), "runs", named=bool(refs), dry_run=dry_run, as_json=as_json)
