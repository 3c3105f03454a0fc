"""Tokens to places of a fold and back, each with a gradient that is a gather too.

Shapes: N tokens, P places.
"""

from __future__ import annotations

from typing import Any

import torch


def fold(tokens: torch.Tensor, sources_P: torch.Tensor, places_N: torch.Tensor) -> torch.Tensor:
    """Tokens (N, …) to places (P, …); what stands at places of no token must not count in anything.

    Args:
        tokens: Each goes to one place.
        sources_P: Which token stands at each place.
        places_N: Where each token goes.
    """
    placed: torch.Tensor = _Fold.apply(tokens, sources_P, places_N)  # type: ignore[no-untyped-call]
    return placed


def unfold(places: torch.Tensor, places_N: torch.Tensor) -> torch.Tensor:
    """Places (P, …) to tokens (N, …)."""
    tokens: torch.Tensor = _Unfold.apply(places, places_N)  # type: ignore[no-untyped-call]
    return tokens


class _Fold(torch.autograd.Function):
    """Tokens (N, …) to places (B·T, …). Autograd's own would add up, token by token, what are gradients of 0 where there is none."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, sources_BT: torch.Tensor, places_N: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places_N)
        return tokens.index_select(0, sources_BT)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (places_N,) = ctx.saved_tensors
        return gradients[0].index_select(0, places_N), None, None


class _Unfold(torch.autograd.Function):
    """Places (B·T, …) to tokens (N, …)."""

    @staticmethod
    def forward(ctx: Any, places: torch.Tensor, places_N: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places_N)
        ctx.shape = places.shape
        return places.index_select(0, places_N)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (places_N,) = ctx.saved_tensors
        whole = gradients[0].new_zeros(ctx.shape)
        whole[places_N] = gradients[0]
        return whole, None
