"""Reads the real ``Hardware`` of this process or of a whole gang, for ``hardware.py`` to decide by. Imports torch for GPUs only."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from training.config import RunConfig
from training.hardware import Hardware, weakest

_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def probe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Hardware:
    """This machine without its GPUs. Where there is no ``cpuinfo`` (not Linux), bf16 counts as emulated."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.partition(":")[2].split()}
    return Hardware(cores=os.cpu_count() or 1, has_native_bf16=bool(flags & _NATIVE_BF16))


def probe_gpu(device: Any) -> Hardware:
    """This machine with the one GPU ``device`` of this process."""
    import torch

    found, cpu = torch.cuda.get_device_properties(device), probe_cpu()
    return Hardware(
        gpus_per_node=1,
        gpu=found.name,
        capability=(found.major, found.minor),
        gpu_bytes=found.total_memory,
        has_varlen=_has_varlen(),
        has_native_bf16=cpu.has_native_bf16,
        cores=cpu.cores,
        interconnect=_interconnect(),
    )


def probe_gang(device: Any) -> Hardware:
    """What all workers of this process's gang can do, the same on every rank; collective when there is a process group.

    Args:
        device: This worker's torch device.
    """
    import torch

    from training.ranks import gathered

    mine = (platform.node(), probe_cpu() if device.type == "cpu" else probe_gpu(device))
    return gang(gathered(mine, torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1))


def gang(workers: list[tuple[str, Hardware]]) -> Hardware:
    """One ``Hardware`` of (node, its worker's) pairs."""
    on_node = Counter(node for node, worker in workers if worker.has_gpus)
    found = weakest([worker for _, worker in workers], nodes=len({node for node, _ in workers}))
    return Hardware(**{**vars(found), "gpus_per_node": max(on_node.values(), default=0)})


def probe_plan(recipe: RunConfig) -> Hardware | None:
    """The hardware a plan can count on: this machine's CPU, or this machine's first GPU as the workers'; None when only they will know."""
    workers = recipe.workers
    if workers.gpus_each <= 0:
        return probe_cpu()
    import torch

    here = torch.cuda.device_count()
    if not here:
        return None
    gpus = max(1, round(workers.most * workers.gpus_each))
    found = probe_gpu(torch.device("cuda", 0))
    return Hardware(**{**vars(found), "nodes": -(-gpus // here), "gpus_per_node": min(gpus, here)})


def _has_varlen() -> bool:
    import torch

    if importlib.util.find_spec("flash_attn") is not None:
        return True
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None and torch.backends.cuda.is_flash_attention_available()


def _interconnect() -> Literal["nvlink", "none"]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "none"
    try:
        told = subprocess.run([program, "nvlink", "--status"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return "nvlink" if "GB/s" in told else "none"
