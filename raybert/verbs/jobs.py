"""``raybert jobs``: any verb as a Ray job on a running cluster, with this code."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from foundation.errors import ConfigError
from foundation.progress import say
from raybert.options import AsJson, DryRun, show, show_plan

app = typer.Typer(help="Run verbs as jobs on a running cluster.", no_args_is_help=True, rich_markup_mode=None)
COMMANDS = {"jobs": app}

# They start clusters or jobs of their own; a job runs on the cluster that it was submitted to.
NOT_AS_JOBS = ("jobs", "cluster", "quickstart")

Dashboard = Annotated[
    str | None,
    typer.Option("--address", help="Dashboard, http://HOST:PORT. Default: the one `cluster up` started.", show_default=False),
]
JobId = Annotated[str, typer.Argument(help="As `jobs list` shows it.", metavar="ID", show_default=False)]


@app.command()
def submit(
    arguments: Annotated[list[str], typer.Argument(help="A verb and its arguments.", metavar="-- VERB [ARGS]...", show_default=False)],
    address: Dashboard = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return when the job is submitted.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a verb on the cluster, follow its log, return its exit code. Relative paths mean the folder you are in.

    Example: raybert jobs submit -- finetune -c finetune.yaml data.train=reviews.csv
    """
    from cluster import jobs
    from cluster.dashboard import check, find_target

    check_verb(arguments)
    target = find_target(address)
    request = jobs.plan(arguments, target)
    if dry_run:
        show_plan({"address": target.url, "token": target.token_source, **request.as_json()}, as_json=as_json)
        return
    check(target)
    submission_id = jobs.submit(request, target)
    if no_wait:
        show(
            {"submission_id": submission_id, "status": "PENDING", "exit_code": None},
            f"submitted as {submission_id}; look: raybert jobs logs {submission_id} -f",
            as_json=as_json,
        )
        return
    say(f"submitted as {submission_id}")
    job = jobs.follow(submission_id, target, _writer(as_json))
    if as_json:
        show(job.as_json(), "", as_json=True)
    _end_as(job)


@app.command("list")
def list_jobs(address: Dashboard = None, as_json: AsJson = False) -> None:
    """List the jobs of a cluster, newest first.

    Example: raybert jobs list
    """
    from cluster import jobs
    from cluster.dashboard import find_target

    found = jobs.all_jobs(find_target(address))
    lines = [f"{job.submission_id:<32} {job.status:<10} {job.started or '–':<26} {job.entrypoint}" for job in found]
    show({"jobs": [job.as_json() for job in found]}, "\n".join(lines) or "no jobs yet; `raybert jobs submit` starts one", as_json=as_json)


@app.command()
def status(submission_id: JobId, address: Dashboard = None, as_json: AsJson = False) -> None:
    """Show one job.

    Example: raybert jobs status raybert-20260101-120000-0a1b2c
    """
    from cluster import jobs
    from cluster.dashboard import find_target

    job = jobs.status(submission_id, find_target(address))
    ended = f", exit code {job.exit_code}" if job.exit_code is not None else ""
    lines = [
        f"{job.submission_id}  {job.status}{ended}",
        f"  command   {job.entrypoint}",
        f"  started   {job.started or 'not yet'}",
        f"  ended     {job.ended or 'not yet'}",
    ]
    show(job.as_json(), "\n".join(lines), as_json=as_json)


@app.command()
def logs(
    submission_id: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the job ends; returns its exit code.")] = False,
    address: Dashboard = None,
    as_json: AsJson = False,
) -> None:
    """Print what a job wrote. With --json the log goes to stderr and the job's state to stdout.

    Example: raybert jobs logs raybert-20260101-120000-0a1b2c -f
    """
    from cluster import jobs
    from cluster.dashboard import find_target

    target = find_target(address)
    write = _writer(as_json)
    if follow:
        jobs.status(submission_id, target)
        job = jobs.follow(submission_id, target, write)
    else:
        write(jobs.logs(submission_id, target))
        job = jobs.status(submission_id, target)
    if as_json:
        show(job.as_json(), "", as_json=True)
    if follow:
        _end_as(job)


@app.command()
def stop(submission_id: JobId, address: Dashboard = None, as_json: AsJson = False) -> None:
    """Stop a job; returns when its driver and actors are gone and their CPUs are free.

    Example: raybert jobs stop raybert-20260101-120000-0a1b2c
    """
    from cluster import jobs
    from cluster.dashboard import find_target

    target = find_target(address)
    before = jobs.status(submission_id, target)
    job = jobs.stop(submission_id, target)
    text = f"{submission_id} had ended already: {job.status}" if before.has_ended else f"{submission_id} is stopped"
    show(job.as_json(), text, as_json=as_json)


def check_verb(arguments: list[str]) -> None:
    """Refuse what cannot run as a job before anything is sent.

    Raises:
        ConfigError: No such verb, or one that does not run as a job.
    """
    from raybert.main import VERBS

    verb = arguments[0]
    able = [name for name in VERBS if name not in NOT_AS_JOBS]
    if verb not in VERBS:
        raise ConfigError(f"jobs submit: {verb!r}: unknown verb; verbs that run as jobs: {', '.join(able)}")
    if verb in NOT_AS_JOBS:
        raise ConfigError(f"jobs submit: {verb} does not run as a job; verbs that do: {', '.join(able)}")


def _writer(as_json: bool) -> Any:
    stream = sys.stderr if as_json else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write


def _end_as(job: Any) -> None:
    if job.exit_code:
        say(f"job {job.submission_id} {job.status.lower()} with exit code {job.exit_code}")
        raise typer.Exit(job.exit_code)
