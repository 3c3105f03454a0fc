"""``raybert tune``: one Ray Tune study."""

from __future__ import annotations

import typer

from raybert.options import Address, AsJson, ConfigFile, DryRun, Overrides, show, show_plan, warn

app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"tune": app}


@app.command()
def tune(
    config: ConfigFile = None,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Search hyperparameters; writes best_recipe.yaml, which `raybert finetune -c` takes.

    Example: raybert tune -c configs/tune_movie_reviews_cpu.yaml trials=4 recipe.data.train=build/movie_reviews
    """
    from foundation.config import load
    from tuning.config import StudyConfig
    from tuning.study import plan_study, run_study, table

    planned = plan_study(load(StudyConfig, config, overrides or []))
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
