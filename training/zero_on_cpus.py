"""What ZeRO does among CPUs, without copies of gradients and parameters: its all-gather, and the norm of its gradient.

torch's all-gather for gloo receives into a new tensor and copies from that: 150 ms for parts of 56 MB on two cores; 36 when each
rank broadcasts its part in place. DeepSpeed takes norms of copies in fp64, 95 ms for 14 million elements; in rows it is 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed

_ROW = 1024
"""Elements whose squares are summed in fp32; torch's norm of millions at once is off by as much as 5e-4."""


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


def square_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of squares of a contiguous fp32 tensor, as fp64."""
    flat = tensor.detach().reshape(-1)
    in_rows = flat.numel() - flat.numel() % _ROW
    norms = [torch.linalg.vector_norm(flat[:in_rows].view(-1, _ROW), dim=1), torch.linalg.vector_norm(flat[in_rows:]).reshape(1)]
    return torch.cat(norms).double().square().sum()


def norm_over_ranks(gradients: Iterable[torch.Tensor], *_: object) -> torch.Tensor:
    """What ZeRO's ``get_grad_norm_direct`` says of what each rank has of the gradient; collective.

    Args:
        gradients: This rank's parts.

    Returns:
        The norm of all of it, the same on each rank; -1 where it is not finite.
    """
    parts = [square_sum(one) for one in gradients if not getattr(one, "_zero_padding", False)]
    total = torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)
    distributed.all_reduce(total)
    norm = total.sqrt().float()
    return torch.where(norm.isfinite(), norm, -1.0)
