"""Small checkpoints, made without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.checkpoint import KINDS, Fragment, Progress, write_fragments, write_manifest

SHAPES: dict[str, tuple[int, ...]] = {"body.weight": (5, 7), "body.bias": (7,), "scale": ()}


def tensors() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {name: {kind: torch.randn(shape, generator=generator) for kind in KINDS} for name, shape in SHAPES.items()}


def write(folder: Path, ranks: Sequence[Sequence[tuple[str, int, int]]], *, progress: Progress | None = None) -> Path:
    """Write a checkpoint; each rank owns (name, start, end) stretches."""
    held = tensors()
    files: dict[str, Any] = {}
    for rank, stretches in enumerate(ranks):
        fragments = [
            Fragment(name, start, {kind: tensor.reshape(-1)[start:end] for kind, tensor in held[name].items()})
            for name, start, end in stretches
        ]
        files |= write_fragments(folder, rank, fragments)
    write_manifest(folder, progress or Progress(4, 3, ((2, 0.5),)), files, SHAPES, {"engine": "test"})
    return folder


def whole() -> list[list[tuple[str, int, int]]]:
    return [[("body.weight", 0, 35), ("scale", 0, 1)], [("body.bias", 0, 7)]]
