"""``raybert models export`` and ``import``: between the registry and folders of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundation.errors import ConfigError, RegistryError
from raybert.options import AsJson, DryRun, require_absent, show, show_plan


def export_model(
    ref: Annotated[str, typer.Argument(help="NAME@alias, NAME/version or a bundle folder.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    form: Annotated[str, typer.Option("--format", help="safetensors or onnx (needs the extra onnx).")] = "safetensors",
    as_json: AsJson = False,
) -> None:
    """Write a verified bundle to a folder that plain transformers or ONNX Runtime loads, if it computes the same there.

    Example: raybert models export reviews@champion ./reviews-model --format onnx
    """
    from foundation.references import resolve

    if form not in ("safetensors", "onnx"):
        raise ConfigError(f"--format: found {form!r}, expected safetensors or onnx")
    require_absent(target)
    bundle = resolve(ref).bundle
    if bundle is None:
        raise RegistryError(f"{ref}: not a bundle; nothing to export")
    path = target.absolute()
    if form == "onnx":
        from encoder.onnx_export import export_onnx

        found = export_onnx(bundle, path)
    else:
        from encoder.plain_export import export_safetensors

        found = export_safetensors(bundle, path)
    compared = (
        f"largest difference {found.largest_difference:.1e} over {found.rows} rows" if found.rows else "no golden requests to compare"
    )
    show(
        {"ref": ref, "path": path, "format": form, "rows": found.rows, "largest_difference": found.largest_difference},
        f"{ref} exported to {path} as {form}: {compared}",
        as_json=as_json,
    )


def import_model(
    source: Annotated[Path, typer.Argument(help="A Hugging Face classifier's folder, or a Trainer run with checkpoint-* in it.")],
    name: Annotated[str | None, typer.Option("--name", help="Register it as the next version of NAME.", show_default=False)] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="single_label, multi_label or regression. Default: as its configuration says.", show_default=False),
    ] = None,
    labels: Annotated[str, typer.Option("--labels", help="Names, in the order of the logits: a,b,c.", show_default=False)] = "",
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=2, help="Longest input in tokens. Default: its own, at most 512.", show_default=False)
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="It was trained on pairs of texts.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="The tokenizer's folder, where it lies elsewhere.", show_default=False)
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples", help="Texts whose scores are recorded: one a line, or .jsonl with text and text_pair.", show_default=False
        ),
    ] = None,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read weights from a pickle, tensors only.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a bundle of a classifier that was trained elsewhere, so that it can be evaluated, served and registered.

    Example: raybert models import ./trainer-output --name reviews
    """
    from dataclasses import asdict

    from encoder.importing import import_model as write_bundle
    from encoder.importing import plan_import
    from foundation.bundle import PROBLEM_TYPES
    from foundation.home import home, new_run_id
    from foundation.progress import say
    from foundation.registry import check_name

    if name is not None:
        check_name(name)
    kind = next((known for known in PROBLEM_TYPES if known == task), None)
    if task is not None and kind is None:
        raise ConfigError(f"--task: found {task!r}, expected {', '.join(PROBLEM_TYPES)}")
    plan = plan_import(
        source,
        task=kind,
        labels=[label.strip() for label in labels.split(",")] if labels else (),
        max_length=max_length,
        takes_pairs=pairs,
        tokenizer=tokenizer,
        examples=examples,
        allow_pickle=allow_pickle,
    )
    for note in plan.notes:
        say(f"warning: {source}: {note}")
    if dry_run:
        show_plan({"import": asdict(plan), "register_as": name}, as_json=as_json)
        return
    run_id = new_run_id("import")
    bundle = write_bundle(plan, home().runs / run_id / "bundle", run_id=run_id)
    version = None
    if name is not None:
        from training.recording import Recording

        recording = Recording(run_id, asdict(plan), {"raybert.verb": "models import"})
        version = recording.log_bundle(bundle, name)
        recording.finish("FINISHED")
    ref = version.ref if version else str(bundle.path)
    next_step = f"`raybert evaluate --model {ref} --data FILE` checks its gates"
    lines = [
        f"{ref}: imported {plan.chosen}",
        f"  task      {plan.task}: {', '.join(plan.labels)}",
        f"  gates     none checked; {next_step}{', which promotion needs' if version else ''}",
        f"  files     {bundle.path}",
    ]
    result = {"ref": ref, "path": bundle.path, "version": version.as_json() if version else None, "chosen": plan.chosen}
    show(result | {"task": plan.task, "labels": plan.labels, "notes": plan.notes}, "\n".join(lines), as_json=as_json)
