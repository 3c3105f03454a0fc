"""Attention within documents that lie one behind the other in a single row of N tokens, without padding between them.

transformers' bidirectional masks never look at position ids, so such a row would attend across documents without any error. Models built
here therefore use an attention function of ours, registered under ``ATTENTION``; it is told the documents by a ``Layout``, which a model
passes on to each layer. Without one it is transformers' own SDPA. Knows no model family and no task.

Shapes: N tokens, D documents, H heads, W width of a head, B rows and T tokens of the folded form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention

from encoder.config import AttentionKind

ATTENTION = "raybert"
_CALL = 2000.0
"""What one call of SDPA costs, forward and backward, in squared tokens of a document: about 0.3 ms, where a document of 27 tokens and
width 384 takes 0.1 (two CPU cores). Only speed depends on it."""


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

    def to(self, device: torch.device, non_blocking: bool = False) -> Fold:
        """The fold on ``device``."""
        return Fold(*(tensor.to(device, non_blocking=non_blocking) for tensor in vars(self).values()))


@dataclass(frozen=True)
class Run:
    """Neighbouring documents of like length, computed in one call."""

    tokens: int
    """Of all of them."""
    documents: int
    longest: int
    fold: Fold | None
    """One document a row; None where all are equally long and need none."""


@dataclass(frozen=True)
class Layout:
    """How documents lie in a row of N tokens, and how attention keeps them apart."""

    kind: AttentionKind
    lengths: tuple[int, ...]
    """Tokens of each document, in their order; ascending, so that equal ones are neighbours."""
    ends: torch.Tensor
    """(D + 1,) int32, 0 and the end of each document."""
    fold: Fold | None = None
    runs: tuple[Run, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return self.lengths[-1]

    def to(self, device: torch.device, non_blocking: bool = False) -> Layout:
        """The layout with its tensors on ``device``."""
        fold = self.fold and self.fold.to(device, non_blocking)
        runs = tuple(replace(run, fold=run.fold and run.fold.to(device, non_blocking)) for run in self.runs)
        return replace(self, ends=self.ends.to(device, non_blocking=non_blocking), fold=fold, runs=runs)


def layout(lengths: Sequence[int], kind: AttentionKind) -> Layout:
    """The layout of documents of these lengths, one behind the other.

    Raises:
        ValueError: The lengths do not ascend.
    """
    sizes_D = np.asarray(lengths, dtype=np.int64)
    if (np.diff(sizes_D) < 0).any():
        raise ValueError("documents must be in the order of their lengths")
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes_D)]).astype(np.int32))
    lengths = tuple(sizes_D.tolist())
    match kind:
        case "runs":
            return Layout(kind, lengths, ends, runs=tuple(_run(sizes_D[start:end]) for start, end in pairwise(divided(sizes_D))))
        case "block":
            return Layout(kind, lengths, ends, _fold(sizes_D))
        case "padded":
            return Layout(kind, lengths, ends, _one_a_row(sizes_D))
        case "varlen":
            return Layout(kind, lengths, ends)


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
    parts = zip(*(torch.split(state, [run.tokens for run in layout.runs]) for state in states), strict=True)
    outputs = [_by_fold(list(part), run, window, dropout, scaling) for run, part in zip(layout.runs, parts, strict=True)]
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _by_fold(states: list[torch.Tensor], run: Run, window: int | None, dropout: float, scaling: float | None) -> torch.Tensor:
    """A run of documents, each in a row of its own: padded where they are not equally long."""
    shape, mask = (run.documents, run.longest), None
    if run.fold is not None:
        states = [_Fold.apply(state, run.fold.sources_BT, run.fold.places_N) for state in states]  # type: ignore[no-untyped-call]
        mask = (run.fold.document_BT >= 0)[:, None, :]
    if window is not None and window < run.longest:
        place_T = torch.arange(run.longest, device=states[0].device)
        near_TT = (place_T[:, None] - place_T[None, :]).abs() < window
        mask = near_TT if mask is None else mask & near_TT
    output = _attention(states, shape, mask, dropout, scaling)
    return output if run.fold is None else _Unfold.apply(output, run.fold.places_N)  # type: ignore[no-untyped-call]


def _by_block(states: list[torch.Tensor], layout: Layout, window: int | None, dropout: float, scaling: float | None) -> torch.Tensor:
    fold = layout.fold
    assert fold is not None
    rows, width = fold.document_BT.shape
    mask = fold.document_BT[:, :, None] == fold.document_BT[:, None, :]
    if window is not None:
        mask = mask & ((fold.offset_BT[:, :, None] - fold.offset_BT[:, None, :]).abs() < window)
    folded = [_Fold.apply(state, fold.sources_BT, fold.places_N) for state in states]  # type: ignore[no-untyped-call]
    output = _attention(folded, (rows, width), mask, dropout, scaling)
    return _Unfold.apply(output, fold.places_N)  # type: ignore[no-any-return, no-untyped-call]


def _attention(
    states: list[torch.Tensor], shape: tuple[int, int], mask: torch.Tensor | None, dropout: float, scaling: float | None
) -> torch.Tensor:
    """SDPA over B rows of T tokens, flattened (B·T, H, W) before and after; ``mask`` is (B, T or 1, T) or (T, T)."""
    query, key, value = (state.view(*shape, *state.shape[1:]).transpose(1, 2) for state in states)
    if mask is not None and mask.ndim == 3:
        mask = mask.unsqueeze(1)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).flatten(0, 1)


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


def divided(sizes_D: npt.NDArray[np.int64]) -> list[int]:
    """Where documents of ascending lengths are best divided into runs: 0, each run's end, D.

    A run costs a call, ``_CALL`` squared tokens, and its documents as many squared tokens each as the longest of them.
    """
    sizes, firsts, counts = np.unique(sizes_D, return_index=True, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    cost, cut = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, dtype=np.int64)
    for end in range(1, len(sizes) + 1):
        found = cost[:end] + _CALL + (before[end] - before[:end]) * float(sizes[end - 1]) ** 2
        cut[end] = found.argmin()
        cost[end] = found[cut[end]]
    ends, place = [len(sizes_D)], int(cut[len(sizes)])
    while place > 0:
        ends.append(int(firsts[place]))
        place = int(cut[place])
    return [0, *reversed(ends)]


def _run(sizes_D: npt.NDArray[np.int64]) -> Run:
    is_even = sizes_D[0] == sizes_D[-1]
    return Run(int(sizes_D.sum()), len(sizes_D), int(sizes_D[-1]), None if is_even else _one_a_row(sizes_D))


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
