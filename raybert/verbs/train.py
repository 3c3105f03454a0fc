"""``raybert pretrain`` and ``raybert finetune``: one Ray Train run each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from raybert.options import Address, AsJson, ConfigFile, DryRun, Overrides, show, show_plan, warn

pretrain_app = typer.Typer(rich_markup_mode=None)
finetune_app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"pretrain": pretrain_app, "finetune": finetune_app}
PROFILED_STEPS = 5

Profile = Annotated[
    bool, typer.Option("--profile", help="Time a few steps by phase and trace a few more (profile_steps=5, unless the recipe has it).")
]


Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="The model to start from, instead of the recipe's: directory, NAME@alias, NAME/version, pypi:… or Hugging Face id.",
        metavar="REF",
        show_default=False,
    ),
]


@pretrain_app.command()
def pretrain(
    config: ConfigFile = None,
    overrides: Overrides = None,
    encoder: Encoder = None,
    address: Address = None,
    profile: Profile = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train or continue an encoder on masked tokens, sharded by ZeRO over the workers.

    Example: raybert pretrain -c configs/pretrain_movie_reviews_cpu.yaml data=build/movie_reviews steps=50
    """
    _run("pretrain", config, _with_encoder(overrides, encoder), address, profile, dry_run, as_json)


@finetune_app.command()
def finetune(
    config: ConfigFile = None,
    overrides: Overrides = None,
    encoder: Encoder = None,
    address: Address = None,
    profile: Profile = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune an encoder into a classifier; writes a bundle and, with register_as, a model version.

    Example: raybert finetune data.train=reviews.csv --encoder my-encoder@champion register_as=reviews
    """
    _run("finetune", config, _with_encoder(overrides, encoder), address, profile, dry_run, as_json)


def _with_encoder(overrides: list[str] | None, encoder: str | None) -> list[str]:
    """The overrides, the last of which wins, with the option's REF."""
    return [*(overrides or []), *([f"encoder={encoder}"] if encoder is not None else [])]


def _run(verb: Any, config: Any, overrides: list[str], address: str | None, profile: bool, dry_run: bool, as_json: bool) -> None:
    from foundation.config import load, with_values
    from training.config import FinetuneConfig, PretrainConfig
    from training.planning import plan

    model: Any = FinetuneConfig if verb == "finetune" else PretrainConfig
    recipe = load(model, config, overrides)
    if profile and recipe.profile_steps is None:
        recipe = with_values(recipe, {"profile_steps": PROFILED_STEPS}, where="--profile")
    planned = plan(verb, recipe)
    warn(planned.findings)
    if dry_run:
        show_plan(planned.as_json(), as_json=as_json)
        return
    from cluster.session import session

    with session(address, cpus=planned.cpus, gpus=planned.gpus, cpus_each=planned.recipe["workers"]["cpus_each"]) as opened:
        from training.launch import launch
        from training.phases import table_text

        result = launch(planned, opened)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    lines = [f"{verb} done in {result.train_seconds:.0f} s: best at step {result.steps}: {figures}", f"bundle: {result.bundle}"]
    lines.append(f"report: {result.report}")
    if result.phases:
        lines.append(table_text(result.phases))
    if result.version:
        lines.append(f"registered as {result.version}; next: raybert models promote {result.version}")
    findings = {"findings": planned.findings} if verb == "finetune" else {}
    show(result.as_json() | findings, "\n".join(lines), as_json=as_json)
