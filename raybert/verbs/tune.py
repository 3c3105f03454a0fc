"""``raybert tune``: one Ray Tune study."""

from __future__ import annotations

from typing import Annotated

import typer

from raybert.options import Address, AsJson, ConfigFile, DryRun, Overrides, show, show_plan, warn

app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"tune": app}


Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of the study, which no study or run of this home has yet. Default: tune, time and six digits.",
        show_default=False,
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        help="Go on with a study that was stopped, failed or lost its driver (id, part of it, or folder), or give one more trials; its own "
        "file is the default.",
        metavar="STUDY",
        show_default=False,
    ),
]


@app.command()
def tune(
    config: ConfigFile = None,
    overrides: Overrides = None,
    name: Name = None,
    resume: Resume = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Search hyperparameters; writes best_recipe.yaml, which `raybert finetune -c` takes.

    Example: raybert tune -c configs/tune_movie_reviews_cpu.yaml trials=4 recipe.data.train=build/movie_reviews
    Example: raybert tune --resume tune-20260101-120000-abcdef trials=16
    """
    from foundation.config import load
    from foundation.errors import ConfigError
    from foundation.home import checked_run_id
    from tuning.config import StudyConfig
    from tuning.studies import CONFIG_FILE, open_study
    from tuning.study import plan_study, run_study, table

    if name is not None and resume is not None:
        raise ConfigError("--name and --resume are both given; a study that is gone on with keeps its name")
    study_id = checked_run_id(name) if name is not None else None
    study = open_study(resume) if resume is not None else None
    loaded = load(StudyConfig, config or (study.folder / CONFIG_FILE if study else None), overrides or [])
    planned = plan_study(loaded, study_id=study_id, resumes=study)
    warn(planned.findings)
    if dry_run:
        show_plan(planned.as_json(), as_json=as_json)
        return
    from cluster.session import session

    workers = planned.config["recipe"]["workers"]
    gpus = workers["gpus_each"] * planned.config["concurrent"]
    lower = "concurrent or recipe.workers.cpus_each"
    with session(address, cpus=planned.cpus, gpus=gpus, cpus_each=workers["cpus_each"], lower=lower) as opened:
        result = run_study(planned, opened)
    lines = [table(result), f"best recipe: {result.best_recipe}", f"next: raybert finetune -c {result.best_recipe}"]
    show(result.as_json(), "\n".join(lines), as_json=as_json)
