"""Checks before spending time: measured facts in, findings out, each with a remedy. Pure; ``measurements.py`` takes the facts.

Knows no torch, no Ray, and touches neither the file system nor the network, so that every judgement is tested as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warning", "blocker"]
GB = 1e9

SHARED_MEMORY_WARNING_BYTES = 1 * GB
SHARED_MEMORY_BLOCKER_BYTES = 0.1 * GB
DISK_WARNING_BYTES = 5 * GB
DISK_BLOCKER_BYTES = 1 * GB
OPEN_FILES_WARNING = 4096
OPEN_FILES_BLOCKER = 1024
OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 13)


@dataclass(frozen=True)
class Finding:
    """One line of ``raybert doctor``."""

    name: str
    status: Status
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """For ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class Installed:
    """One requirement of raybert and what is there."""

    name: str
    wanted: str
    found: str | None
    is_met: bool
    extra: str = ""
    """Empty for what every install needs."""


@dataclass(frozen=True)
class Torch:
    """What a fresh interpreter says after ``import torch``."""

    version: str | None = None
    threads: int = 0
    cpus: int = 1
    cuda: str | None = None
    """CUDA version of the build; None is a CPU build."""
    gpus: int = 0
    """GPUs that torch can use."""
    nccl: str | None = None
    error: str = ""


@dataclass(frozen=True)
class DeepSpeed:
    """What a fresh interpreter says after ``import deepspeed``, and the tools that build its ops."""

    version: str | None = None
    accelerator: str = ""
    is_op_built: bool = False
    """Whether the shared-memory collective lies compiled in torch's extension cache."""
    compiler: str | None = None
    ninja: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Port:
    """A port that raybert listens on by default."""

    number: int
    purpose: str
    option: str
    is_free: bool
    is_ours: bool = False
    """Taken by a recorded cluster or service of this home."""


@dataclass(frozen=True)
class RayProcess:
    """A Ray daemon of this user."""

    pid: int
    name: str
    belongs_to: str | None
    """What it runs for: a recorded cluster, a living process; None when nothing does."""


@dataclass(frozen=True)
class Token:
    """Ray's token file."""

    path: str
    exists: bool
    is_named: bool = False
    """Whether the environment asks for this very file."""
    is_private: bool = True
    """Whether only its owner can read it."""


def failed(findings: Sequence[Finding]) -> bool:
    """Whether anything stands in the way of work."""
    return any(finding.status == "blocker" for finding in findings)


def judge_python(version: tuple[int, int, int]) -> Finding:
    """Ray, torch and DeepSpeed have to have wheels for it."""
    found = ".".join(map(str, version))
    if version[:2] < OLDEST_PYTHON:
        return Finding("Python", "blocker", found, "make an environment with Python 3.11 or 3.12")
    if version[:2] > NEWEST_PYTHON:
        return Finding("Python", "warning", f"{found}, newer than what is tested", "make an environment with Python 3.11 or 3.12")
    return Finding("Python", "ok", found)


def judge_versions(requirements: Sequence[Installed]) -> Finding:
    """A wrong version blocks; a missing extra is a smaller install, unless it is one that every install needs."""
    if not requirements:
        return Finding("versions", "warning", "raybert is not installed as a package", "pip install -e '.[all]' in the checkout")
    wrong = [item for item in requirements if item.found is not None and not item.is_met]
    missing = [item for item in requirements if item.found is None]
    needed = [item for item in missing if not item.extra]
    if wrong or needed:
        parts = [f"{item.name} {item.found} (wanted {item.wanted})" for item in wrong] + [f"{item.name} missing" for item in needed]
        extras = sorted({item.extra for item in wrong if item.extra}) or ["all"]
        return Finding("versions", "blocker", ", ".join(parts), f"pip install --upgrade 'raybert[{','.join(extras)}]'")
    if missing:
        extras = sorted({item.extra for item in missing})
        return Finding(
            "versions",
            "warning",
            f"not installed: {', '.join(sorted({item.name for item in missing}))}",
            f"to use what needs them: pip install 'raybert[{','.join(extras)}]'",
        )
    return Finding("versions", "ok", f"{len({item.name for item in requirements})} requirements met")


def judge_constraints(different: Sequence[Installed] | None) -> Finding:
    """Inside a checkout, versions other than the tested ones are worth knowing; None outside one."""
    if different is None:
        return Finding("constraints", "ok", "not in a checkout, no constraints.txt to compare with")
    if not different:
        return Finding("constraints", "ok", "every installed version is the tested one")
    shown = ", ".join(f"{item.name} {item.found} (tested {item.wanted})" for item in different[:5])
    more = f" and {len(different) - 5} more" if len(different) > 5 else ""
    return Finding("constraints", "warning", shown + more, "pip install -c constraints.txt -e '.[all]'")


def judge_torch(torch: Torch) -> Finding:
    """It has to import, and to use no more threads than there are cores."""
    if torch.error:
        return Finding("torch", "blocker", torch.error, "pip install --force-reinstall 'raybert[train]'")
    if torch.version is None:
        return Finding("torch", "warning", "not installed", "to train or serve: pip install 'raybert[train]' or 'raybert[serve]'")
    found = f"{torch.version}, {f'CUDA {torch.cuda}' if torch.cuda else 'CPU build'}, {torch.threads} threads on {torch.cpus} CPUs"
    if torch.threads > torch.cpus:
        return Finding("torch", "warning", found, f"more threads than CPUs slow each other: export OMP_NUM_THREADS={torch.cpus}")
    return Finding("torch", "ok", found)


def judge_deepspeed(deepspeed: DeepSpeed) -> Finding:
    """On CPUs its shared-memory collective is compiled on first use, which takes a compiler and ninja."""
    if deepspeed.error:
        return Finding("DeepSpeed", "blocker", deepspeed.error, "pip install --force-reinstall 'raybert[train]'")
    if deepspeed.version is None:
        return Finding("DeepSpeed", "warning", "not installed", "to train with ZeRO: pip install 'raybert[train]'")
    op = "shared-memory op built" if deepspeed.is_op_built else "shared-memory op is built on first use"
    found = f"{deepspeed.version}, accelerator {deepspeed.accelerator}, {op}"
    tools = {"g++": deepspeed.compiler, "ninja": deepspeed.ninja}
    missing = [name for name, path in tools.items() if path is None]
    if missing and deepspeed.accelerator == "cpu":
        remedy = "apt install g++" if "g++" in missing else "pip install ninja"
        # An op that is in the cache still goes through ninja, which finds nothing to do.
        return Finding("DeepSpeed", "blocker", f"{found}; not on PATH: {', '.join(missing)}", remedy)
    return Finding("DeepSpeed", "ok", found)


def judge_shared_memory(size_bytes: int | None) -> Finding:
    """Ray keeps objects there; DeepSpeed and torch exchange through it."""
    remedy = "mount a larger one, for Docker --shm-size=2g"
    if size_bytes is None:
        return Finding("shared memory", "blocker", "/dev/shm is missing", remedy)
    found = f"/dev/shm of {size_bytes / GB:.1f} GB"
    if size_bytes < SHARED_MEMORY_BLOCKER_BYTES:
        return Finding("shared memory", "blocker", found, remedy)
    return Finding("shared memory", *_graded(size_bytes < SHARED_MEMORY_WARNING_BYTES, found, remedy))


def judge_open_files(soft: int, hard: int) -> Finding:
    """Ray raises the soft limit to the hard one by itself; each worker and actor takes files."""
    found = f"{soft} open files, at most {hard}"
    remedy = "raise the hard limit: ulimit -Hn 65536, in a service LimitNOFILE=65536"
    if hard < OPEN_FILES_BLOCKER:
        return Finding("open files", "blocker", found, remedy)
    return Finding("open files", *_graded(hard < OPEN_FILES_WARNING, found, remedy))


def judge_ports(ports: Sequence[Port]) -> Finding:
    """A taken port stops one verb, and each of them has an option for another."""
    taken = [port for port in ports if not port.is_free and not port.is_ours]
    if taken:
        found = ", ".join(f"{port.number} ({port.purpose})" for port in taken)
        remedy = f"end what listens there (ss -ltnp), or choose others: {', '.join(port.option for port in taken)}"
        return Finding("ports", "warning", f"in use: {found}", remedy)
    words = [f"{port.number} {'free' if port.is_free else 'ours'}" for port in ports]
    return Finding("ports", "ok", ", ".join(words))


def judge_ray_processes(processes: Sequence[RayProcess] | None) -> Finding:
    """Daemons that no living process and no recorded cluster needs hold memory and ports. They are named, never killed."""
    if processes is None:
        return Finding("Ray processes", "warning", "could not look: psutil is not installed", "pip install 'raybert[cluster]'")
    orphans = [process for process in processes if process.belongs_to is None]
    if orphans:
        pids = " ".join(str(process.pid) for process in orphans)
        found = ", ".join(f"{process.name} (pid {process.pid})" for process in orphans)
        return Finding("Ray processes", "warning", f"left behind: {found}", f"if nobody uses them: kill {pids}")
    owners = sorted({process.belongs_to for process in processes if process.belongs_to})
    return Finding("Ray processes", "ok", f"running for {', '.join(owners)}" if owners else "none")


def judge_token(token: Token) -> Finding:
    """Whoever reads the token can run code on the cluster."""
    if not token.exists and token.is_named:
        return Finding("Ray token", "blocker", f"{token.path} cannot be read", "correct or unset RAY_AUTH_TOKEN_PATH")
    if not token.exists:
        return Finding("Ray token", "ok", f"none yet; made in {token.path} when it is first needed")
    if not token.is_private:
        return Finding("Ray token", "warning", f"{token.path} can be read by others", f"chmod 600 {token.path}")
    return Finding("Ray token", "ok", token.path)


def judge_tracking(uri: str, problem: str, *, is_made_later: bool = False) -> Finding:
    """Runs record their metrics there; ``problem`` is empty when it can be used."""
    if problem:
        remedy = (
            "start the server, or point MLFLOW_TRACKING_URI elsewhere"
            if uri.startswith("http")
            else ("make it readable and writable, or point MLFLOW_TRACKING_URI or RAYBERT_HOME elsewhere")
        )
        return Finding("MLflow store", "blocker", f"{uri}: {problem}", remedy)
    return Finding("MLflow store", "ok", f"{uri}{' (made by the first run)' if is_made_later else ''}")


def judge_disk(folder: str, free_bytes: int) -> Finding:
    """Checkpoints, bundles and caches."""
    found = f"{free_bytes / GB:.1f} GB free for {folder}"
    remedy = "delete old runs and the cache there, or move it with RAYBERT_HOME"
    if free_bytes < DISK_BLOCKER_BYTES:
        return Finding("disk", "blocker", found, remedy)
    return Finding("disk", *_graded(free_bytes < DISK_WARNING_BYTES, found, remedy))


def judge_gpus(names: Sequence[str], torch: Torch, problem: str = "") -> Finding:
    """A GPU that torch cannot use goes to waste; several need NCCL."""
    if problem:
        return Finding("GPUs", "warning", problem, "reinstall the NVIDIA driver, or go on with CPUs")
    if not names:
        return Finding("GPUs", "ok", "none; work runs on CPUs")
    found = f"{len(names)}: {', '.join(sorted(set(names)))}"
    if torch.version is not None and torch.gpus < len(names):
        remedy = (
            "install the torch build for your CUDA driver, see pytorch.org/get-started"
            if not torch.cuda
            else ("check CUDA_VISIBLE_DEVICES and that the driver is new enough for torch's CUDA")
        )
        return Finding("GPUs", "warning", f"{found}; torch can use {torch.gpus}", remedy)
    if len(names) > 1 and torch.version is not None and torch.nccl is None:
        return Finding("GPUs", "blocker", f"{found}; torch has no NCCL", "install torch's CUDA build for Linux")
    return Finding("GPUs", "ok", f"{found}{f', NCCL {torch.nccl}' if torch.nccl else ''}")


def _graded(is_poor: bool, found: str, remedy: str) -> tuple[Status, str, str]:
    return ("warning", found, remedy) if is_poor else ("ok", found, "")
