"""What a worker measures of itself: its peak, its memory, each step's tokens a second and share of peak. The formula is ``flops.py``."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from corpus.masks import LinearShare, share_at
from corpus.order import StepRows
from corpus.shards import PackedRows
from encoder.padding_free import averages
from training.assembly import Assembly, mask_share
from training.config import PretrainConfig, RunConfig
from training.flops import attended_length, dimensions, flops_per_token, share_of_peak
from training.loop import StepReport
from training.workload import packed_lengths, spread

_SIDE = 1024
_TRIES = 5


def measured_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOPs a second of a square matrix product of 1024, the median of five; takes a fraction of a second.

    All workers measure at once, so that workers which share cores share the peak.
    """
    left, right = (torch.ones(_SIDE, _SIDE, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_TRIES + 1):  # the first warms up
        began = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return float(2 * _SIDE**3 / statistics.median(seconds[1:]))


def memory(device: torch.device) -> dict[str, int]:
    """``memory_bytes``: this process's resident set; ``gpu_memory_bytes``: the most that its tensors took of its GPU."""
    found = {"memory_bytes": int(psutil.Process().memory_info().rss)}
    if device.type == "cuda":
        found["gpu_memory_bytes"] = int(torch.cuda.max_memory_allocated(device))
    return found


class Meter:
    """Figures of a step."""

    def __init__(self, recipe: RunConfig, assembly: Assembly, *, device: torch.device, peak: float) -> None:
        """``peak``: FLOPs a second of all workers together."""
        self._device, self._peak = device, peak
        self._size = dimensions(assembly.model.config)
        lengths = document_lengths(recipe, assembly)
        self._attended = attended_length(lengths)
        self._share: float | LinearShare = 0.0
        self._asked: float | LinearShare = 1.0
        if isinstance(recipe, PretrainConfig):
            self._share = self._asked = mask_share(recipe)
        elif not averages(assembly.model):
            self._asked = len(lengths) / sum(lengths)
        if assembly.attention == "padded":
            self._asked = 1.0

    def figures(self, report: StepReport) -> dict[str, float]:
        """``tokens_per_s`` (real tokens of all workers), ``mfu`` and this worker's memory."""
        masked, asked = (share_at(report.step, share) for share in (self._share, self._asked))
        flops = report.tokens * flops_per_token(self._size, attended=self._attended, mask_share=masked, asked_share=asked)
        return {
            "tokens_per_s": report.tokens / report.seconds,
            "mfu": share_of_peak(flops, report.seconds, self._peak),
            **memory(self._device),
        }


def document_lengths(recipe: RunConfig, assembly: Assembly) -> list[int]:
    """Tokens of each document in a sample of the training rows, spread evenly over them."""
    if isinstance(recipe, PretrainConfig):
        return packed_lengths(PackedRows.open(Path(recipe.data), check=False))[1]
    rows = spread(assembly.objective.rows)
    return [int(length) for length in assembly.objective.lengths(StepRows(np.zeros_like(rows), rows))]
