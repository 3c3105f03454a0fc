"""Local clusters: real Ray nodes on loopback that live on when the command that started them returns.

Starts and ends the supervisor process; knows nothing of Ray itself. Read next: ``supervisor.py``, which holds the nodes, ``state.py``, what
is recorded of them, ``processes.py``, how nothing is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cluster import processes, ray_settings
from cluster.config import LocalClusterSpec
from cluster.dashboard import find_token
from cluster.ports import free_port, is_free, require_free
from cluster.state import ClusterState, created_at, file_of, find, forget, running, save
from foundation.config import Config
from foundation.errors import ClusterError, RunError
from foundation.home import home, now_utc

__all__ = ["down", "environment_of", "plan", "running", "up"]

START_S = 90.0
"""How long a cluster may take until its nodes, dashboard and MLflow answer."""
STOP_S = 15.0
"""How long the supervisor may take to end its nodes before they are ended for it."""
_PORTS_S = 5.0
_POLL_S = 0.1
_LOG_LINES = 15
# Set in the cluster by itself; whatever the caller's environment says would lead its processes elsewhere.
_NOT_INHERITED = ("RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS", "RAY_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAYBERT_BASE_DIR")
# Ray puts sockets below this folder, and the path of a socket is at most 107 bytes long.
_LONGEST_FOLDER = 40


class Start(Config):
    """What the supervisor is told."""

    spec: LocalClusterSpec
    state: ClusterState


@dataclass(frozen=True)
class Plan:
    """What ``up`` would start; printed by ``--dry-run``."""

    spec: LocalClusterSpec
    cpus_per_node: float

    @property
    def dashboard_url(self) -> str:
        """Of Ray's dashboard and Jobs API."""
        return f"http://127.0.0.1:{self.spec.dashboard_port}"

    @property
    def tracking_uri(self) -> str | None:
        """Of the MLflow server, if there is to be one."""
        return None if self.spec.mlflow_port is None else f"http://127.0.0.1:{self.spec.mlflow_port}"


def plan(spec: LocalClusterSpec) -> Plan:
    """Work out what a spec means on this machine, and refuse what cannot be started. Starts and writes nothing.

    Raises:
        ClusterError: A cluster of that name runs already, or a port is taken.
    """
    _refuse_second(spec.name)
    if spec.dashboard_port == spec.mlflow_port:
        raise ClusterError(f"dashboard_port and mlflow_port are both {spec.mlflow_port}; choose another with mlflow_port=PORT")
    require_free(spec.dashboard_port, "the dashboard", f"dashboard_port={spec.dashboard_port + 1}")
    if spec.mlflow_port is not None:
        require_free(spec.mlflow_port, "MLflow", f"mlflow_port={spec.mlflow_port + 1} (mlflow_port=null starts none)")
    return Plan(spec, spec.cpus_per_node or max(1, (os.cpu_count() or 1) // spec.nodes))


def up(spec: LocalClusterSpec) -> ClusterState:
    """Start a cluster; returns when its nodes, dashboard and MLflow answer. It lives until ``down``.

    Raises:
        ClusterError: As ``plan``; nothing was started.
        RunError: It did not come up; what had been started is ended, its log is kept.
    """
    planned = plan(spec)
    token, _ = find_token(os.environ, None, _token_file(spec.name))
    with _only_one_at_a_time():
        _refuse_second(spec.name)
        if left := find(spec.name):
            _end(left)  # the remains of one that died
        state, supervisor = _launch(planned, token or secrets.token_hex(32))
    try:
        return _wait_until_ready(state, supervisor)
    except BaseException:
        _end(state)
        raise


def down(name: str) -> bool:
    """End a cluster and everything that runs on it; waits until its processes are gone and its ports are free.

    Returns:
        False when no cluster of that name is recorded.

    Raises:
        RunError: A process could not be ended; the message names it.
    """
    state = find(name)
    if state is None:
        return False
    _end(state)
    return True


def environment_of(state: ClusterState, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the supervisor, which every process of the cluster inherits."""
    environment = {key: value for key, value in base.items() if key not in _NOT_INHERITED}
    for key, value in ray_settings.node_environment().items():
        if key == "PATH":
            environment[key] = value
        else:
            environment.setdefault(key, value)
    environment |= {
        "RAYBERT_HOME": str(home().root),
        processes.MARK: state.cluster_id,
        # Ray's own search for a cluster finds every cluster of the machine, and fails when there are two.
        "RAY_ADDRESS": state.address,
        # Else Ray puts the machine's network address in the place of 127.0.0.1, and its servers listen there.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(state.token_file),
        "RAY_TMPDIR": str(state.ray_folder),
    }
    if state.tracking_uri:
        environment["MLFLOW_TRACKING_URI"] = state.tracking_uri
    return environment


def _launch(planned: Plan, token: str) -> tuple[ClusterState, subprocess.Popen[bytes]]:
    spec = planned.spec
    clusters = home().clusters
    token_file, log_file = _token_file(spec.name), clusters / f"{spec.name}.log"
    ray_folder = _new_ray_folder()
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, ray_folder, ignore_errors=True)
        _write_secret(token_file, token)
        undo.callback(token_file.unlink, missing_ok=True)
        state = ClusterState(
            name=spec.name,
            cluster_id=secrets.token_hex(8),
            pid=0,
            pid_started=0,
            address=f"127.0.0.1:{free_port()}",
            dashboard_url=planned.dashboard_url,
            token_file=token_file,
            ray_folder=ray_folder,
            log_file=log_file,
            tracking_uri=planned.tracking_uri,
            nodes=spec.nodes,
            cpus_per_node=planned.cpus_per_node,
            gpus_per_node=spec.gpus_per_node,
            started=now_utc(),
        )
        with log_file.open("wb") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "cluster.supervisor"],
                cwd=Path(__file__).resolve().parents[1],  # so that it is this code that runs, installed or not
                env=ray_settings.failure_detection(spec.failure_detection_s) | environment_of(state, os.environ),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        undo.callback(supervisor.kill)
        state = state.model_copy(update={"pid": supervisor.pid, "pid_started": created_at(supervisor.pid)})
        save(state)
        assert supervisor.stdin is not None
        # It starts nothing before it has read this, so a crash up to here leaves no node behind.
        with contextlib.suppress(BrokenPipeError):  # it ended at once; the wait for it says why
            supervisor.stdin.write(Start(spec=spec, state=state).model_dump_json().encode())
            supervisor.stdin.close()
        undo.pop_all()
    return state, supervisor


def _wait_until_ready(state: ClusterState, supervisor: subprocess.Popen[bytes]) -> ClusterState:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = find(state.name)
        if found is not None and found.is_ready and found.cluster_id == state.cluster_id:
            return found
        if supervisor.poll() is not None:
            raise RunError(f"cluster {state.name}: ended while it started; {_last_lines(state.log_file)}")
        if found is None:
            raise RunError(f"cluster {state.name}: was taken down while it started")
        time.sleep(_POLL_S)
    raise RunError(f"cluster {state.name}: not ready after {START_S:g} s; {_last_lines(state.log_file)}")


def _end(state: ClusterState) -> None:
    """End the supervisor and whatever it leaves, free the ports, forget the cluster. Safe to repeat."""
    if state.is_alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while state.is_alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    if left := processes.end(state):
        raise RunError(
            f"cluster {state.name}: still running: {', '.join(f'pid {process.pid}' for process in left)}; end them and try again"
        )
    deadline = time.monotonic() + _PORTS_S
    while not all(is_free(port) for port in _ports(state)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)  # a port that stays taken is somebody else's: nothing of this cluster lives
    shutil.rmtree(state.ray_folder, ignore_errors=True)
    state.token_file.unlink(missing_ok=True)
    current = find(state.name)
    if current is None or current.cluster_id == state.cluster_id:
        forget(state.name)


def _ports(state: ClusterState) -> list[int]:
    urls = [f"//{state.address}", state.dashboard_url, state.tracking_uri or ""]
    return [port for port in (urlsplit(url).port for url in urls) if port is not None]


def _refuse_second(name: str) -> None:
    state = find(name)
    if state is not None and state.is_alive:
        what = "is up" if state.is_ready else "is starting"
        raise ClusterError(
            f"cluster {name} {what} already ({state.nodes} node(s), {state.dashboard_url}); use it, end it with "
            f"`raybert cluster down {name}`, or start another with name=NAME and ports of its own"
        )


@contextlib.contextmanager
def _only_one_at_a_time() -> Iterator[None]:
    """Two commands that start a cluster of one name at once must not both find none."""
    folder = home().clusters
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _token_file(name: str) -> Path:
    return file_of(name).with_suffix(".token")


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)  # an old file would keep its mode
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(secret)


def _new_ray_folder() -> Path:
    base = Path(tempfile.gettempdir())
    return Path(tempfile.mkdtemp(prefix="raybert-", dir=base if len(str(base)) + len("/raybert-12345678") <= _LONGEST_FOLDER else "/tmp"))


def _last_lines(log_file: Path) -> str:
    try:
        lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    shown = [f"  {line}" for line in lines if line.strip()][-_LOG_LINES:]
    return "\n".join([f"{log_file} ends with:", *shown]) if shown else f"{log_file} is empty"
