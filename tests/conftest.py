"""What all tests share: homes of their own, the command line as a process, a small cluster, and a watch over what is left behind.

Every process that a test starts inherits its ``RAYBERT_HOME``. Whatever still runs with a home of this test run when the run ends is a
leak, and fails it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
# What would let a test touch the cluster, the store or the jobs of whoever runs it.
_FOREIGN = (
    "MLFLOW_TRACKING_URI",
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAYBERT_BASE_DIR",
)
_GONE_S = 20.0

# Several tests share the cores; threads of OpenMP that wait for each other must not spin meanwhile.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes depends on what else the machine does.
settings.register_profile("raybert", deadline=None)
settings.load_profile("raybert")

# Whoever starts the tests in the background of a script hands them an ignored Ctrl-C, and every verb that they start would ignore it too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The files whose tests take longest, of all: with several test processes, which take a file at a time, these have to begin.
_LONGEST = ("test_quickstart.py", "test_readme.py", "test_training.py")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Put the longest files first, then what needs Ray; within each part the random order stays."""
    yield
    items.sort(key=lambda item: (item.path.name not in _LONGEST, item.get_closest_marker("ray") is None))


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The result line of ``--json``: the last one on stdout."""
        lines = self.out.strip().splitlines()
        assert lines, f"nothing on stdout; stderr was:\n{self.err}"
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer

    @property
    def error(self) -> str:
        """The one message of a failure; fails the test when there is none or more than one."""
        (message,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return message.removeprefix("error: ")


@dataclass(frozen=True)
class Cli:
    """``raybert`` as a user runs it. Call it with arguments to run it to its end; ``start`` leaves it running."""

    env: dict[str, str]
    cwd: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str | Path, **env: str) -> subprocess.Popen[str]:
        """Start a verb in a process group of its own; it is ended with the test at the latest."""
        process = subprocess.Popen(
            [sys.executable, "-m", "raybert", *map(str, arguments)],
            cwd=self.cwd,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], timeout_s: float = 120) -> Ran:
        """Wait for a started verb."""
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end_group(process)
            out, err = process.communicate(timeout=10)
            raise AssertionError(f"{process.args!r} still ran after {timeout_s:g} s\n{out[-3000:]}\n{err[-3000:]}") from None
        return Ran(process.returncode, out, err)

    def interrupt(self, process: subprocess.Popen[str], timeout_s: float = 40) -> Ran:
        """Press Ctrl-C, and wait for a started verb."""
        os.killpg(process.pid, signal.SIGINT)
        return self.finish(process, timeout_s)

    def __call__(self, *arguments: str | Path, timeout_s: float = 120, **env: str) -> Ran:
        """Run a verb to its end."""
        return self.finish(self.start(*arguments, **env), timeout_s)


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process that was started as the leader of its group, with its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def environment_of(home: Path, **more: str) -> dict[str, str]:
    """This process's environment with ``home`` as raybert's home and nothing that leads elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return kept | {"RAYBERT_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **more}


def processes_of(home: Path) -> list[psutil.Process]:
    """Living processes that were started with ``home`` (or a folder in it) as their ``RAYBERT_HOME``, and their descendants.

    Ray's agents overwrite their environment with their title, so they are found as children of their raylet.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            value = process.environ().get("RAYBERT_HOME")
            if value and Path(value).is_relative_to(home) and process.pid != os.getpid():
                for one in (process, *process.children(recursive=True)):
                    if one.status() != psutil.STATUS_ZOMBIE:
                        found[one.pid] = one
    return list(found.values())


def wait_for(condition: Callable[[], object], timeout_s: float, what: str = "the condition") -> None:
    """Wait until ``condition`` is true; fails the test after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.05)


def left_running(home: Path, within_s: float = _GONE_S) -> list[str]:
    """What was started for ``home`` and still runs after a grace period."""
    deadline = time.monotonic() + within_s
    while (left := processes_of(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [_describe(process) for process in left]


def assert_no_processes(home: Path, within_s: float = _GONE_S) -> None:
    """Fail when something that was started for ``home`` still runs after a grace period."""
    if left := left_running(home, within_s):
        raise AssertionError("left running:\n" + "\n".join(left))


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"{process.pid} (gone meanwhile)"


def snapshot(folder: Path) -> dict[str, str]:
    """Names, sizes and hashes of all files under ``folder``; folders end with a slash."""

    def describe(path: Path) -> str:
        if path.is_symlink():
            return f"-> {os.readlink(path)}"
        if not path.is_file():
            return ""
        content = path.read_bytes()
        return f"{len(content)} {hashlib.sha256(content).hexdigest()}"

    return {f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}": describe(path) for path in sorted(folder.rglob("*"))}


@pytest.fixture
def raybert_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of this test alone (not created yet), in the environment of this process."""
    home = tmp_path / "home"
    for name in _FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYBERT_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home


@pytest.fixture
def cli(raybert_home: Path, tmp_path: Path) -> Iterator[Cli]:
    """The command line as a process, in ``tmp_path``, with this test's home."""
    command = Cli(environment_of(raybert_home), tmp_path)
    yield command
    for process in command.started:
        if process.poll() is None:
            end_group(process)


@pytest.fixture
def unchanged_tree() -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """``with unchanged_tree(folder):`` fails when a file under ``folder`` appeared, vanished or changed within the block."""

    @contextlib.contextmanager
    def watch(folder: Path) -> Iterator[None]:
        before = snapshot(folder)
        yield
        assert snapshot(folder) == before

    return watch


@pytest.fixture
def no_new_processes(raybert_home: Path) -> Iterator[Callable[[], list[psutil.Process]]]:
    """Gives a function that lists what this test's home still runs; at the end of the test that must be nothing."""
    yield lambda: processes_of(raybert_home)
    assert_no_processes(raybert_home)


@dataclass(frozen=True)
class SharedCluster:
    """A running local cluster: two nodes of two logical CPUs, dashboard and MLflow on free ports of loopback."""

    home: Path
    env: dict[str, str]
    """For processes that are to find it by themselves, as anything started in its home does."""
    state: dict[str, Any]
    """As ``cluster up --json`` printed it: address, dashboard_url, token_file, tracking_uri, …"""

    def cli(self, cwd: Path) -> Cli:
        """The command line in this cluster's home."""
        return Cli(self.env, cwd)


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    """One cluster for all tests of a file that only need one to be there; jobs and services on it must end with their test.

    Not for all files: an idle one takes a tenth of a core from the tests that come after.
    """
    from cluster.ports import free_port

    home = tmp_path_factory.mktemp("shared_cluster") / "home"
    environment = environment_of(home)
    cli = Cli(environment, tmp_path_factory.getbasetemp())
    ports = [f"dashboard_port={free_port()}", f"mlflow_port={free_port()}"]
    try:
        up = cli("cluster", "up", "nodes=2", "cpus_per_node=2", *ports, "--json", timeout_s=120)
        assert up.exit_code == 0, up.err
        yield SharedCluster(home, environment, up.json)
    finally:
        cli("cluster", "down", timeout_s=60)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give tests that name no home one of this run; at the end, nothing that has a home of this run may be alive."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        for name in _FOREIGN:
            patch.delenv(name, raising=False)
        patch.setenv("RAYBERT_HOME", str(base / "default_home"))
        yield
    assert_no_processes(base)
