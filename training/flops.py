"""Floating-point operations of a training step by formula, and what share of the machine's peak they are. Pure.

Counted is what the model needs, forward and backward, for real tokens: padding, recomputation, logits and parts of the last layer that
nobody asked for are not work done. Two operations a multiply-add, the backward pass twice the forward pass: 6 per weight and token (Kaplan
et al. 2020, "Scaling Laws for Neural Language Models", section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_PER_WEIGHT = 6
_GATED = {"modernbert"}


@dataclass(frozen=True)
class Dimensions:
    """What the count needs of an encoder."""

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    heads: int = 1
    is_gated: bool = False
    """The feed-forward part has a third matrix, which gates."""
    window: int | None = None
    """Tokens that one token attends to in the layers with local attention."""
    local_layers: int = 0

    @property
    def layer_weights(self) -> int:
        """Weights in one layer's matrices."""
        return 4 * self.hidden**2 + (3 if self.is_gated else 2) * self.hidden * self.intermediate


def dimensions(config: Any) -> Dimensions:
    """The dimensions in a transformers configuration (BERT, RoBERTa, DistilBERT, ModernBERT and their kin)."""
    layers = int(config.num_hidden_layers)
    kinds = getattr(config, "layer_types", None) or ()
    local = sum(kind == "sliding_attention" for kind in kinds)
    return Dimensions(
        hidden=int(config.hidden_size),
        intermediate=int(getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None) or 4 * config.hidden_size),
        layers=layers,
        vocabulary=int(config.vocab_size),
        heads=int(config.num_attention_heads),
        is_gated=getattr(config, "model_type", "") in _GATED,
        window=int(config.local_attention) if local else None,
        local_layers=local,
    )


def flops_per_token(size: Dimensions, *, attended: float, mask_share: float = 0.0, asked_share: float = 1.0) -> float:
    """Operations per real token of one step, forward and backward.

    Args:
        size: The encoder.
        attended: Tokens that a token attends to in the mean (``attended_length``).
        mask_share: Share of tokens whose vocabulary logits are computed; 0 for fine-tuning, whose head is negligible.
        asked_share: Share of tokens whose last hidden state is read; of the others, the last layer needs keys and values only.

    For BERT's shape with all of them read this is 72·L·h² + share·6·(h² + h·V) + 12·L·h·T.
    """
    matrices = size.layer_weights
    head = size.hidden**2 + size.hidden * size.vocabulary
    near = min(attended, size.window) if size.window is not None else attended
    attention = 12 * size.hidden * ((size.layers - size.local_layers) * attended + size.local_layers * near)
    spared = 1 - asked_share
    weights = size.layers * matrices - spared * (matrices - 2 * size.hidden**2) + mask_share * head
    return _PER_WEIGHT * weights + attention * (1 - spared / size.layers)


def attended_length(lengths: Iterable[int]) -> float:
    """Tokens that a token attends to in the mean over all tokens of documents of these lengths; 0 without documents."""
    tokens = pairs = 0
    for length in lengths:
        tokens += length
        pairs += length * length
    return pairs / tokens if tokens else 0.0


def share_of_peak(flops: float, seconds: float, peak: float) -> float:
    """Model FLOPs utilisation (MFU): ``flops`` done in ``seconds``, over ``peak`` FLOPs a second of all workers together."""
    return flops / (seconds * peak) if seconds > 0 and peak > 0 else 0.0
