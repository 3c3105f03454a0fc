"""How a process gets its Ray: found, given, refused, private; and what is left of it afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.ports import free_port
from cluster.session import session
from foundation.errors import ClusterError
from tests.conftest import SharedCluster, assert_no_processes, end_group, environment_of, processes_of

pytestmark = pytest.mark.ray

# Ctrl-C at the worst moment: Ray's servers run, and ray.init has not yet noted them.
INTERRUPTED_WHILE_RAY_STARTS = """
import ray._private.node as node
from cluster.session import session

start = node.Node.start_ray_processes

def start_and_interrupt(self):
    start(self)
    print("servers started", flush=True)
    raise KeyboardInterrupt

node.Node.start_ray_processes = start_and_interrupt
try:
    with session(cpus=1):
        pass
except KeyboardInterrupt:
    print("ended in order", flush=True)
    input()
"""

WAITS_IN_A_SESSION = """
import time
from cluster.session import session

try:
    with session(cpus=1):
        import ray

        @ray.remote(num_cpus=1)
        class Busy:
            def work(self):
                time.sleep(600)

        busy = Busy.remote()
        busy.work.remote()
        print("working", flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("ended in order", flush=True)
"""


@pytest.fixture
def in_its_home(shared_cluster: SharedCluster, monkeypatch: pytest.MonkeyPatch) -> SharedCluster:
    """This process in the home of the shared cluster."""
    monkeypatch.setenv("RAYBERT_HOME", str(shared_cluster.home))
    return shared_cluster


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Somebody listens there and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_cluster_of_this_home_is_found_and_the_environment_is_put_back(in_its_home: SharedCluster) -> None:
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with session(cpus=4) as opened:
        assert (opened.origin, opened.address) == ("local", in_its_home.state["address"])
        assert (len(opened.topology.alive), opened.topology.cpus) == (2, 4)
        assert os.environ["MLFLOW_TRACKING_URI"] == in_its_home.state["tracking_uri"]
        assert signal.getsignal(signal.SIGTERM) is not handler
    gone = {name for name in before if name not in os.environ}
    assert gone == set()
    assert {name for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_URI") if name in os.environ} == set()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_more_cpus_than_the_cluster_has_is_an_answer_not_a_wait(in_its_home: SharedCluster) -> None:
    with pytest.raises(ClusterError, match=r"64 CPUs wanted, the cluster has 4 on 2 node\(s\)"), session(cpus=64):
        pass


def test_from_another_home_the_address_and_the_token_are_given(
    shared_cluster: SharedCluster, raybert_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(shared_cluster.state["address"])
    wrong = tmp_path / "token"
    wrong.write_text("f" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    started = time.monotonic()
    with pytest.raises(ClusterError, match=rf"{address}: the cluster refuses the token in {wrong}"), session(address):
        pass
    assert time.monotonic() - started < 45

    # The same process, now with the right one: nothing of the first attempt is remembered.
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", shared_cluster.state["token_file"])
    with session(address, cpus=1) as opened:
        assert (opened.origin, opened.topology.cpus) == ("given", 4)

    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with pytest.raises(ClusterError, match="no token to show there"), session(address):
        pass
    assert processes_of(raybert_home) == []


def test_an_address_where_no_cluster_answers_is_told_within_seconds(raybert_home: Path, silent_port: int) -> None:
    for port in (free_port(), silent_port):
        started = time.monotonic()
        with pytest.raises(ClusterError, match=rf"127\.0\.0\.1:{port}: no cluster answers there"), session(f"127.0.0.1:{port}"):
            pass
        assert time.monotonic() - started < 45


@contextmanager
def running(script: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A script as a process of its own, and the home that it has."""
    home = folder / "home"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment_of(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, home
    finally:
        end_group(process)


def test_a_private_session_that_is_interrupted_while_ray_starts_leaves_nothing(tmp_path: Path) -> None:
    with running(INTERRUPTED_WHILE_RAY_STARTS, tmp_path) as (process, home):
        assert process.stdout is not None
        assert process.stdout.readline() == "servers started\n"
        assert process.stdout.readline() == "ended in order\n"
        # Itself it lives on: what Ray does when Python ends has no part in this.
        assert [one.pid for one in processes_of(home)] == [process.pid]
        process.communicate("end\n", timeout=30)
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_private_session_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with running(WAITS_IN_A_SESSION, tmp_path) as (process, home):
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        assert len(processes_of(home)) > 3
        started = time.monotonic()
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert out == "ended in order\n"
        assert time.monotonic() - started < 30
        assert_no_processes(home)


def test_one_process_goes_from_a_cluster_to_a_private_ray(
    in_its_home: SharedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    with session(cpus=1):
        first = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))
    with session(cpus=1) as opened:
        assert opened.origin == "private"
        assert ray.get_runtime_context().gcs_address != first
        assert ray.get(ray.remote(lambda: os.getppid()).remote()) != os.getppid()
        assert "MLFLOW_TRACKING_URI" not in os.environ
    assert not ray.is_initialized()
    assert_no_processes(tmp_path / "home")
