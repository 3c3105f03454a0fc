"""``raybert schema``: JSON Schema of a recipe, for editors that complete and check YAML."""

from __future__ import annotations

import importlib
import json
from typing import Annotated

import typer

from foundation.errors import ConfigError
from raybert.options import AsJson

app = typer.Typer(help="Print the JSON Schema of a recipe.", rich_markup_mode=None)
COMMANDS = {"schema": app}

# Kind -> where its model is; only the one asked for is imported.
KINDS = {
    "data": ("corpus.config", "DataConfig"),
    "pretrain": ("training.config", "PretrainConfig"),
    "finetune": ("training.config", "FinetuneConfig"),
    "tune": ("tuning.config", "StudyConfig"),
    "serve": ("serving.config", "ServiceConfig"),
    "cluster": ("cluster.config", "LocalClusterSpec"),
}


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema of a recipe: its keys, types, limits and what each means. With --json on one line.

    Example: raybert schema finetune > finetune.schema.json
    """
    if kind not in KINDS:
        raise ConfigError(f"schema: {kind!r}: unknown kind; known kinds: {', '.join(KINDS)}")
    module, name = KINDS[kind]
    tree = getattr(importlib.import_module(module), name).model_json_schema()
    tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", **tree}
    print(json.dumps(tree, ensure_ascii=False) if as_json else json.dumps(tree, indent=2, ensure_ascii=False), flush=True)
