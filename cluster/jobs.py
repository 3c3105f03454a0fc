"""Ray jobs over HTTP: submit with code, follow the log to its end, stop until the CPUs are free. Talks to the dashboard alone.

Does not know what a verb is: ``raybert/verbs/jobs.py`` decides what may run, ``code_package.py`` what is shipped. Ray's own client takes
its address from the environment before its arguments and waits without limit, so ``dashboard.check`` asks first, with a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cluster.code_package import CodePackage, code_package
from cluster.dashboard import Target, ask, check
from foundation.errors import ClusterError, RaybertError, RunError
from foundation.home import home

STOP_S = 60.0
"""How long a stopped job may take to be gone: Ray itself kills the driver after ``RAY_JOB_STOP_WAIT_TIME_S``."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_POLL_S = 0.3
_WATCH_S = 0.5
_DRIVER_END_S = "12"
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class StoppedFollowing(RaybertError):
    """Ctrl-C while following a log: the job goes on."""

    exit_code = 130


@dataclass(frozen=True)
class JobRequest:
    """A job as it will be submitted; printed by ``--dry-run``."""

    entrypoint: str
    environment: dict[str, str]
    package: CodePackage

    def as_json(self) -> dict[str, Any]:
        """For people and ``--json``: the entrypoint, the environment, what is uploaded."""
        names = sorted(self.package.files)
        return {
            "entrypoint": self.entrypoint,
            "env_vars": self.environment,
            "package": {
                "files": len(names),
                "bytes": self.package.size_bytes,
                "recipes": {name: str(self.package.files[name]) for name in names if name.startswith("recipes/")},
            },
        }


@dataclass(frozen=True)
class Job:
    """What Ray tells of a job."""

    submission_id: str
    status: str
    entrypoint: str
    exit_code: int | None
    """As a shell would report it; None while it runs."""
    message: str
    started: str | None
    ended: str | None
    ray_job_id: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the driver is gone."""
        return self.status in ENDED

    def as_json(self) -> dict[str, Any]:
        """The result line of ``jobs submit``, ``status`` and ``stop``."""
        return {
            "submission_id": self.submission_id,
            "status": self.status,
            "exit_code": self.exit_code,
            "entrypoint": self.entrypoint,
            "message": self.message,
            "started": self.started,
            "ended": self.ended,
        }


def plan(arguments: Sequence[str], target: Target, *, folder: Path | None = None) -> JobRequest:
    """A job that runs ``raybert ARGUMENTS`` with this code. Relative paths in recipes and overrides mean ``folder`` (default: here).

    Raises:
        ConfigError: A recipe is missing.
    """
    package = code_package(arguments)
    entrypoint = "exec python -m raybert " + shlex.join(package.arguments)  # exec: the driver, not a shell, gets the signal
    return JobRequest(entrypoint, job_environment(target, folder or Path.cwd(), os.environ), package)


def job_environment(target: Target, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of the job: where paths start, where models, runs and metrics are kept."""
    tracking = environment.get("MLFLOW_TRACKING_URI") or target.tracking_uri
    passed = {name: environment[name] for name in ("RAYBERT_CACHE", "HF_HUB_OFFLINE") if environment.get(name)}
    return {
        "RAYBERT_BASE_DIR": str(folder),
        "RAYBERT_HOME": str(home().root),
        # Ray's default of 3 s is too short to end a training run cleanly; the job's supervisor reads it here.
        "RAY_JOB_STOP_WAIT_TIME_S": environment.get("RAY_JOB_STOP_WAIT_TIME_S") or _DRIVER_END_S,
        **({"MLFLOW_TRACKING_URI": tracking} if tracking else {}),
        **passed,
    }


def submit(request: JobRequest, target: Target) -> str:
    """Upload the code (unless the cluster has the same already) and start the job.

    Returns:
        The submission id.

    Raises:
        ClusterError: The cluster does not answer or refuses the token.
        RunError: Ray refuses the job.
    """
    with tempfile.TemporaryDirectory(prefix="raybert-job-") as folder:
        request.package.stage(Path(folder))
        return submit_entrypoint(request.entrypoint, target, working_dir=Path(folder), environment=request.environment)


def submit_entrypoint(
    entrypoint: str, target: Target, *, working_dir: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Start any shell command as a job; returns its submission id."""
    runtime_env: dict[str, Any] = {"env_vars": dict(environment or {})}
    if working_dir is not None:
        runtime_env["working_dir"] = str(working_dir)
    # Our own id: if the answer is lost, the job can still be found.
    submission_id = f"raybert-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    client = _client(target)
    with _refusals(f"job {submission_id}"):
        found: str = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, submission_id=submission_id)
    return found


def all_jobs(target: Target) -> list[Job]:
    """Jobs that were submitted to the cluster, newest first."""
    entries = [entry for entry in ask(target, "/api/jobs/", list) if entry.get("submission_id")]
    return [_job(entry) for entry in sorted(entries, key=lambda entry: entry.get("start_time") or 0, reverse=True)]


def status(submission_id: str, target: Target) -> Job:
    """One job.

    Raises:
        ClusterError: The cluster holds no such job; the message lists the latest ones.
    """
    entry = ask(target, f"/api/jobs/{quote(submission_id, safe='')}", dict)
    if entry is not None:
        return _job(entry)
    latest = ", ".join(job.submission_id for job in all_jobs(target)[:5]) or "none"
    raise ClusterError(f"{submission_id}: no such job at {target.url}; latest: {latest}")


def logs(submission_id: str, target: Target) -> str:
    """What the job has written so far."""
    status(submission_id, target)
    client = _client(target)
    with _refusals(f"job {submission_id}"):
        text: str = client.get_job_logs(submission_id)
    return text


def follow(submission_id: str, target: Target, write: Callable[[str], Any]) -> Job:
    """Hand the log to ``write`` as it comes, to its last character, and return the ended job.

    Raises:
        StoppedFollowing: On Ctrl-C; says that the job goes on and how to look at it.
        ClusterError: The cluster stopped answering.
    """
    client = _client(target)
    log = _Log(write)
    try:
        while True:
            asyncio.run(_tail(client, submission_id, target, log))
            job = status(submission_id, target)
            if job.has_ended:
                break
            time.sleep(_POLL_S)  # the connection broke; the next one starts from the beginning and skips what was written
        # The driver has ended, so the log is whole; the connection may have lagged behind it.
        with _refusals(f"job {submission_id}"):
            log.take(client.get_job_logs(submission_id))
        return job
    except KeyboardInterrupt:
        raise StoppedFollowing(
            f"stopped following; job {submission_id} goes on. Look: raybert jobs logs {submission_id} -f; "
            f"end it: raybert jobs stop {submission_id}"
        ) from None


class _Log:
    """Writes each character of a log once, however often its beginning is sent."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self._written = 0

    def take(self, text: str, start: int = 0) -> None:
        """``text`` stands at ``start`` in the log; what was written already is skipped."""
        new = text[max(0, self._written - start) :]
        if new:
            self._write(new)
            self._written = start + len(text)


async def _tail(client: Any, submission_id: str, target: Target, log: _Log) -> None:
    """Pass on what the job writes until it has ended or the connection breaks."""
    pump = asyncio.create_task(_pump(client, submission_id, log))
    try:
        while not pump.done():
            await asyncio.wait({pump}, timeout=_WATCH_S)
            # Ray itself closes the connection some seconds after the end.
            if not pump.done() and (await asyncio.to_thread(status, submission_id, target)).has_ended:
                break
    finally:
        pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pump


async def _pump(client: Any, submission_id: str, log: _Log) -> None:
    import aiohttp

    seen = 0
    with contextlib.suppress(RuntimeError, aiohttp.ClientError, OSError):
        async for text in client.tail_job_logs(submission_id):
            log.take(text, seen)
            seen += len(text)


def stop(submission_id: str, target: Target, *, timeout_s: float = STOP_S) -> Job:
    """Stop a job and wait until its driver has ended and its actors are gone, so that their CPUs are free.

    An ended job is returned as it is.

    Raises:
        ClusterError: No such job.
        RunError: It still runs after ``timeout_s``.
    """
    job = status(submission_id, target)
    if not job.has_ended:
        client = _client(target)
        with _refusals(f"job {submission_id}"):
            client.stop_job(submission_id)
    deadline = time.monotonic() + timeout_s
    while True:
        latest = status(submission_id, target)
        ray_job_id = latest.ray_job_id or job.ray_job_id
        left = _living_actors(ray_job_id, target) if latest.has_ended and ray_job_id else 0
        if latest.has_ended and not left:
            return latest
        if time.monotonic() > deadline:
            what = f"{left} of its actors still live" if latest.has_ended else f"it is still {latest.status}"
            raise RunError(f"{submission_id}: {what} {timeout_s:g} s after the stop; look at {target.url}/#/jobs and stop it again")
        time.sleep(_POLL_S)


def _living_actors(ray_job_id: str, target: Target) -> int:
    query = f"?limit=1000&filter_keys=job_id&filter_predicates=%3D&filter_values={ray_job_id}"
    query += "&filter_keys=state&filter_predicates=!%3D&filter_values=DEAD"
    answer = ask(target, f"/api/v0/actors{query}", dict)
    return len(answer["data"]["result"]["result"])


def exit_code_of(status: str, driver_exit_code: int | None) -> int | None:
    """The exit code a shell would give: the driver's own where Ray knows it, 128 + signal for a killed one, never 0 for a failed job."""
    if status not in ENDED:
        return None
    if driver_exit_code is not None and driver_exit_code < 0:
        return 128 - driver_exit_code
    if status == "SUCCEEDED":
        return driver_exit_code or 0
    return driver_exit_code or 1


def _job(entry: Mapping[str, Any]) -> Job:
    state = str(entry["status"])
    return Job(
        submission_id=str(entry["submission_id"]),
        status=state,
        entrypoint=str(entry.get("entrypoint") or ""),
        exit_code=exit_code_of(state, entry.get("driver_exit_code")),
        message=str(entry.get("message") or "").partition("\n")[0],  # behind it Ray repeats the log
        started=_time(entry.get("start_time")),
        ended=_time(entry.get("end_time")),
        ray_job_id=entry.get("job_id"),
    )


def _time(milliseconds: int | None) -> str | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else None


def _client(target: Target) -> Any:
    """Ray's client, after ``check``: its own requests have no time limit."""
    check(target)
    import logging

    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with _without(_ADDRESS_VARIABLES), _refusals(target.url):
        return JobSubmissionClient(target.url, headers=target.headers)


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Hide variables for the length of the block; Ray prefers them to the address it is given."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    import requests

    try:
        yield
    except (RuntimeError, ConnectionError, requests.RequestException) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(f"{what}: the cluster refused: {first}") from None
