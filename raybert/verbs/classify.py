"""``raybert classify``: batch inference over a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from raybert.options import Address, AsJson, DryRun, ModelRef, show, show_plan

app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"classify": app}


@app.command()
def classify(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .csv, .jsonl or .parquet file.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, of the same kind.")],
    model: ModelRef,
    text_column: Annotated[str, typer.Option("--text-column", help="The column with the texts.")] = "text",
    pair_column: Annotated[
        str | None, typer.Option("--pair-column", help="The column with second texts, for a model of pairs.", show_default=False)
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Put before the new columns label and score.", show_default=False)] = "",
    actors: Annotated[int | None, typer.Option("--actors", min=1, help="Models at once. Default: one per CPU.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Classify every row of a file; label and score are written next to the columns that it has.

    Of a multi-label model these are lists (JSON text in a CSV) of the labels that reach their thresholds and of their scores; a regression
    writes a score only.

    Example: raybert classify reviews.csv scored.csv --model reviews@champion
    """
    from serving.bulk import examine

    plan = examine(source, target, text_column=text_column, pair_column=pair_column, prefix=prefix, overwrite=overwrite)
    from serving.classifier import resolve_bundle

    resolved = resolve_bundle(model)
    # An alias may move while the work runs; a version does not.
    pinned = resolved.version.ref if resolved.version else resolved.location
    if dry_run:
        show_plan({"plan": asdict(plan), "model": pinned, "actors": actors or "one per CPU"}, as_json=as_json)
        return
    from cluster.session import session
    from foundation.progress import progress
    from serving.bulk import run

    with session(address, cpus=actors or 1, lower="--actors"):
        import ray

        at_once = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
        with progress("classify", plan.rows, unit="row") as shown:
            result = run(plan, pinned, actors=at_once, report=shown.update)
    given = ", ".join(f"{label} {count}" for label, count in result.labels.items())
    show(
        {"out": str(plan.target), "model": pinned, "rows": result.rows, "labels": result.labels},
        f"{result.rows} rows classified by {pinned}{f': {given}' if given else ''}\nwritten to {plan.target}",
        as_json=as_json,
    )
