"""A cluster whose nodes can be lost and come back: real Ray nodes on loopback, held by a process of their own.

``with nodes(...)`` starts it; ``lose`` kills a node's raylet with SIGKILL, ``add`` starts another node. The head has no CPUs, so that all
workers lie on nodes that can be lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import ROOT, end_group, environment_of

_LOOPBACK = "127.0.0.2"  # `ray start` takes 127.0.0.1 for the address that others reach this host by
_OBJECT_STORE = 100 * 1024 * 1024


@dataclass(frozen=True)
class Nodes:
    """The cluster, as a test holds it."""

    address: str
    env: dict[str, str]
    """For commands that are to reach it."""
    process: subprocess.Popen[str]

    def add(self) -> int:
        """Start a node; returns the process id of its raylet."""
        return int(self._ask("add"))

    def start(self) -> int:
        """Start a node as people do, with ``ray start --block``; returns that command's process id. SIGTERM makes it announce its end, wait
        (``RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S``) and go."""
        return int(self._ask("start"))

    def hide(self, folder: Path) -> None:
        """Nodes that are added from now on see another, empty folder there, as hosts of their own would.

        Raises:
            PermissionError: That takes the right to mount.
        """
        if denied := self._ask(f"hide {folder}"):
            raise PermissionError(denied)

    def occupy(self) -> None:
        """Take a node's CPUs, as a service would."""
        self._ask("occupy")

    def lose(self, raylet: int) -> None:
        """Kill a node's raylet; what ran on it ends by itself."""
        os.kill(raylet, signal.SIGKILL)

    def drain(self, raylet: int, seconds: float) -> None:
        """Announce that a node goes in so many seconds, as ``ray start --block`` does after SIGTERM; it does not go by itself."""
        assert self._ask(f"drain {raylet} {seconds}") == "accepted"

    def _ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the process that holds the nodes has ended"
        return json.loads(line)


@contextlib.contextmanager
def nodes(home: Path, *, cpus: int = 1, failure_detection_s: float = 4.0, environment: Mapping[str, str] | None = None) -> Iterator[Nodes]:
    """A head without CPUs; ``add`` brings nodes of so many CPUs, with ``environment`` besides. Everything ends with the block."""
    from cluster import ray_settings

    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    env = environment_of(home, **access, **(environment or {}))
    settings = ray_settings.failure_detection(failure_detection_s) | ray_settings.node_environment()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "nodes.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nodes", str(cpus)],
            cwd=ROOT,
            env={**env, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    held = Nodes("", env, process)
    try:
        yield Nodes(held._ask("head"), env, process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            end_group(process)


def hide(folder: str) -> None:
    """Mount an empty file system over ``folder``, for this thread and whatever it starts from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for done in (
        libc.unshare(0x00020000),  # CLONE_NEWNS
        libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None),  # MS_REC | MS_PRIVATE
        libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, None),
    ):
        if done:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def drain(address: str, node_id: str, seconds: float) -> str:
    """What ``ray drain-node`` does."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int(1000 * (time.time() + seconds))
    is_accepted, why_not = GcsClient(address=address).drain_node(node_id, reason, "announced by a test", deadline_ms)
    return "accepted" if is_accepted else why_not


def started(address: str, cpus: int) -> subprocess.Popen[bytes]:
    """``ray start --block``, as soon as its raylet lives."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--address", address, "--node-ip-address", _LOOPBACK]
    several = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # otherwise it joins no cluster on loopback
    process = subprocess.Popen([*command, "--num-cpus", str(cpus), "--object-store-memory", str(_OBJECT_STORE)], env=several)
    while not any(child.name() == "raylet" for child in psutil.Process(process.pid).children(recursive=True)):
        assert process.poll() is None, "ray start has ended"
        time.sleep(0.1)
    return process


def main(cpus: int) -> None:
    """Hold a cluster; obey lines on stdin, answer each with one of JSON; end with stdin."""
    import ray
    from ray.cluster_utils import Cluster

    held: list[Any] = []
    raylets: dict[int, Any] = {}
    blocking: list[subprocess.Popen[bytes]] = []
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints
    cluster, common = Cluster(), {"node_ip_address": _LOOPBACK, "object_store_memory": _OBJECT_STORE}
    for number, line in enumerate(sys.stdin):
        if line.strip() == "head":
            cluster.add_node(num_cpus=0, include_dashboard=False, **common)
            answers.write(json.dumps(cluster.address) + "\n")
        elif line.startswith("hide "):
            denied = None
            try:
                hide(line.removeprefix("hide ").strip())
            except PermissionError as error:
                denied = f"hiding a folder from a node takes the right to mount: {error}"
            answers.write(json.dumps(denied) + "\n")
        elif line.strip() == "occupy":
            ray.init(cluster.address, log_to_driver=False, ignore_reinit_error=True)
            held.append(ray.remote(num_cpus=cpus)(Counter).remote())
            ray.get(held[-1].most_common.remote())
            answers.write("null\n")
        elif line.strip() == "start":
            blocking.append(started(cluster.address, cpus))
            answers.write(json.dumps(blocking[-1].pid) + "\n")
        elif line.startswith("drain "):
            _, raylet, seconds = line.split()
            answers.write(json.dumps(drain(cluster.address, raylets[int(raylet)].node_id, float(seconds))) + "\n")
        else:
            # Nodes on one machine share the session's folder.
            node = cluster.add_node(num_cpus=cpus, runtime_env_dir_name=f"runtime_resources_{number}", **common)
            raylet = node.all_processes["raylet"][0].process.pid
            raylets[raylet] = node
            answers.write(json.dumps(raylet) + "\n")
    ray.shutdown()
    for process in blocking:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
