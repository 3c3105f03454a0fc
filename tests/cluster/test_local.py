"""Local clusters without a node: what a spec means, what is refused before anything starts, how processes are found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from cluster import local, processes, state
from cluster.config import LocalClusterSpec
from cluster.ports import free_port
from cluster.state import ClusterState
from foundation.config import load
from foundation.errors import ClusterError
from raybert.recipes import folder as recipes
from tests.conftest import Cli, processes_of, wait_for


def spec(**values: object) -> LocalClusterSpec:
    return LocalClusterSpec.model_validate({"dashboard_port": free_port(), "mlflow_port": free_port()} | values)


def a_state(home: Path, process: subprocess.Popen[bytes] | None = None, **changes: object) -> ClusterState:
    clusters = home / "clusters"
    values: dict[str, object] = {
        "name": "local",
        "cluster_id": "feedfacefeedface",
        "pid": process.pid if process else os.getpid(),
        "pid_started": state.created_at(process.pid if process else None),
        "is_ready": True,
        "address": "127.0.0.1:6379",
        "dashboard_url": f"http://127.0.0.1:{free_port()}",
        "token_file": clusters / "local.token",
        "ray_folder": home / "ray",
        "log_file": clusters / "local.log",
        "nodes": 1,
        "cpus_per_node": 2,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return ClusterState.model_validate(values | changes)


def sleeper(code: str = "import time; time.sleep(600)", **env: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"print(flush=True); {code}"], env=os.environ | env, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # it runs, with its handlers in place
    return process


@pytest.mark.parametrize(("nodes", "cpus", "each"), [(1, None, 8), (3, None, 2), (16, None, 1), (3, 0.5, 0.5)])
def test_a_machines_cpus_are_shared_out_unless_given(
    raybert_home: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, cpus: float | None, each: float
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert local.plan(spec(nodes=nodes, cpus_per_node=cpus)).cpus_per_node == each


@pytest.mark.slow
@pytest.mark.parametrize("key", ["dashboard_port", "mlflow_port"])
def test_a_port_in_use_is_refused_before_anything_starts(
    cli: Cli, raybert_home: Path, tmp_path: Path, unchanged_tree: Callable[[Path], AbstractContextManager[None]], key: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, unchanged_tree(tmp_path):
        port = taken.getsockname()[1]
        ports = {"dashboard_port": free_port(), "mlflow_port": free_port(), key: port}
        ran = cli("cluster", "up", *(f"{name}={number}" for name, number in ports.items()), "--json")
        assert ran.exit_code == 2
        assert f"127.0.0.1:{port}: in use" in ran.error
        assert f"{key}=" in ran.error
        assert ran.json["exit_code"] == 2
        assert processes_of(raybert_home) == []


def test_one_port_for_both_servers_is_refused(raybert_home: Path) -> None:
    port = free_port()
    with pytest.raises(ClusterError, match="dashboard_port and mlflow_port are both"):
        local.plan(spec(dashboard_port=port, mlflow_port=port))


def test_a_second_cluster_of_one_name_is_refused_and_told_how_to_end_the_first(raybert_home: Path) -> None:
    state.save(a_state(raybert_home))
    with pytest.raises(ClusterError, match=r"local is up already.*raybert cluster down local"):
        local.up(spec())


@pytest.mark.slow
def test_a_dry_run_prints_the_resolved_plan_and_touches_nothing(
    cli: Cli, tmp_path: Path, unchanged_tree: Callable[[Path], AbstractContextManager[None]]
) -> None:
    port = free_port()
    with unchanged_tree(tmp_path):
        arguments = ["--nodes", "3", "--cpus", "2", f"dashboard_port={port}", "mlflow_port=null"]
        ran = cli("cluster", "up", *arguments, "--dry-run", "--json")
    assert ran.exit_code == 0, ran.err
    assert (ran.json["config"]["nodes"], ran.json["config"]["cpus_per_node"]) == (3, 2.0)
    assert (ran.json["dashboard_url"], ran.json["tracking_uri"]) == (f"http://127.0.0.1:{port}", None)


@pytest.mark.slow
def test_without_a_cluster_status_is_empty_and_down_says_so(cli: Cli, raybert_home: Path) -> None:
    assert cli("cluster", "status", "--json").json == {"clusters": []}
    ran = cli("cluster", "down", "other")
    assert (ran.exit_code, ran.error) == (2, "other: no such cluster was started from this home; recorded: none")
    assert not raybert_home.exists()
    assert local.down("other") is False


def test_the_clusters_environment_leads_to_itself_alone(raybert_home: Path) -> None:
    known = a_state(raybert_home, tracking_uri="http://127.0.0.1:5000")
    given = {
        "RAY_ADDRESS": "elsewhere:6379",
        "RAY_AUTH_TOKEN": "secret",
        "RAY_JOB_ID": "01",
        "MLFLOW_TRACKING_URI": "http://elsewhere",
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "7",
        "LANG": "C",
    }
    made = local.environment_of(known, given)
    assert (made["RAY_ADDRESS"], made["MLFLOW_TRACKING_URI"]) == (known.address, known.tracking_uri)
    assert (made["RAY_AUTH_MODE"], made["RAY_AUTH_TOKEN_PATH"]) == ("token", str(known.token_file))
    assert "RAY_AUTH_TOKEN" not in made
    assert "RAY_JOB_ID" not in made
    assert made[processes.MARK] == known.cluster_id
    assert (made["LANG"], made["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"]) == ("C", "7")


def test_members_are_found_by_session_and_by_mark_and_strangers_are_not(raybert_home: Path) -> None:
    starts_a_child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    supervisor, elsewhere, stranger = sleeper(starts_a_child), sleeper(**{processes.MARK: "feedfacefeedface"}), sleeper()
    known = a_state(raybert_home, supervisor)
    try:
        wait_for(lambda: psutil.Process(supervisor.pid).children(), 10, "the child")
        expected = {supervisor.pid, elsewhere.pid, *(child.pid for child in psutil.Process(supervisor.pid).children())}
        # A process that was just forked has the environment of its parent until it is executed.
        wait_for(lambda: {process.pid for process in processes.members(known)} == expected, 10, "all members are found")
        supervisor.kill()
        supervisor.wait()
        # Its child has lost the parent that would name it, and is found by the session.
        assert {process.pid for process in processes.members(known)} == expected - {supervisor.pid}
        assert processes.end(known) == []
        assert elsewhere.wait(timeout=5) == -signal.SIGTERM
        assert stranger.poll() is None
    finally:
        processes.end(known)
        for process in (supervisor, elsewhere, stranger):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_what_ignores_being_asked_is_killed(raybert_home: Path) -> None:
    stubborn = sleeper("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)")
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    known = a_state(raybert_home, stubborn)
    assert processes.end(known) == []
    stubborn.wait(timeout=5)


def test_a_session_whose_leaders_pid_belongs_to_a_stranger_has_no_members(raybert_home: Path) -> None:
    stranger = sleeper()
    try:
        known = a_state(raybert_home, stranger, pid_started=state.created_at(stranger.pid) - 3600)
        assert processes.members(known) == []
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("path", sorted(recipes().glob("cluster_*.yaml")), ids=lambda path: path.name)
def test_the_shipped_recipes_load(path: Path) -> None:
    assert load(LocalClusterSpec, path).nodes >= 1
