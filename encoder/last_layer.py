"""The last layer, computed for the tokens whose hidden states are asked for, and for no others.

What other tokens would come to in it, nobody reads: a classifier reads the first token of each document, a masked-language model the masked
ones. Their queries, outputs and feed-forward parts, ten twelfths of the layer, are left out; keys and values are those of all tokens, so
what is read is the same. Written for the three forms that layers have in BERT's kin, DistilBERT and ModernBERT, out of the layer's own
modules; layers of other forms compute everything. Shapes: N tokens, K asked for, h width, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from encoder.attention import attend
from encoder.first_token import ALIKE, attend_from_first, is_possible
from encoder.layout import Layout

_Forward = Callable[..., Any]


@contextmanager
def asking(model: Any, asked_K: torch.Tensor, layout: Layout) -> Iterator[bool]:
    """While it lasts, the base model's last layer answers (1, K, h) for the tokens at ``asked_K`` only; yields whether it does."""
    layer = last_layer(model.base_model)
    forward = layer is not None and _form(layer)
    # A compiled encoder has its layers' code in it.
    if not forward or layout.kind == "padded" or getattr(model.base_model, "_compiled_call_impl", None) is not None:
        yield False
        return
    layer.forward = partial(forward, layer, asked_K, layout=layout)
    try:
        yield True
    finally:
        del layer.forward  # the class's own again


def last_layer(base: Any) -> Any:
    """The last of the layers that a base model runs one after the other; None where it has no such list."""
    for place in (base, getattr(base, "encoder", None), getattr(base, "transformer", None)):
        for name in ("layer", "layers"):
            layers = getattr(place, name, None)
            if isinstance(layers, torch.nn.ModuleList) and len(layers):
                return layers[-1]
    return None


def compute_alike(model: Any) -> None:
    """From now on, call the last layer's modules in the same order whatever the documents are.

    For engines that communicate in the backward pass. Whether a micro-batch has one token asked for in each document is not the same on
    every rank. Under ZeRO-2 gradients are summed over ranks in the order in which they come: in another order on one rank, those of keys
    are added to those of values. Under ZeRO-3 ranks that call other modules gather other parameters, and wait for each other for ever.
    """
    layer = last_layer(model.base_model)
    for module in () if layer is None else layer.modules():
        setattr(module, ALIKE, True)


def _form(layer: Any) -> _Forward | None:
    attention: Any = getattr(layer, "attention", None)
    # Named one by one: families that normalise before the attention, or add to it, have the same parts and others besides.
    if _parts(attention) == {"self", "output"} and _parts(layer) == {"attention", "intermediate", "output"}:
        return _bert if hasattr(attention.self, "query") and hasattr(attention.self, "scaling") else None
    if hasattr(attention, "q_lin") and hasattr(layer, "sa_layer_norm"):
        return _distilbert
    if hasattr(layer, "attn") and hasattr(layer.attn, "Wqkv") and hasattr(layer, "mlp_norm"):
        return _modernbert
    return None


def _parts(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()} if isinstance(module, torch.nn.Module) else set()


def _bert(layer: Any, asked_K: torch.Tensor, hidden: torch.Tensor, attention_mask: Any = None, *_: Any, layout: Layout, **__: Any) -> Any:
    own, asked = layer.attention.self, hidden.index_select(1, asked_K)
    context = _context(own, (own.query, own.key, own.value), asked, hidden, own.attention_head_size, own.scaling, layout)
    attended = layer.attention.output(context, asked)
    return layer.output(layer.intermediate(attended), attended)


def _distilbert(layer: Any, asked_K: torch.Tensor, hidden_states: torch.Tensor, *_: Any, layout: Layout, **__: Any) -> Any:
    own, asked = layer.attention, hidden_states.index_select(1, asked_K)
    projections = (own.q_lin, own.k_lin, own.v_lin)
    context = _context(own, projections, asked, hidden_states, own.attention_head_size, own.scaling, layout)
    attended = layer.sa_layer_norm(own.out_lin(context) + asked)
    return layer.output_layer_norm(layer.ffn(attended) + attended)


def _context(
    own: Any, projections: tuple[Any, Any, Any], asked: torch.Tensor, hidden: torch.Tensor, width: int, scaling: float, layout: Layout
) -> torch.Tensor:
    """(1, K, h) before the output's projection; ``width`` is that of a head."""
    query, key, value = projections
    dropout = own.dropout.p if own.training else 0.0
    if is_possible(layout, key, value):
        heads = hidden.shape[-1] // width
        first = attend_from_first(query(asked[0]), hidden[0], key, value, layout, heads=heads, dropout=dropout, scaling=scaling)
        return first.unsqueeze(0)
    of_queries, of_keys, of_values = (_heads(state, width) for state in (query(asked), key(hidden), value(hidden)))
    context, _weights = attend(own, of_queries, of_keys, of_values, None, dropout=dropout, scaling=scaling, layout=layout)
    return context.flatten(2)


def _modernbert(
    layer: Any, asked_K: torch.Tensor, hidden_states: torch.Tensor, *_: Any, position_embeddings: Any, layout: Layout, **__: Any
) -> Any:
    from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

    own, asked = layer.attn, hidden_states.index_select(1, asked_K)
    # Queries, keys and values are one matrix, so that there is nothing to spare before the attention.
    query, key, value = (_heads(state, own.head_dim) for state in own.Wqkv(layer.attn_norm(hidden_states)).chunk(3, dim=-1))
    query, key = apply_rotary_pos_emb(query, key, *position_embeddings, unsqueeze_dim=1)
    context, _weights = attend(
        own,
        query.index_select(2, asked_K),
        key,
        value,
        None,
        dropout=own.attention_dropout if own.training else 0.0,
        scaling=own.head_dim**-0.5,
        layout=layout,
        sliding_window=own.sliding_window,
    )
    attended = asked + own.out_drop(own.Wo(context.flatten(2)))
    return attended + layer.mlp(layer.mlp_norm(attended))


def _heads(state: torch.Tensor, width: int) -> torch.Tensor:
    """(1, N, h) to (1, H, N, W)."""
    return state.view(*state.shape[:2], -1, width).transpose(1, 2)
