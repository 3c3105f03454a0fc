"""``raybert evaluate``: metrics of a model on labelled rows, recorded with the version, gates checked."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from foundation.errors import BundleError, ConfigError, DataError
from raybert.options import AsJson, DryRun, ModelRef, show, show_plan

app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"evaluate": app}


@app.command()
def evaluate(
    model: ModelRef,
    data: Annotated[str, typer.Option("--data", help="A `data build` folder (its test split) or a labelled file.")],
    split: Annotated[
        str, typer.Option("--split", help="Which split of a folder, or of a file with --split-column: test or validation.")
    ] = "test",
    split_column: Annotated[
        str | None,
        typer.Option(
            "--split-column", help="Column that marks each row's split, in a plain file. Default: all are measured.", show_default=False
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="METRIC=LEAST (of mae and rmse METRIC=MOST), repeatable. Default: the gates in the bundle."),
    ] = None,
    baseline: Annotated[
        bool | None, typer.Option("--baseline/--no-baseline", help="Fit a linear model on TF-IDF of the train split, if there is one.")
    ] = None,
    text_column: Annotated[str, typer.Option("--text-column", help="Column with the text, in a plain file.")] = "text",
    pair_column: Annotated[
        str | None, typer.Option("--pair-column", help="Column with the second text, in a plain file.", show_default=False)
    ] = None,
    label_column: Annotated[str, typer.Option("--label-column", help="Column with the label, in a plain file.")] = "label",
    label_separator: Annotated[
        str | None,
        typer.Option("--label-separator", help="Between the labels of a multi-label row, where they are plain text.", show_default=False),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on labelled rows beside a baseline. Exit code 3 when a gate fails.

    The model's task says what the labels of a plain file are: one label, a list of labels, or a number.

    Example: raybert evaluate --model reviews/1 --data build/movie_reviews --gate accuracy=0.8

    A file with a column of splits: raybert evaluate --model reviews/1 --data reviews.parquet --split-column split
    """
    from corpus.config import LabelledDataConfig
    from corpus.labelled import load_labelled
    from corpus.manifest import is_build
    from foundation.evidence import Evaluation
    from foundation.home import now_utc
    from foundation.references import resolve
    from foundation.registry import Registry

    if split not in ("test", "validation"):
        raise ConfigError(f"--split: found {split!r}, expected test or validation")
    wanted = _gates(gate or [])
    resolved = resolve(model)
    if resolved.bundle is None:
        raise BundleError(f"{model}: not a bundle; `raybert finetune` writes one")
    from training.evaluation import LABEL_KINDS, check_gates, check_kind, evaluate_bundle, table

    manifest = resolved.bundle.manifest
    if manifest.task not in LABEL_KINDS:
        raise BundleError(f"{model}: is a {manifest.task} bundle, not a classifier; `raybert finetune` makes one from it")
    is_folder = Path(data).is_dir()
    if is_folder and split_column is not None:
        raise ConfigError(f"--split-column: is of a plain file, {data} is a folder with splits of its own; leave it out")
    if label_separator is not None and manifest.task != "multi_label":
        raise ConfigError(f"--label-separator: stands between the labels of a multi_label model's rows, {model} is {manifest.task}")
    config = LabelledDataConfig(
        train=data,
        validation_fraction=0,
        split_column=split_column,
        text_column=text_column,
        pair_column=pair_column,
        label_column=label_column,
        label_kind=LABEL_KINDS[manifest.task],
        label_separator=label_separator,
    )
    labelled = load_labelled(config, holds_back=False)
    kind = check_kind(resolved.bundle, labelled, data)
    has_splits = split_column is not None or is_build(Path(data))
    # A plain file is all test rows: nothing of it is trained on here.
    chosen = getattr(labelled, split) if has_splits else labelled.train
    if not len(chosen):
        others = (
            "and without --split-column all rows of a file are measured"
            if split_column
            else f"or build it anew with {split}_fraction above 0"
        )
        raise DataError(f"{data}: holds no {split} rows; --split chooses others, {others}")
    fit_baseline = has_splits if baseline is None else baseline
    gates = wanted or {item.metric: item.wanted for item in manifest.gates}
    check_gates(gates, kind, baseline=fit_baseline)
    if dry_run:
        plan = {"model": model, "bundle": resolved.location, "rows": len(chosen), "gates": gates, "baseline": fit_baseline}
        show_plan(plan, as_json=as_json)
        return
    found = evaluate_bundle(model, resolved.bundle, labelled, chosen, where=data, gates=gates, baseline=fit_baseline)
    if resolved.version is not None:
        evidence = Evaluation(
            at=now_utc(),
            data=found.data_fingerprint,
            split=split if has_splits else "all",
            options=shlex.join(_options(data, split if has_splits else None, split_column)),
            rows=found.rows,
            metrics=found.metrics,
            gates=found.gates,
        )
        Registry().record_evaluation(resolved.version, evidence)
    show(found.as_json(), table(found), as_json=as_json)
    if not found.passed:
        raise typer.Exit(3)


def _options(data: str, split: str | None, split_column: str | None) -> list[str]:
    """What measures the same rows again."""
    options = ["--data", str(Path(data).absolute())]
    options += ["--split", split] if split is not None else []
    return options + (["--split-column", split_column] if split_column is not None else [])


def _gates(given: list[str]) -> dict[str, float]:
    gates = {}
    for item in given:
        metric, equals, least = item.partition("=")
        try:
            gates[metric] = float(least)
        except ValueError:
            equals = ""
        if not equals or not metric:
            raise ConfigError(f"--gate {item}: expected METRIC=NUMBER, for example --gate accuracy=0.8")
    return gates
