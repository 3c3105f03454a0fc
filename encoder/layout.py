"""How documents lie one behind the other in a row of N tokens, as attention needs it: pure index arithmetic, made beside the engine.

Shapes: N tokens, K of them asked for, D documents; B rows of a fold, T tokens and Q asked ones in each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from encoder.config import AttentionKind

Numbers = npt.NDArray[np.int64]
T = TypeVar("T")

_CALL = 2000.0
"""What one run costs beyond its documents, forward and backward, in squared tokens of a document: about 0.2 ms, where a document of 27
tokens and width 384 takes 0.07 (two CPU cores). Between half and twice as much, speed is the same."""


_MOST_PADDING = 4
"""Times as many places as tokens, up to which documents may lie a row each for the sake of one token of theirs."""


class _Movable:
    """Frozen data with tensors in it."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Any:
        """The same on ``device``."""
        given = [item.name for item in fields(self) if item.init]  # type: ignore[arg-type]
        return replace(self, **{name: _moved(getattr(self, name), device, non_blocking) for name in given})  # type: ignore[type-var]


@dataclass(frozen=True)
class Fold(_Movable):
    """Tokens of documents folded into B rows of T places, each row whole documents."""

    places_N: torch.Tensor
    """Where each token goes in the flattened (B·T)."""
    sources_BT: torch.Tensor
    """Which token stands at each place, flattened; 0 at places that hold none."""
    document_BT: torch.Tensor
    """(B, T) number of the document at each place; -1 where there is none."""
    offset_BT: torch.Tensor
    """(B, T) position within the document; 0 where there is none."""


@dataclass(frozen=True)
class Run(_Movable):
    """Documents computed together, in rows of a fold."""

    tokens: int
    """Of all of them."""
    rows: int
    longest: int
    """Tokens in a row."""
    fold: Fold | None
    """None where every row is one document of the same length, so that there is nothing to fold."""
    is_shared: bool = False
    """Rows hold more than one document."""
    asked: int = 0
    """Tokens that are asked for."""
    asked_fold: Fold | None = None
    """They, in the same rows; None without any."""


@dataclass(frozen=True)
class Layout(_Movable):
    """Documents in a row of N tokens, and how attention keeps them apart."""

    kind: AttentionKind
    lengths: tuple[int, ...]
    """Tokens of each document, in their order; ascending, so that documents of like length are neighbours."""
    ends: torch.Tensor
    """(D + 1,) int32, 0 and the end of each document."""
    runs: tuple[Run, ...]
    """All documents in one run that folds them together for ``block``, in one with a row each for ``padded``; none for ``varlen``."""
    asked_ends: torch.Tensor | None = None
    """(D + 1,) int32, tokens asked for before the end of each document; None until ``asking``."""
    most_asked: int = 0
    """In one document."""
    alone: Fold | None = None
    """A row for each document, where one token of each is asked for, and lengths do not differ too much for that."""
    _memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return self.lengths[-1]

    @property
    def fold(self) -> Fold:
        """The one fold of ``block`` and ``padded``."""
        fold = self.runs[0].fold
        assert fold is not None
        return fold

    def once(self, name: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What the first layer works out of the layout, for those after it; ``name`` says everything that it follows from."""
        if name not in self._memo:
            self._memo[name] = make()
        found: T = self._memo[name]
        return found

    def asking(self, asked_K: Numbers) -> Layout:
        """With the layout of those tokens whose last hidden states are asked for: places among the N, ascending."""
        sizes_D = np.asarray(self.lengths)
        ends_D = np.cumsum(sizes_D)
        document_K = np.searchsorted(ends_D, asked_K, side="right")
        offset_K = asked_K - (ends_D - sizes_D)[document_K]
        counts_D = np.bincount(document_K, minlength=len(sizes_D))
        runs, before, first = [], 0, 0
        for run in self.runs:
            end = int(np.searchsorted(asked_K, before + run.tokens))
            runs.append(_asking(run, document_K[first:end], offset_K[first:end], asked_K[first:end] - before))
            before, first = before + run.tokens, end
        ends = torch.from_numpy(np.concatenate([[0], np.cumsum(counts_D)]).astype(np.int32))
        fits = len(sizes_D) * self.longest <= _MOST_PADDING * int(sizes_D.sum())
        alone = _one_a_row(sizes_D, 0, always=True).fold if fits and (counts_D == 1).all() else None
        return replace(self, runs=tuple(runs), asked_ends=ends, most_asked=int(counts_D.max()), alone=alone)


def layout(lengths: Sequence[int], kind: AttentionKind) -> Layout:
    """The layout of documents of these lengths, one behind the other.

    Raises:
        ValueError: The lengths do not ascend.
    """
    sizes_D = np.asarray(lengths, dtype=np.int64)
    if (np.diff(sizes_D) < 0).any():
        raise ValueError("documents must be in the order of their lengths")
    match kind:
        case "runs":
            cuts = divided(sizes_D)
            runs = [_one_a_row(sizes_D[start:end], start) for start, end in pairwise(cuts)]
        case "block":
            runs = [_together(sizes_D)]
        case "padded":
            runs = [_one_a_row(sizes_D, 0, always=True)]
        case "varlen":
            runs = []
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes_D)]).astype(np.int32))
    return Layout(kind, tuple(sizes_D.tolist()), ends, tuple(runs))


def positions(sizes_D: Numbers) -> Numbers:
    """(N,) each token's place in its document."""
    return np.arange(int(sizes_D.sum())) - np.repeat(np.cumsum(sizes_D) - sizes_D, sizes_D)


def divided(sizes_D: Numbers) -> list[int]:
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


def _one_a_row(sizes_D: Numbers, first: int, *, always: bool = False) -> Run:
    """A row for each document; ``first`` is the number of the first one."""
    width = int(sizes_D[-1])
    fold = None
    if always or sizes_D[0] != width:
        numbers = np.arange(len(sizes_D))
        fold = _folded(np.repeat(numbers, sizes_D) * width + positions(sizes_D), first + numbers, sizes_D, len(sizes_D), width)
    return Run(int(sizes_D.sum()), len(sizes_D), width, fold)


def _together(sizes_D: Numbers) -> Run:
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
    places_N = np.repeat(row_D * width + column_D, sizes_D) + positions(sizes_D)
    fold = _folded(places_N, np.arange(len(sizes_D)), sizes_D, len(used), width)
    return Run(int(sizes_D.sum()), len(used), width, fold, is_shared=True)


def _folded(places_N: Numbers, numbers_D: Numbers, sizes_D: Numbers, rows: int, width: int) -> Fold:
    return _fold(places_N, np.repeat(numbers_D, sizes_D), positions(sizes_D), rows, width)


def _fold(places_N: Numbers, document_N: Numbers, offset_N: Numbers, rows: int, width: int) -> Fold:
    """Tokens at these places of B rows, with the documents that they are of and their positions in them."""
    sources, document, offset = np.zeros(rows * width, np.int64), np.full(rows * width, -1), np.zeros(rows * width, np.int64)
    sources[places_N] = np.arange(len(places_N))
    document[places_N] = document_N
    offset[places_N] = offset_N
    shaped = (torch.from_numpy(part.astype(np.int64)).reshape(rows, width) for part in (document, offset))
    return Fold(torch.from_numpy(places_N), torch.from_numpy(sources), *shaped)


def _asking(run: Run, document_K: Numbers, offset_K: Numbers, place_K: Numbers) -> Run:
    """The run with its asked tokens in the rows of their documents."""
    if not len(place_K):
        return replace(run, asked=0, asked_fold=None)
    flat_K = place_K if run.fold is None else run.fold.places_N.numpy()[place_K]
    row_K = flat_K // run.longest
    counts_B = np.bincount(row_K, minlength=run.rows)
    # Tokens of one row need not be neighbours: number them in each row by their order.
    order_K = np.argsort(row_K, kind="stable")
    column_K = np.empty_like(row_K)
    column_K[order_K] = positions(counts_B)
    width = int(counts_B.max())
    fold = _fold(row_K * width + column_K, document_K, offset_K, run.rows, width)
    if run.fold is not None:
        # A place that holds none sees the row's first document: one that sees nothing would be NaN, and its gradient too.
        firsts_B1 = run.fold.document_BT[:, :1]
        fold = replace(fold, document_BT=torch.where(fold.document_BT < 0, firsts_B1, fold.document_BT))
    return replace(run, asked=len(place_K), asked_fold=fold)


def visible(run: Run, asked: Fold | None, window: int | None, device: torch.device) -> torch.Tensor | None:
    """(B, 1, Q, T), or broadcast to it: which tokens an asked one sees; None is all of its row.

    Args:
        run: The documents.
        asked: Folds those that are asked for; ``run.fold`` where that is all of them.
        window: A token sees those fewer than so many positions away; None sees its whole document.
        device: Of the mask.
    """
    whole, mask = run.fold, None
    offset_BT = torch.arange(run.longest, device=device).unsqueeze(0) if whole is None else whole.offset_BT
    if whole is not None:
        document_BQ = (whole if asked is None else asked).document_BT
        is_token_B1T = (whole.document_BT >= 0).unsqueeze(1)
        mask = document_BQ.unsqueeze(2) == whole.document_BT.unsqueeze(1) if run.is_shared else is_token_B1T
    if window is not None and window < run.longest:
        offset_BQ = offset_BT if asked is None else asked.offset_BT
        near = (offset_BQ.unsqueeze(2) - offset_BT.unsqueeze(1)).abs() < window
        mask = near if mask is None else mask & near
    return None if mask is None else mask.unsqueeze(1)


def _moved(value: Any, device: torch.device, non_blocking: bool) -> Any:
    if isinstance(value, (torch.Tensor, _Movable)):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, tuple):
        return tuple(_moved(item, device, non_blocking) for item in value)
    return value
