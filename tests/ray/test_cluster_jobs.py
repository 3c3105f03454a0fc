"""Verbs as jobs on a real cluster: logs, exit codes, stopping, and what is refused."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import jobs
from cluster.dashboard import Target
from cluster.ports import free_port
from tests.conftest import ROOT, Cli, SharedCluster, wait_for

pytestmark = pytest.mark.ray

HOLDS_ALL_CPUS = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from cluster.session import session

try:
    with session() as opened:
        import ray

        @ray.remote(num_cpus=opened.topology.cpus / len(opened.topology.alive))
        class Holder:
            def ready(self):
                return True

        holders = [Holder.remote() for _ in opened.topology.alive]
        ray.get([holder.ready.remote() for holder in holders])
        print("holding", flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("ended in order", flush=True)
"""


@pytest.fixture
def cli(shared_cluster: SharedCluster, tmp_path: Path) -> Cli:
    return shared_cluster.cli(tmp_path)


@pytest.fixture
def target(shared_cluster: SharedCluster) -> Target:
    token_file = Path(shared_cluster.state["token_file"])
    return Target(shared_cluster.state["dashboard_url"], token_file.read_text(encoding="utf-8").strip(), str(token_file))


@contextlib.contextmanager
def holding_all_cpus(target: Target, folder: Path, within_s: float) -> Iterator[str]:
    """A job whose actors hold every CPU of the cluster; they can only be started when all of them are free."""
    folder.mkdir()
    (folder / "hold.py").write_text(HOLDS_ALL_CPUS, encoding="utf-8")
    submission_id = jobs.submit_entrypoint("exec python hold.py", target, working_dir=folder)
    try:
        wait_for(lambda: "holding\n" in jobs.logs(submission_id, target), within_s, "the actors hold all CPUs")
        yield submission_id
    finally:
        jobs.stop(submission_id, target)


@pytest.fixture
def holder(target: Target, tmp_path: Path) -> Iterator[str]:
    with holding_all_cpus(target, tmp_path / "holder", within_s=60) as submission_id:
        yield submission_id


def test_a_verb_runs_as_a_job_and_its_log_is_followed_to_the_end(cli: Cli) -> None:
    registered = cli("models", "list", "--json").json  # other tests share the cluster and its registry
    ran = cli("jobs", "submit", "--", "models", "list", "--json")
    assert ran.exit_code == 0, ran.err
    assert ran.json == registered
    assert "submitted as raybert-" in ran.err


def test_the_exit_code_of_a_failing_job_comes_back_and_json_keeps_stdout_for_the_result(cli: Cli) -> None:
    ran = cli("jobs", "submit", "--json", "--", "models", "show", "nope")
    assert ran.exit_code == 2, ran.err
    assert len(ran.out.splitlines()) == 1
    assert (ran.json["status"], ran.json["exit_code"]) == ("FAILED", 2)
    assert "nope: no such model" in ran.err

    listed = cli("jobs", "list", "--json").json["jobs"]
    assert ran.json["submission_id"] in [job["submission_id"] for job in listed]


def test_a_recipe_goes_along_and_relative_paths_mean_the_folder_of_submission(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {train: reviews.csv}\n", encoding="utf-8")
    ran = cli("jobs", "submit", "--", "finetune", "-c", "mine.yaml", "--dry-run", "--json")
    assert str(tmp_path / "reviews.csv") in ran.out, ran.out + ran.err


def test_stop_ends_a_job_in_order_and_frees_its_cpus(cli: Cli, target: Target, holder: str, tmp_path: Path) -> None:
    stopped = time.monotonic()
    ran = cli("jobs", "stop", holder, "--json")
    assert ran.exit_code == 0, ran.err
    assert ran.json["status"] == "STOPPED"
    assert "ended in order\n" in jobs.logs(holder, target)
    left_s = 20 - (time.monotonic() - stopped)
    with holding_all_cpus(target, tmp_path / "next", within_s=left_s):
        pass


def test_an_interrupted_follower_leaves_the_job_running_and_says_how_to_look(cli: Cli, target: Target, holder: str) -> None:
    follower = cli.start("jobs", "logs", holder, "-f")
    assert follower.stdout is not None
    while "holding" not in follower.stdout.readline():
        assert follower.poll() is None
    follower.send_signal(signal.SIGINT)
    ran = cli.finish(follower, timeout_s=20)
    assert ran.exit_code == 130
    assert f"raybert jobs logs {holder}" in ran.error
    assert f"raybert jobs stop {holder}" in ran.error
    assert jobs.status(holder, target).status == "RUNNING"


def test_a_wrong_token_is_refused_naming_its_file(cli: Cli, tmp_path: Path, target: Target) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64, encoding="utf-8")
    before = len(jobs.all_jobs(target))
    ran = cli("jobs", "submit", "--", "models", "list", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert ran.exit_code == 2
    assert str(wrong) in ran.error
    assert len(jobs.all_jobs(target)) == before


def test_an_address_without_a_cluster_is_told_at_once(cli: Cli) -> None:
    started = time.monotonic()
    ran = cli("jobs", "submit", "--address", f"http://127.0.0.1:{free_port()}", "--", "models", "list")
    assert ran.exit_code == 2
    assert "no cluster answers there" in ran.error
    assert time.monotonic() - started < 45


def test_an_unknown_job_is_named_beside_the_latest_ones(cli: Cli) -> None:
    for verb in ("status", "logs", "stop"):
        ran = cli("jobs", verb, "raybert-none")
        assert ran.exit_code == 2
        assert "raybert-none: no such job" in ran.error
