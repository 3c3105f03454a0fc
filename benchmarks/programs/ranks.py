"""A program of several ranks without Ray: it is rank 0, starts the others, and hands each request that it gets to all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.programs.turns import conversation
from cluster.ports import free_port
from training.memory import keep_freed_memory


@contextmanager
def gang(workers: int, threads: int) -> Iterator[tuple[Iterator[dict[str, Any]], Callable[[dict[str, Any]], None]]]:
    """Make the process group; yields the requests, on every rank, and how to answer, which only rank 0 does.

    Args:
        workers: Ranks; the others are this very command.
        threads: Of each.
    """
    rank = int(os.environ.get("RANK", "0"))
    others: list[subprocess.Popen[bytes]] = []
    if rank == 0:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(workers), "DS_ACCELERATOR": "cpu"}
        os.environ |= {"LOCAL_WORLD_SIZE": str(workers)}
        for other in range(1, workers):
            environment = os.environ | {"RANK": str(other), "LOCAL_RANK": str(other)}
            others.append(subprocess.Popen([sys.executable, *sys.argv], env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr))
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0"}
    requests, answer = conversation() if rank == 0 else (iter(()), lambda found: None)
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.distributed.init_process_group("gloo")
    try:
        yield _shared(requests), answer
    except BaseException:
        for process in others:
            process.kill()
        raise
    finally:
        for process in others:
            process.wait()


def _shared(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rank 0's requests, on every rank, until there are no more."""
    while True:
        box = [next(requests, None)]
        torch.distributed.broadcast_object_list(box, src=0)
        if box[0] is None:
            return
        yield box[0]
