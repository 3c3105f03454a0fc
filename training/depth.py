"""How deep in an encoder a parameter lies, told from its name alone: for learning rates by layer and for freezing. No torch.

Depth 0 is the embeddings, 1 to L the layers from the bottom; what the encoder has above its layers (a final normalisation) counts as
layer L; L + 1 is the head, poolers included, because few checkpoints hold a trained one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from foundation.errors import ConfigError

Freeze = Literal["none", "embeddings", "encoder"] | int

# BERT, RoBERTa: encoder.layer.3.; DistilBERT: transformer.layer.3.; ModernBERT: layers.3.
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
# Also ELECTRA's embeddings_project.
_EMBEDDINGS = re.compile(r"(?:^|\.)embeddings(?:_\w+)?\.")
_ABOVE = re.compile(r"(?:^|\.)final_(?:layer_)?norm\.")


def count_layers(names: Iterable[str]) -> int:
    """Layers of the encoder whose parameters have these names; 0 when none is recognised."""
    found = [int(match[1]) for name in names if (match := _LAYER.search(name))]
    return max(found, default=-1) + 1


def depth_of(name: str, layers: int) -> int:
    """Depth of one parameter of an encoder of ``layers`` layers: 0 to ``layers + 1``."""
    if match := _LAYER.search(name):
        return int(match[1]) + 1
    if _EMBEDDINGS.search(name):
        return 0
    return layers if _ABOVE.search(name) else layers + 1


def multiplier(depth: int, layers: int, layer_decay: float) -> float:
    """Learning rate at a depth as a share of the schedule's: 1 for the head, ``layer_decay`` for the top layer, and so on down."""
    return float(layer_decay ** (layers + 1 - depth))


def check_layers(layers: int, layer_decay: float) -> None:
    """Refuse learning rates by layer where no layers are recognised.

    Raises:
        ConfigError: Says so.
    """
    if layer_decay < 1 and not layers:
        raise ConfigError(f"optimiser.layer_decay is {layer_decay}, but no layers are recognised in the encoder's parameter names; use 1")


def shares_by_depth(layers: int, layer_decay: float, freeze: Freeze) -> dict[str, float]:
    """For people: each depth's learning rate as a share of the schedule's, from the embeddings up; 0 where nothing learns.

    Raises:
        ConfigError: As ``check_layers`` and ``frozen_depths``.
    """
    check_layers(layers, layer_decay)
    frozen = frozen_depths(freeze, layers)
    names = ["embeddings", *(f"layer {number}" for number in range(1, layers + 1)), "head"]
    return {name: 0.0 if depth in frozen else multiplier(depth, layers, layer_decay) for depth, name in enumerate(names)}


def frozen_depths(freeze: Freeze, layers: int) -> range:
    """The depths that do not learn.

    Raises:
        ConfigError: More layers are to be frozen than there are, or no layers are recognised.
    """
    if freeze == "none":
        return range(0)
    if layers == 0:
        raise ConfigError(f"freeze: {freeze}, but no layers are recognised in the encoder's parameter names; use freeze=none")
    if isinstance(freeze, int):
        if freeze > layers:
            raise ConfigError(f"freeze: {freeze}, but the encoder has {layers} layers; give at most {layers}, or freeze=encoder")
        return range(freeze + 1)
    return range(1) if freeze == "embeddings" else range(layers + 1)
