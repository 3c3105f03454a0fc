"""An all-gather among CPUs that writes each part where it belongs.

torch's own for gloo receives into a new tensor and copies from that. Parts of 56 MB on two processes of this kind of machine take a quarter
of its time when each rank broadcasts its part in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed


class Works:
    """Several asynchronous operations, waited for as one."""

    def __init__(self, works: Sequence[Any]) -> None:
        self._works = works

    def wait(self) -> None:
        """Until all are done.

        Raises:
            RuntimeError: A rank is gone.
        """
        for work in self._works:
            work.wait()


def gather_in_place(output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any = None, async_op: bool = False) -> Works | None:
    """What ``torch.distributed.all_gather_single`` does, with its arguments.

    Args:
        output_tensor: As many elements as all ranks' inputs, which come in the order of ranks; contiguous.
        input_tensor: This rank's part; the same number of elements on each rank. It may be a view of where it belongs.
        group: Of processes; all of them by default.
        async_op: Return at once, with something to wait for.
    """
    parts = output_tensor.view(-1).chunk(distributed.get_world_size(group))
    own = parts[distributed.get_rank(group)]
    if own.data_ptr() != input_tensor.data_ptr():
        own.copy_(input_tensor.reshape(-1))
    works = Works([distributed.broadcast(part, group=group, group_src=rank, async_op=True) for rank, part in enumerate(parts)])
    if async_op:
        return works
    works.wait()
    return None
