"""Attention within documents that lie one behind the other in a single row of N tokens, without padding between them.

transformers' bidirectional masks never look at position ids, so such a row would attend across documents without any error. Models built
here therefore use an attention function of ours, registered under ``ATTENTION``; it is told the documents by a ``Layout``, which a model
passes on to each layer. Without one it is transformers' own SDPA. Knows no model family and no task.

Shapes: N tokens, D documents, H heads, W width of a head, B rows and T tokens of the folded form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention

from encoder.config import AttentionKind

ATTENTION = "raybert"


@dataclass(frozen=True)
class Fold:
    """Documents folded into B rows of T tokens, each row whole documents."""

    places_N: torch.Tensor
    """Where each token goes in the flattened (B·T)."""
    sources_BT: torch.Tensor
    """Which token stands at each place, flattened; 0 at places that hold none."""
    document_BT: torch.Tensor
    """(B, T) number of the document at each place; -1 where there is none."""
    offset_BT: torch.Tensor
    """(B, T) position within the document; counts on where there is none."""


@dataclass(frozen=True)
class Layout:
    """How documents lie in a row of N tokens, and how attention keeps them apart."""

    kind: AttentionKind
    lengths: tuple[int, ...]
    """Tokens of each document, in their order; ascending, so that equal ones are neighbours."""
    ends: torch.Tensor
    """(D + 1,) int32, 0 and the end of each document."""
    fold: Fold | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return self.lengths[-1]

    def runs(self) -> list[tuple[int, int]]:
        """(documents, tokens of each) for each run of equally long documents."""
        sizes, counts = np.unique(self.lengths, return_counts=True)
        return list(zip(counts.tolist(), sizes.tolist(), strict=True))

    def to(self, device: torch.device, non_blocking: bool = False) -> Layout:
        """The layout with its tensors on ``device``."""
        fold = self.fold
        if fold is not None:
            fold = Fold(*(tensor.to(device, non_blocking=non_blocking) for tensor in vars(fold).values()))
        return replace(self, ends=self.ends.to(device, non_blocking=non_blocking), fold=fold)


def layout(lengths: Sequence[int], kind: AttentionKind) -> Layout:
    """The layout of documents of these lengths, one behind the other.

    Raises:
        ValueError: The lengths do not ascend.
    """
    sizes_D = np.asarray(lengths, dtype=np.int64)
    if (np.diff(sizes_D) < 0).any():
        raise ValueError("documents must be in the order of their lengths")
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes_D)]).astype(np.int32))
    fold = _fold(sizes_D) if kind in ("block", "padded") else None
    return Layout(kind, tuple(sizes_D.tolist()), ends, _one_a_row(sizes_D) if kind == "padded" else fold)


def register() -> None:
    """Tell transformers of ``ATTENTION``; models then take it as ``attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


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
        query: Of all tokens, as key and value.
        key: As query.
        value: As query.
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
    ways = {"runs": _by_runs, "block": _by_block, "varlen": _by_varlen}
    return ways[layout.kind](states, layout, window, dropout, scaling).unsqueeze(0), None


def _by_runs(states: list[torch.Tensor], layout: Layout, window: int | None, dropout: float, scaling: float | None) -> torch.Tensor:
    runs = layout.runs()
    tokens = [count * size for count, size in runs]
    parts = zip(*(torch.split(state, tokens) for state in states), strict=True)
    outputs = []
    for (count, size), part in zip(runs, parts, strict=True):
        query, key, value = (state.reshape(count, size, *state.shape[1:]).transpose(1, 2) for state in part)
        mask = None
        if window is not None and window < size:
            place = torch.arange(size, device=query.device)
            mask = (place[:, None] - place[None, :]).abs() < window
        output = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
        outputs.append(output.transpose(1, 2).reshape(count * size, *part[0].shape[1:]))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _by_block(states: list[torch.Tensor], layout: Layout, window: int | None, dropout: float, scaling: float | None) -> torch.Tensor:
    fold = layout.fold
    assert fold is not None
    shape = fold.document_BT.shape
    query, key, value = (state.index_select(0, fold.sources_BT).view(*shape, *state.shape[1:]).transpose(1, 2) for state in states)
    mask = fold.document_BT[:, :, None] == fold.document_BT[:, None, :]
    if window is not None:
        mask = mask & ((fold.offset_BT[:, :, None] - fold.offset_BT[:, None, :]).abs() < window)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask.unsqueeze(1), dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).flatten(0, 1).index_select(0, fold.places_N)


def _by_varlen(states: list[torch.Tensor], layout: Layout, window: int | None, dropout: float, scaling: float | None) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise ValueError("variable-length attention has no dropout; the recipe's plan refuses it")
    reach = (-1, -1) if window is None else (window - 1, window - 1)
    query, key, value = states
    longest = layout.longest
    found = varlen_attn(query, key, value, layout.ends, layout.ends, longest, longest, scale=scaling, window_size=reach)
    return found if isinstance(found, torch.Tensor) else found[0]


def _fold(sizes_D: npt.NDArray[np.int64]) -> Fold:
    """Documents, longest first, each into the first row that has room."""
    width = int(sizes_D[-1])
    used: list[int] = []
    row_D, column_D = np.zeros_like(sizes_D), np.zeros_like(sizes_D)
    for document in range(len(sizes_D) - 1, -1, -1):
        size = int(sizes_D[document])
        row = next((number for number, filled in enumerate(used) if filled + size <= width), len(used))
        if row == len(used):
            used.append(0)
        row_D[document], column_D[document] = row, used[row]
        used[row] += size
    return _folded(sizes_D, row_D, column_D, len(used), width)


def _one_a_row(sizes_D: npt.NDArray[np.int64]) -> Fold:
    return _folded(sizes_D, np.arange(len(sizes_D)), np.zeros_like(sizes_D), len(sizes_D), int(sizes_D[-1]))


def _folded(sizes_D: npt.NDArray[np.int64], row_D: npt.NDArray[np.int64], column_D: npt.NDArray[np.int64], rows: int, width: int) -> Fold:
    offset_N = positions(sizes_D)
    places_N = np.repeat(row_D * width + column_D, sizes_D) + offset_N
    sources, document, offset = np.zeros(rows * width, np.int64), np.full(rows * width, -1), np.tile(np.arange(width), rows)
    sources[places_N] = np.arange(len(places_N))
    document[places_N] = np.repeat(np.arange(len(sizes_D)), sizes_D)
    offset[places_N] = offset_N
    shaped = (torch.from_numpy(part.astype(np.int64)).reshape(rows, width) for part in (document, offset))
    return Fold(torch.from_numpy(places_N), torch.from_numpy(sources), *shaped)


def positions(sizes_D: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(N,) each token's place in its document."""
    return np.arange(int(sizes_D.sum())) - np.repeat(np.cumsum(sizes_D) - sizes_D, sizes_D)
