"""``raybert tune``: one Ray Tune study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raybert.options import (
    Address,
    AsJson,
    ConfigFile,
    DryRun,
    OlderThan,
    Overrides,
    States,
    asked_for,
    line_of,
    show,
    show_plan,
    show_pruning,
    warn,
)


class _Tune(TyperGroup):
    """``raybert tune …`` is ``raybert tune search …``, unless it names another command."""

    default = "search"

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        return super().parse_args(ctx, args if args and args[0] in self.commands else [self.default, *args])


app = typer.Typer(cls=_Tune, rich_markup_mode=None)
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


@app.callback()
def tune() -> None:
    """Search hyperparameters; writes best_recipe.yaml, which `raybert finetune -c` takes."""


@app.command()
def search(
    config: ConfigFile = None,
    overrides: Overrides = None,
    name: Name = None,
    resume: Resume = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Search hyperparameters; writes best_recipe.yaml, which `raybert finetune -c` (or `pretrain -c`) takes, and report.html.

    `search` may be left out.

    `raybert tune report STUDY` writes the page anew, or as far as the study is, or its trials as CSV.

    Example: raybert tune -c configs/tune_movie_reviews_cpu.yaml trials=4 recipe.data.train=build/movie_reviews

    Example: raybert tune --resume tune-20260101-120000-abcdef trials=16
    """
    from foundation.config import load
    from foundation.errors import ConfigError
    from foundation.home import checked_run_id
    from tuning.config import StudyConfig
    from tuning.studies import CONFIG_FILE, open_study
    from tuning.study import plan_study, run_study, table
    from tuning.winner import next_steps

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
    gpus = workers["gpus_each"] * loaded.recipe.workers.most * planned.config["concurrent"]
    lower = "concurrent or recipe.workers.cpus_each"
    with session(address, cpus=planned.cpus, gpus=gpus, cpus_each=workers["cpus_each"], lower=lower) as opened:
        result = run_study(planned, opened)
    lines = [
        table(result),
        f"report: {result.report}",
        *next_steps(planned.verb, result.best_recipe, result.continued_recipe, result.refit_recipe),
    ]
    show(result.as_json(), "\n".join(lines), as_json=as_json)


@app.command("list")
def list_studies(as_json: AsJson = False) -> None:
    """List the studies of this home, the latest first: state, trials, best score.

    Example: raybert tune list
    """
    from tuning.studies import all_studies

    found = [study.brief() for study in all_studies()]
    lines = [line_of(item["study_id"], item, f"{item['trials_ended']:>4}/{item['trials']:<4} trials") for item in found]
    show({"studies": found}, "\n".join(lines) or "no studies yet; `raybert tune` makes them", as_json=as_json)


@app.command()
def report(
    ref: Annotated[str, typer.Argument(help="Study's id, an unambiguous part of it, or its folder.", metavar="STUDY")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write. Default: report.html in the study's folder.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write a row for each trial instead of a page; without --out to stdout.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a study's report, one HTML file that needs nothing beside it; of a study that is under way, as far as it is.

    Example: raybert tune report tune-20260101-120000-abcdef --out study.html

    Example: raybert tune report tune-20260101-120000-abcdef --csv > trials.csv
    """
    from foundation.errors import ConfigError
    from foundation.home import write_atomically
    from tuning.report import as_csv as rows_of
    from tuning.report import write_report
    from tuning.studies import open_study

    study = open_study(ref)
    if as_csv and out is None:
        if as_json:
            raise ConfigError("--csv and --json both ask for stdout; name a file with --out")
        print(rows_of(study), end="")
        return
    if as_csv:
        assert out is not None
        written = out.absolute()
        write_atomically(written, rows_of(study))
    else:
        written = write_report(study, out.absolute() if out else None)
    show({"study_id": study.study_id, "report": str(written)}, f"report of {study.study_id}: {written}", as_json=as_json)


@app.command()
def prune(
    refs: Annotated[
        list[str] | None, typer.Argument(help="Studies. Default: all of this home.", metavar="[STUDY]...", show_default=False)
    ] = None,
    older_than_days: OlderThan = None,
    states: States = None,
    whole: Annotated[bool, typer.Option("--whole", help="Remove all of a study, recipes too, and of studies in any state.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints of finished studies' trials, but for the winner's; record, recipes and report stay.

    A study that could be gone on with keeps them, and one that is running is never touched. With --whole a study stays from which a run
    began.

    Example: raybert tune prune --older-than-days 7 --dry-run

    Example: raybert tune prune tune-20260101-120000-abcdef --whole
    """
    from tuning.pruning import prune as prune_studies
    from tuning.studies import open_study

    asked = asked_for(refs, older_than_days, states, whole, dry_run)
    chosen = [open_study(ref) for ref in refs] if refs else None
    show_pruning(prune_studies(asked, chosen), "studies", named=bool(refs), dry_run=dry_run, as_json=as_json)
