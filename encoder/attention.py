"""Attention within documents that lie one behind the other in a single row of N tokens, without padding between them.

transformers' bidirectional masks never look at position ids, so such a row would attend across documents without any error. Models built
here therefore use an attention function of ours, registered under ``ATTENTION``; it is told the documents by a ``Layout``
(``layout.py``), which a model passes on to each layer. Without one it is transformers' own SDPA. Knows no model family and no task.

Shapes: N tokens, K of them asked for, H heads, W width of a head; B rows of a fold, T tokens and Q asked ones in each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from encoder.gather import fold, unfold
from encoder.layout import Fold, Layout, Run, visible
from encoder.short_attention import attend_short, is_quicker

ATTENTION = "raybert"


def register() -> None:
    """Tell transformers of ``ATTENTION``; models then take it as ``attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if ATTENTION not in AttentionInterface():
        AttentionInterface.register(ATTENTION, attend)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def keep_out_of_compilation() -> None:
    """Let encoders that are compiled from now on call ``attend`` as it is: every batch has other documents, and code compiled for one
    layout would be compiled again for the next, until torch gives up and runs all without.

    Not a decorator of ``attend``, which would have every process import torch's compiler: a second.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, torch.compiler.disable(attend))  # type: ignore[no-untyped-call]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: (1, H, N, W) each, to (1, N, H, W).

    Args:
        module: The layer.
        query: Of all tokens, or of those that the layout is asked for: (1, H, K, W), to (1, K, H, W).
        key: Of all tokens.
        value: As key.
        attention_mask: For rows without a layout.
        dropout: Of attention weights.
        scaling: Factor on the scores; 1/√W when None.
        layout: The documents; None, or padded ones, are transformers' affair.
        sliding_window: A token sees those fewer than so many positions away, on both sides; None sees its whole document.
        more: What some families pass on besides.
    """
    if layout is None or layout.kind == "padded":
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=False
        )
        return found
    window = sliding_window if sliding_window is not None and sliding_window < layout.longest else None
    # (N, H, W): views, because heads are transposed to the front only in name.
    states = [state.squeeze(0).transpose(0, 1) for state in (query, key, value)]
    by_kind = _by_varlen if layout.kind == "varlen" else _by_runs
    return by_kind(states, layout, window, dropout, scaling).unsqueeze(0), None


def _by_runs(states: list[torch.Tensor], layout: Layout, window: int | None, dropout: float, scaling: float | None) -> torch.Tensor:
    query, key, value = states
    if query.device.type == "cpu" and (dropout or is_quicker(layout)):
        return attend_short(query, key, value, layout, window=window, dropout=dropout, scaling=scaling)
    is_asked = len(query) != len(key)
    asked = [run.asked_fold if is_asked else run.fold for run in layout.runs]

    def masks() -> list[torch.Tensor | None]:
        return [visible(run, how, window, key.device) for run, how in zip(layout.runs, asked, strict=True)]

    seen = layout.once(("visible", is_asked, window), masks)
    queries = torch.split(query, [run.asked if is_asked else run.tokens for run in layout.runs])
    keys, values = (torch.split(state, [run.tokens for run in layout.runs]) for state in (key, value))
    outputs = []
    for run, how, mask, *part in zip(layout.runs, asked, seen, queries, keys, values, strict=True):
        if len(part[0]):
            of_queries, of_keys, of_values = (_rows(state, run, via) for state, via in zip(part, (how, run.fold, run.fold), strict=True))
            output = scaled_dot_product_attention(of_queries, of_keys, of_values, attn_mask=mask, dropout_p=dropout, scale=scaling)
            flat = output.transpose(1, 2).flatten(0, 1)
            outputs.append(flat if how is None else unfold(flat, how.places_N))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _rows(state: torch.Tensor, run: Run, how: Fold | None) -> torch.Tensor:
    """Tokens (N, H, W) to rows (B, H, T, W)."""
    if how is not None:
        state = fold(state, how.sources_BT, how.places_N)
    return state.view(run.rows, -1, *state.shape[1:]).transpose(1, 2)


def _by_varlen(states: list[torch.Tensor], layout: Layout, window: int | None, dropout: float, scaling: float | None) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise ValueError("variable-length attention has no dropout; the recipe's plan refuses it")
    reach = (-1, -1) if window is None else (window - 1, window - 1)
    query, key, value = states
    asked_ends, most = (layout.asked_ends, layout.most_asked) if len(query) != len(key) else (layout.ends, layout.longest)
    assert asked_ends is not None
    found = varlen_attn(query, key, value, asked_ends, layout.ends, most, layout.longest, scale=scaling, window_size=reach)
    return found if isinstance(found, torch.Tensor) else found[0]
