"""Optimiser states on a disk of each node (ZeRO 3): a rank's own folder while a run goes, and how states are brought into memory.

DeepSpeed keeps the sub-groups of its optimiser in files: the tensor that is stepped, what the optimiser keeps of it, its gradient. It reads
one for its step and writes it back; meanwhile, and between steps, the tensors of all others are empty. Sub-groups below a mebibyte stay in
memory.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from foundation.errors import first_line
from training.ranks import gathered


@contextmanager
def own_folder(parent: str | None, run: str, rank: int) -> Iterator[Path | None]:
    """A rank's folder for the length of the block; None where nothing goes to a disk.

    What a killed worker leaves is overwritten by the next attempt's worker of that rank on that node, and removed with it.

    Args:
        parent: The recipe's ``sharding.offload_folder``.
        run: The run's id, which no two runs share.
        rank: Among all workers.
    """
    if parent is None:
        yield None
        return
    folder = Path(parent) / run / f"rank-{rank}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()  # other ranks' folders may be there


def unusable(folder: Path | None, rank: int, world_size: int) -> str | None:
    """What is wrong with the disks, or with the op that reaches them, on any rank's node; collective.

    Args:
        folder: This rank's; None where nothing goes to a disk.
        rank: This one.
        world_size: Of the gang.
    """
    if folder is None:
        return None
    from training.zero import load_disk_op

    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / "probe"
        probe.write_bytes(b"1")
        probe.unlink()
        load_disk_op()
    except (OSError, ImportError, RuntimeError) as error:
        problem = f"rank {rank} on {socket.gethostname()}: {first_line(error)}"
    problems = [told for told in gathered(problem, world_size) if told]
    if not problems:
        return None
    return (
        f"sharding.offload_folder: {folder.parent.parent}: {'; '.join(problems)}; name a folder on a local disk that every node has and "
        "may write to, and install libaio with its headers (libaio-dev) on each"
    )


@contextmanager
def in_memory(zero: Any, stepped: torch.Tensor, *, is_changed: bool = False) -> Iterator[None]:
    """What lies on the disk of a sub-group is in memory within the block, and no view of it is good behind it.

    Args:
        zero: DeepSpeed's ZeRO optimiser.
        stepped: The tensor of the sub-group that its optimiser steps.
        is_changed: Write it back. Only before the first gradient, of which a part would be lost.
    """
    swapper = getattr(zero, "optimizer_swapper", None)
    if swapper is None or stepped.numel():  # too small for the disk
        yield
        return
    swapper.swap_in_optimizer_state(stepped)
    try:
        yield
    finally:
        if is_changed:
            swapper.swap_out_optimizer_state(stepped)
        else:
            swapper.release_swap_buffers(stepped)
        stepped.grad = None
