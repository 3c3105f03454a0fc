"""Takes the facts that ``preflight.py`` judges: asks this machine, and a fresh interpreter for what torch and DeepSpeed say.

Changes nothing: no folder is made, no store is created, no process but its own short-lived questions is started or ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster import preflight, ray_settings
from cluster.code_package import package_folder
from cluster.ports import is_free
from cluster.preflight import DeepSpeed, Finding, Installed, Port, RayProcess, Token, Torch
from foundation.home import home

_ASK_S = 15.0
_EXTRAS = ("cluster", "train", "serve")
_DAEMONS = {"raylet", "gcs_server"}
# What each port is for, and how to choose another.
_PORTS = (
    (8000, "serve up", "serve up http.port=8001"),
    (8265, "Ray's dashboard", "cluster up dashboard_port=8266"),
    (5000, "MLflow", "cluster up mlflow_port=5001"),
)
_TORCH = """
import json, os, torch
cuda = torch.cuda.is_available()
nccl = torch.cuda.nccl.version() if cuda and torch.distributed.is_nccl_available() else None
print(json.dumps({
    "version": torch.__version__,
    "threads": torch.get_num_threads(),
    "cpus": len(os.sched_getaffinity(0)),
    "cuda": torch.version.cuda,
    "gpus": torch.cuda.device_count() if cuda else 0,
    "nccl": ".".join(map(str, nccl)) if nccl else None,
}))
"""
_DEEPSPEED = """
import json, logging, os
logging.disable(logging.WARNING)
import deepspeed
from deepspeed.accelerator import get_accelerator
from torch.utils import cpp_extension
print(json.dumps({
    "version": deepspeed.__version__,
    "accelerator": get_accelerator().device_name(),
    "folder": os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root(),
}))
"""


def examine(own_ports: Mapping[int, str] | None = None) -> list[Finding]:
    """Run every check, the slow ones side by side; takes seconds.

    Args:
        own_ports: Ports on which services of this home are recorded to listen.
    """
    with ThreadPoolExecutor(max_workers=3) as pool:
        torch_answer = pool.submit(measure_torch)
        deepspeed_answer = pool.submit(measure_deepspeed)
        gpu_answer = pool.submit(measure_gpus)
        clusters = _recorded()
        ports = {int(port): what for port, what in (own_ports or {}).items()} | _ports_of(clusters)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        uri, problem, is_made_later = measure_tracking(home().tracking_uri)
        torch = torch_answer.result()
        gpus, gpu_problem = gpu_answer.result()
        return [
            preflight.judge_python(sys.version_info[:3]),
            preflight.judge_versions(measure_versions()),
            preflight.judge_constraints(measure_constraints()),
            preflight.judge_torch(torch),
            preflight.judge_deepspeed(deepspeed_answer.result()),
            preflight.judge_gpus(gpus, torch, gpu_problem),
            preflight.judge_shared_memory(_size_of("/dev/shm")),
            preflight.judge_open_files(_limit(soft), _limit(hard)),
            preflight.judge_ports([Port(port, what, option, is_free(port), port in ports) for port, what, option in _PORTS]),
            preflight.judge_ray_processes(measure_ray_processes(clusters)),
            preflight.judge_token(measure_token()),
            preflight.judge_tracking(uri, problem, is_made_later=is_made_later),
            preflight.judge_disk(str(home().root), shutil.disk_usage(_nearest(home().root)).free),
        ]


def measure_versions() -> list[Installed]:
    """raybert's own Requires-Dist, without the development extra, against what is installed."""
    try:
        requires = metadata.requires("raybert") or []
    except metadata.PackageNotFoundError:
        return []
    try:
        from packaging.requirements import Requirement
    except ImportError:  # comes with Ray; an install that only queries has it not
        names = [re.split(r"[^A-Za-z0-9._-]", item, maxsplit=1)[0] for item in requires if "extra ==" not in item]
        return [Installed(name, "any", _version(name), _version(name) is not None) for name in names]
    found: dict[str, Installed] = {}
    for requirement in map(Requirement, requires):
        extra = next((name for name in ("", *_EXTRAS) if requirement.marker is None or requirement.marker.evaluate({"extra": name})), None)
        if extra is None or requirement.name == "raybert":
            continue
        version = _version(requirement.name)
        is_met = version is not None and requirement.specifier.contains(version, prereleases=True)
        found.setdefault(requirement.name, Installed(requirement.name, str(requirement.specifier) or "any", version, is_met, extra))
    return list(found.values())


def measure_constraints() -> list[Installed] | None:
    """Installed versions that differ from ``constraints.txt``; None outside a checkout."""
    checkout = package_folder("raybert").parent
    file = checkout / "constraints.txt"
    if not file.is_file() or not (checkout / "pyproject.toml").is_file():
        return None
    pinned = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;#]+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    pairs = [Installed(name, wanted, _version(name), False) for name, wanted in pinned]
    return [item for item in pairs if item.found is not None and item.found.partition("+")[0] != item.wanted.partition("+")[0]]


def measure_torch() -> Torch:
    """Ask a fresh interpreter, because this package does without torch."""
    if _version("torch") is None:
        return Torch()
    answer = _ask(_TORCH)
    return Torch(**answer)


def measure_deepspeed() -> DeepSpeed:
    """Ask a fresh interpreter; look for the compiled op in torch's cache and for what compiles it."""
    if _version("deepspeed") is None:
        return DeepSpeed()
    answer = _ask(_DEEPSPEED)
    path = ray_settings.path_with_environment(os.environ.get("PATH", ""))
    folder = answer.pop("folder", None)
    is_built = folder is not None and any(Path(folder).glob("**/deepspeed_shm_comm/*.so"))
    return DeepSpeed(**answer, is_op_built=is_built, compiler=shutil.which("g++", path=path), ninja=shutil.which("ninja", path=path))


def measure_gpus() -> tuple[list[str], str]:
    """Names of the GPUs, and what went wrong when the driver's tool is there and fails."""
    if shutil.which("nvidia-smi") is None:
        return [], ""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi: {error}"
    if done.returncode != 0:
        return [], f"nvidia-smi: {_last_line(done.stdout + done.stderr)}"
    return [line.strip() for line in done.stdout.splitlines() if line.strip()], ""


def measure_ray_processes(clusters: Sequence[Any]) -> list[RayProcess] | None:
    """Ray daemons of this user and what each runs for; None without psutil."""
    try:
        import psutil
    except ImportError:
        return None
    found = []
    for process in psutil.process_iter(["pid", "name", "uids"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] not in _DAEMONS or process.info["uids"].real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
            ancestors = [parent for parent in process.parents() if parent.pid > 1]
            pids = {parent.pid for parent in ancestors}
            owner = next((f"cluster {item.name}" for item in clusters if item.pid in pids or str(item.address) in command), None)
            if owner is None and (user := _user_of(ancestors)):
                owner = f"pid {user}"
            found.append(RayProcess(process.pid, process.info["name"], owner))
    return found


def _user_of(ancestors: Sequence[Any]) -> int | None:
    """The process that started the daemon. A daemon without one was handed to init, or to a subreaper that runs no Python."""
    if not ancestors:
        return None
    nearest = ancestors[0]
    return int(nearest.pid) if "python" in nearest.name() or "raybert" in nearest.name() or "ray" in nearest.name() else None


def measure_token() -> Token:
    """Ray's token file: the one the environment names, else the default one."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    try:
        mode = path.stat().st_mode
        exists = path.is_file() and os.access(path, os.R_OK)
    except OSError:
        return Token(str(path), exists=False, is_named=bool(named))
    return Token(str(path), exists=exists, is_named=bool(named), is_private=not mode & 0o077)


def measure_tracking(uri: str) -> tuple[str, str, bool]:
    """The store's URI, what is wrong with it, and whether it is still to be made. Opens an existing store read-only."""
    if uri.startswith(("http://", "https://")):
        return uri, _server_problem(uri), False
    path = Path(uri.removeprefix("sqlite:///").removeprefix("file://")) if uri.startswith(("sqlite:///", "file://", "/")) else None
    if path is None:
        return uri, "", False  # a database or a scheme that only MLflow knows
    if not path.exists():
        folder = _nearest(path.parent)
        return uri, "" if os.access(folder, os.W_OK) else f"{folder} is not writable", True
    if not os.access(path, os.R_OK | os.W_OK):
        return uri, "not readable and writable", False
    return uri, _sqlite_problem(path) if uri.startswith("sqlite") else "", False


def _sqlite_problem(path: Path) -> str:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            connection.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return ""


def _server_problem(uri: str) -> str:
    import httpx

    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"does not answer ({error})"
    return "" if answer.is_success else f"answers HTTP {answer.status_code} at /health"


def _ask(code: str) -> dict[str, Any]:
    """Run ``code`` in a fresh interpreter; its last line is JSON. ``error`` says why there is none."""
    environment = {**ray_settings.driver_environment(), **os.environ}
    environment["PATH"] = ray_settings.path_with_environment(os.environ.get("PATH", ""))
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_ASK_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"import took longer than {_ASK_S:g} s"}
    with contextlib.suppress(ValueError, IndexError):
        if done.returncode == 0:
            answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            return answer
    return {"error": f"does not import: {_last_line(done.stderr or done.stdout)}"}


def _recorded() -> list[Any]:
    try:
        from cluster.state import running
    except ImportError:  # psutil comes with raybert[cluster]; without it no cluster was started from here
        return []
    return list(running())


def _ports_of(clusters: Sequence[Any]) -> dict[int, str]:
    urls = [url for item in clusters for url in (item.dashboard_url, item.tracking_uri) if url]
    ports = {re.search(r":(\d+)/?$", str(url)) for url in urls}
    return {int(found.group(1)): "a recorded cluster" for found in ports if found}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _nearest(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _size_of(folder: str) -> int | None:
    return shutil.disk_usage(folder).total if os.path.isdir(folder) else None


def _limit(value: int) -> int:
    return sys.maxsize if value == resource.RLIM_INFINITY else value


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
