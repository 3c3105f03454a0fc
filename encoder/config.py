"""What recipes say of encoders: how attention is computed, and the shape of a new one. Read without torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from foundation.config import Config

AttentionKind = Literal["runs", "varlen", "block", "padded"]
"""``runs``: documents of like length computed together (CPUs). ``varlen``: PyTorch's variable-length
FlashAttention (GPUs from capability 8.0 on, 16 bit, no dropout). ``block``: documents folded into rows of the longest one's length, SDPA
with a block mask (other GPUs). ``padded``: a row for each document, padded, as every model of transformers takes it."""

_HEAD_WIDTH = 64  # of BERT, RoBERTa, DistilBERT and ModernBERT in every published size


class NewModelConfig(Config):
    """An encoder from scratch, in one of the families whose parts are known well enough to be sized by a recipe."""

    family: Literal["bert", "roberta", "distilbert", "modernbert"] = "bert"
    """Its architecture, as transformers names it."""
    layers: int = Field(4, ge=1)
    hidden: int = Field(256, ge=8)
    """Width of the hidden states."""
    heads: int | None = Field(None, ge=1)
    """Attention heads; null has one for each 64 of `hidden`."""
    intermediate: int | None = Field(None, ge=1)
    """Width of the feed-forward part; null is 4 × `hidden`, or the width with as many weights where it is gated."""
    positions: int = Field(512, ge=8)
    """Longest document, in tokens."""
    output_bias: Literal["token_frequencies", "zeros"] = "token_frequencies"
    """What it answers before training: how often each token occurs in the data, which it need not learn then, or all tokens alike."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % self.attention_heads:
            raise ValueError(f"hidden is {self.hidden}, which {self.attention_heads} heads do not divide; give heads")
        return self

    @property
    def attention_heads(self) -> int:
        """Heads, counted or given."""
        return self.heads or max(1, self.hidden // _HEAD_WIDTH)

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward part, counted or given."""
        if self.intermediate:
            return self.intermediate
        return 4 * self.hidden if self.family != "modernbert" else max(8, round(8 * self.hidden / 3 / 8) * 8)

    def parameters(self, vocabulary: int) -> int:
        """About how many parameters it has: embeddings, layers and the head's transform; biases and norms left out."""
        matrices = 4 * self.hidden**2 + (3 if self.family == "modernbert" else 2) * self.hidden * self.feed_forward
        positions = 0 if self.family == "modernbert" else self.positions
        return self.hidden * (vocabulary + positions) + self.layers * matrices + self.hidden**2
