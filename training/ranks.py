"""What the ranks of a gang tell one another besides gradients; each of these is collective."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, TypeVar

import torch

from training.runs import RUN_FILE

T = TypeVar("T")


def agreed(value: T, world_size: int) -> T:
    """Rank 0's value on every rank."""
    if world_size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: T, world_size: int) -> list[T]:
    """Each rank's value, in the order of ranks."""
    if world_size == 1:
        return [value]
    everyone: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everyone, value)
    return everyone


def out_of_reach(folder: Path, rank: int, world_size: int) -> str | None:
    """What is wrong when a worker does not see the run's folder, which it would find out at the first checkpoint."""
    everyone = gathered({"rank": rank, "host": socket.gethostname(), "sees": (folder / RUN_FILE).is_file()}, world_size)
    told = ", ".join(f"rank {one['rank']} on {one['host']}" for one in everyone if not one["sees"])
    if not told:
        return None
    return (
        f"{folder}: cannot be seen by {told}; all nodes have to share it: point RAYBERT_HOME to a folder on a file system that they all see"
    )
