"""Attention of one token in each document, without the keys and values of all the others.

A classifier asks its last layer for the first token of each document only. Its scores are then q·(K x) = (Kᵀ q)·x and its context is
V (Σ p x): two products with a document's one query stand for two with each of its tokens, a sixth of what is left of the layer's
arithmetic, and the results are the same but for rounding. Shapes: N tokens, D documents of at most T, h width, H heads, W width of a head.
"""

from __future__ import annotations

from typing import Any

import torch

from encoder.dropout import dropped
from encoder.gather import fold
from encoder.layout import Layout

ALIKE = "computes_alike"


def is_possible(layout: Layout, *projections: Any) -> bool:
    """Whether one token a document is asked for, and the projections can be taken apart, which ``compute_alike`` forbids."""
    return layout.alone is not None and all(
        type(part) is torch.nn.Linear and part.bias is not None and not hasattr(part, ALIKE) for part in projections
    )


def attend_from_first(
    query_D: torch.Tensor,
    hidden: torch.Tensor,
    key: torch.nn.Linear,
    value: torch.nn.Linear,
    layout: Layout,
    *,
    heads: int,
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    """Contexts (D, h) of the asked tokens.

    Args:
        query_D: (D, h) queries of the asked tokens.
        hidden: (N, h) what keys and values are made of.
        key: h to h.
        value: h to h.
        layout: The documents, one token asked for in each.
        heads: H.
        dropout: Of attention weights.
        scaling: Factor on the scores.
    """
    rows = layout.alone
    assert rows is not None
    is_token_DT = rows.document_BT >= 0
    hidden_DTh = fold(hidden, rows.sources_BT, rows.places_N).view(*is_token_DT.shape, -1)
    key_HWh, value_HWh = (part.weight.view(heads, -1, hidden.shape[-1]) for part in (key, value))
    query_DHW = (query_D * scaling).view(len(query_D), heads, -1)
    # Bias times query is the same for every token of a document, so that weights do not depend on it; its gradient is 0, not missing.
    constant_DH1 = (query_DHW * key.bias.view(heads, -1)).sum(dim=-1, keepdim=True)
    asked_DHh = torch.bmm(query_DHW.transpose(0, 1), key_HWh).transpose(0, 1)
    scores_DHT = torch.bmm(asked_DHh, hidden_DTh.transpose(1, 2)) + constant_DH1
    weights_DHT = dropped(scores_DHT.masked_fill(~is_token_DT.unsqueeze(1), float("-inf")).softmax(dim=-1), dropout)
    mixed_HDh = torch.bmm(weights_DHT.to(hidden_DTh.dtype), hidden_DTh).transpose(0, 1)
    context_HDW = torch.bmm(mixed_HDh, value_HWh.transpose(1, 2)) + weights_DHT.sum(dim=-1).t().unsqueeze(2) * value.bias.view(heads, 1, -1)
    return context_HDW.transpose(0, 1).flatten(1)
