"""Local clusters for real: up, in use, down, and after their supervisor was killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from cluster.ports import free_port, is_free
from tests.conftest import ROOT, Cli, assert_no_processes, processes_of, wait_for

pytestmark = pytest.mark.ray

LOOKS_AROUND = """
import json, os
from cluster.session import session

with session(cpus=6) as opened:
    import ray

    @ray.remote
    def where():
        return ray.util.get_node_ip_address(), os.environ["RAY_ADDRESS"], os.environ["MLFLOW_TRACKING_URI"]

    print(json.dumps({
        "origin": opened.origin,
        "nodes": len([node for node in ray.nodes() if node["Alive"]]),
        "cpus": ray.cluster_resources()["CPU"],
        "worker": ray.get(where.remote()),
    }))
"""
HOLDS_AN_ACTOR = """
import time
from cluster.session import session

with session(cpus=1):
    import ray

    @ray.remote(num_cpus=1)
    class Holder:
        def ready(self):
            return "holding"

    holder = Holder.remote()
    print(ray.get(holder.ready.remote()), flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _taken_down(cli: Cli, raybert_home: Path) -> Iterator[None]:
    yield
    if (raybert_home / "clusters" / "local.json").exists():
        cli("cluster", "down", timeout_s=60)


def drive(cli: Cli, code: str) -> dict[str, Any]:
    """Run a driver in the cluster's home, which has to find the cluster by itself."""
    done = subprocess.run([sys.executable, "-c", code], env=cli.env, cwd=cli.cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def ports_of(state: dict[str, Any]) -> list[int]:
    urls = [f"//{state['address']}", state["dashboard_url"], state["tracking_uri"] or ""]
    return [port for port in (urlsplit(url).port for url in urls) if port is not None]


def listening_elsewhere(home: Path) -> list[str]:
    """Addresses other than loopback on which Ray's control plane and MLflow listen."""
    watched = [process for process in processes_of(home) if process.name() in ("gcs_server", "raylet") or "uvicorn" in process.cmdline()]
    assert watched
    connections = [item for process in watched for item in process.net_connections("tcp") if item.status == psutil.CONN_LISTEN]
    found = [f"{item.laddr.ip}:{item.laddr.port}" for item in connections]
    return [address for address in found if not address.startswith(("127.0.0.1:", "::1:", "::ffff:127.0.0.1:"))]


def test_three_nodes_come_up_are_found_and_go_down_without_a_trace(
    cli: Cli, raybert_home: Path, unchanged_tree: Callable[[Path], AbstractContextManager[None]]
) -> None:
    ports = [f"dashboard_port={free_port()}", f"mlflow_port={free_port()}"]
    up = cli("cluster", "up", "--nodes", "3", "--cpus", "2", *ports, "--json")
    assert up.exit_code == 0, up.err
    state = up.json
    assert stat.S_IMODE(Path(state["token_file"]).stat().st_mode) == 0o600

    (row,) = cli("cluster", "status", "--json").json["clusters"]
    assert (row["status"], row["nodes_alive"], row["cpus_total"]) == ("up", 3, 6)
    seen = drive(cli, LOOKS_AROUND)
    assert (seen["origin"], seen["nodes"], seen["cpus"]) == ("local", 3, 6)
    assert seen["worker"] == ["127.0.0.1", state["address"], state["tracking_uri"]]
    assert listening_elsewhere(raybert_home) == []

    with unchanged_tree(raybert_home / "clusters"):
        second = cli("cluster", "up", f"dashboard_port={free_port()}", "mlflow_port=null")
    assert second.exit_code == 2
    assert "local is up already" in second.error

    assert cli("cluster", "down", "--json").json == {"stopped": "local"}
    assert processes_of(raybert_home) == []
    assert all(is_free(port) for port in ports_of(state))
    assert not Path(state["ray_folder"]).exists()
    assert sorted(path.name for path in (raybert_home / "clusters").iterdir()) == ["local.log"]


def test_after_its_supervisor_was_killed_a_cluster_is_known_as_gone_and_down_ends_the_rest(cli: Cli, raybert_home: Path) -> None:
    up = cli("cluster", "up", "cpus_per_node=2", f"dashboard_port={free_port()}", "mlflow_port=null", "--json")
    assert up.exit_code == 0, up.err
    with subprocess.Popen([sys.executable, "-c", HOLDS_AN_ACTOR], env=cli.env, stdout=subprocess.PIPE, cwd=ROOT) as driver:
        assert driver.stdout is not None
        assert b"holding" in driver.stdout.readline()
        os.kill(up.json["pid"], signal.SIGKILL)
        wait_for(lambda: cli("cluster", "status", "--json").json["clusters"][0]["status"] == "gone", 20, "the cluster is known as gone")
        assert cli("cluster", "status").exit_code == 1
        assert cli("cluster", "down").exit_code == 0
        driver.kill()
    assert_no_processes(raybert_home)
    assert all(is_free(port) for port in ports_of(up.json))
    assert cli("cluster", "status", "--json").json == {"clusters": []}


def test_a_cluster_that_does_not_come_up_shows_its_log_and_leaves_nothing(cli: Cli, raybert_home: Path) -> None:
    raybert_home.mkdir()
    (raybert_home / "mlflow.db").write_bytes(b"not a database" * 100)
    ports = [f"dashboard_port={free_port()}", f"mlflow_port={free_port()}"]
    ran = cli("cluster", "up", *ports, "--json")
    assert ran.exit_code == 1
    assert "cluster local: ended while it started" in ran.error
    assert "file is not a database" in ran.err
    assert processes_of(raybert_home) == []
    assert sorted(path.name for path in (raybert_home / "clusters").iterdir()) == ["local.log"]
