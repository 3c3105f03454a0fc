"""The process behind a local cluster: holds its Ray nodes and its MLflow server, and takes them down when it is told to end.

``local.py`` starts it with the right environment and tells it on stdin what to start. It knows nothing of jobs or services.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster import processes
from cluster.local import START_S, Start
from cluster.ports import free_port
from cluster.signals import terminate_as_interrupt
from cluster.state import ClusterState, save
from foundation.home import home

_LOOPBACK = "127.0.0.1"
_MEBIBYTE = 1024 * 1024
_POLL_S = 0.1
_WATCH_S = 1.0
_RESTART_S = 5.0
_PR_SET_PDEATHSIG = 1

log = logging.getLogger("raybert.cluster")


def main() -> int:
    """Read a ``Start`` from stdin, hold the cluster until SIGTERM or until its head dies; returns the exit code."""
    told = sys.stdin.read()
    if not told:
        return 1  # the command that started this ended before it could say what to start
    start = Start.model_validate_json(told)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    os.chdir(home().root)
    terminate_as_interrupt()
    try:
        with contextlib.ExitStack() as undo:
            undo.callback(processes.end, start.state)
            return _hold(start, undo)
    except KeyboardInterrupt:
        log.info("ended on request")
        return 0


def _hold(start: Start, undo: contextlib.ExitStack) -> int:
    state = start.state
    mlflow = _start_mlflow(state) if state.tracking_uri else None  # loads while Ray starts
    cluster = _start_nodes(start)
    undo.callback(_stop_nodes, cluster)
    terminate_as_interrupt()  # Ray has put its own handler in the place of ours
    _wait_until_all_answer(state, cluster, mlflow)
    save(state.model_copy(update={"is_ready": True}))
    log.info("ready: %d nodes at %s, dashboard %s, MLflow %s", state.nodes, state.address, state.dashboard_url, state.tracking_uri)
    restarted = time.monotonic()
    while cluster.head_node.remaining_processes_alive():
        time.sleep(_WATCH_S)
        if mlflow is not None and mlflow.poll() is not None and time.monotonic() - restarted > _RESTART_S:
            log.warning("MLflow ended with exit code %s, starting it again", mlflow.returncode)
            mlflow, restarted = _start_mlflow(state), time.monotonic()
    log.error("a process of the head node died; the cluster ends: %s", cluster.head_node.dead_processes())
    return 1


def _start_nodes(start: Start) -> Any:
    from ray.cluster_utils import Cluster

    spec, state = start.spec, start.state
    common = {
        "num_cpus": int(state.cpus_per_node) if state.cpus_per_node.is_integer() else state.cpus_per_node,
        "num_gpus": int(spec.gpus_per_node) if spec.gpus_per_node.is_integer() else spec.gpus_per_node,
        "object_store_memory": spec.object_store_mb * _MEBIBYTE,
        "node_ip_address": _LOOPBACK,
    }
    cluster = Cluster()
    cluster.add_node(
        **common,
        gcs_server_port=urlsplit(f"//{state.address}").port,
        include_dashboard=True,
        dashboard_host=_LOOPBACK,
        dashboard_port=spec.dashboard_port,
        dashboard_agent_listen_port=free_port(),
        metrics_export_port=free_port(),
    )
    for number in range(1, spec.nodes):
        # Nodes on one machine share the session's folder. Each unpacks a job's code anew, over what another node's driver is importing.
        cluster.add_node(**common, runtime_env_dir_name=f"runtime_resources_{number}", wait=False)
    cluster.wait_for_nodes(timeout=START_S)
    return cluster


def _stop_nodes(cluster: Any) -> None:
    """End all nodes side by side: each takes seconds."""
    nodes = cluster.list_all_nodes()
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        for node in nodes:
            pool.submit(node.kill_all_processes, check_alive=False, allow_graceful=True, wait=True)


def _start_mlflow(state: ClusterState) -> subprocess.Popen[bytes]:
    where = home()
    url = urlsplit(state.tracking_uri or "")
    command = [sys.executable, "-m", "mlflow", "server", "--host", _LOOPBACK, "--port", str(url.port), "--workers", "1"]
    # Artifacts are written by the clients, into the folder that the store without a server uses: every version can be read when the
    # server is gone.
    store = ["--backend-store-uri", f"sqlite:///{where.root / 'mlflow.db'}", "--no-serve-artifacts"]
    artifacts = ["--default-artifact-root", where.artifacts.as_uri()]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # queues that nothing here uses, a process each
    return subprocess.Popen([*command, *store, *artifacts], env=environment, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _wait_until_all_answer(state: ClusterState, cluster: Any, mlflow: subprocess.Popen[bytes] | None) -> None:
    token = Path(state.token_file).read_text(encoding="utf-8").strip()
    waiting = {"the dashboard": (f"{state.dashboard_url}/api/jobs/", {"Authorization": f"Bearer {token}"})}
    if mlflow is not None:
        waiting["MLflow"] = (f"{state.tracking_uri}/health", {})
    deadline = time.monotonic() + START_S
    while waiting:
        for name, (url, headers) in list(waiting.items()):
            if _answers(url, headers):
                del waiting[name]
        if mlflow is not None and mlflow.poll() is not None:
            raise SystemExit(f"MLflow ended with exit code {mlflow.returncode}")
        if not cluster.head_node.remaining_processes_alive():
            raise SystemExit(f"a process of the head node died: {cluster.head_node.dead_processes()}")
        if waiting and time.monotonic() > deadline:
            raise SystemExit(f"no answer from {' and '.join(waiting)} within {START_S:g} s")
        time.sleep(_POLL_S)


def _answers(url: str, headers: dict[str, str]) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is not asked for loopback
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    raise SystemExit(main())
