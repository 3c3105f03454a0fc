"""Masking for masked-language-model training, as a pure function of (seed, epoch, row).

Who asks, on which worker, in which attempt, makes no difference. The number of masked tokens follows from the row and the share alone
(``masked_count``, ``predicted_count``), without drawing anything, so a step's total, which divides its loss, is known before anything runs.
Single tokens, whole words or spans are chosen, always by one rule: visit the words in a drawn order and take each, as long as the rest can
still add up to the known number. Knows nothing of models or batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_WORD = 2**64


class Masked(NamedTuple):
    """One row made ready for prediction. T = tokens of the row, K = masked positions."""

    ids: npt.NDArray[np.int32]
    """(T,) token ids with the replacements in place."""
    positions: npt.NDArray[np.int64]
    """(K,) ascending positions to predict."""
    labels: npt.NDArray[np.int32]
    """(K,) the original ids at ``positions``."""


class PaddedMasked(NamedTuple):
    """``Masked`` with a fixed number of predictions, P."""

    ids: npt.NDArray[np.int32]
    """(T,) token ids with the replacements in place."""
    positions: npt.NDArray[np.int64]
    """(P,) positions to predict, then zeros."""
    labels: npt.NDArray[np.int32]
    """(P,) the original ids, then zeros."""
    weights: npt.NDArray[np.float32]
    """(P,) 1 where there is a prediction, then 0: the loss leaves these out."""


@dataclass(frozen=True)
class Spans:
    """Lengths of contiguous spans: geometric, renormalised below ``longest`` (Joshi et al. 2020, "SpanBERT", section 3.1: mean 3.8)."""

    p: float = 0.2
    """Of ending after each word."""
    longest: int = 10
    """Words (tokens, when words are not known)."""

    def __post_init__(self) -> None:
        if not 0 < self.p < 1 or self.longest < 1:
            raise ValueError(f"spans have p = {self.p} and longest = {self.longest}; they need 0 < p < 1 and longest >= 1")


@dataclass(frozen=True)
class Masking:
    """What is chosen, and what becomes of it. The default is Devlin et al. 2019, section 3.1."""

    mask: float = 0.8
    """Share of the chosen that becomes the mask token."""
    random: float = 0.1
    """Share that becomes a random token; what is left stays as it is."""
    spans: Spans | None = None
    """None: single tokens, or whole words. Else contiguous spans; one draw decides what becomes of a whole span."""
    predictions: int | None = None
    """Most predictions in a row, for accelerators that need static shapes (``pad_predictions``). None: no limit."""

    def __post_init__(self) -> None:
        if min(self.mask, self.random) < 0 or self.mask + self.random > 1:
            raise ValueError(f"mask = {self.mask} and random = {self.random}; shares are at least 0 and at most 1 together")
        if self.predictions is not None and self.predictions < 1:
            raise ValueError(f"predictions = {self.predictions}; at least 1 is needed, or None for no limit")


@dataclass(frozen=True)
class LinearShare:
    """A share of masked tokens that falls linearly (Ankner et al. 2023, arXiv:2305.15096: from 30 % to 15 %)."""

    steps: int
    """Steps until ``last`` is reached; it stays there."""
    first: float = 0.30
    last: float = 0.15

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= min(self.first, self.last) <= max(self.first, self.last) <= 1:
            raise ValueError(f"a share from {self.first} to {self.last} in {self.steps} steps; it needs shares from 0 to 1 and a step")


BERT = Masking()


def share_at(step: int, share: float | LinearShare) -> float:
    """The share of maskable tokens to predict at ``step``; a plain number is the same at every step."""
    if isinstance(share, LinearShare):
        return share.first + (share.last - share.first) * min(step, share.steps) / share.steps
    return share


def masked_count(maskable_tokens: int, share: float) -> int:
    """K, the number of tokens predicted in a row with ``maskable_tokens`` candidates: at least one, none when there are none."""
    if maskable_tokens <= 0 or share <= 0:
        return 0
    return min(maskable_tokens, max(1, round(share * maskable_tokens)))


def masked_counts(maskable_tokens: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """``masked_count`` of many rows at once, the same numbers."""
    if share <= 0:
        return np.zeros_like(maskable_tokens)
    found: npt.NDArray[np.int64] = np.minimum(maskable_tokens, np.maximum(1, np.rint(share * maskable_tokens).astype(np.int64)))
    return found


def predicted_count(
    maskable: npt.NDArray[np.bool_], share: float, *, masking: Masking = BERT, continues: npt.NDArray[np.bool_] | None = None
) -> int:
    """K of ``mask_row`` with the same arguments, exactly, without drawing.

    ``masked_count``, but at most ``masking.predictions``. Whole words cannot always add up to that: then the nearest number that they
    can, the smaller of two, and not 0 if there is another.
    """
    return _count(_word_sizes(np.flatnonzero(maskable), continues), share, masking)


def mask_row(
    ids: npt.NDArray[np.int32],
    maskable: npt.NDArray[np.bool_],
    *,
    share: float,
    seed: int,
    epoch: int,
    row: int,
    mask_id: int,
    vocabulary: int,
    masking: Masking = BERT,
    continues: npt.NDArray[np.bool_] | None = None,
    replacements: npt.NDArray[np.int32] | None = None,
) -> Masked:
    """Choose and replace a fixed number of tokens: ``predicted_count``.

    Args:
        ids: (T,) token ids; not changed.
        maskable: (T,) which tokens may be chosen; special tokens must be False.
        share: Share of the maskable tokens to predict.
        seed: Of the masks.
        epoch: The epoch in which the row is visited; in a weighted mix the pass.
        row: The row's number in the data.
        mask_id: Id of the mask token.
        vocabulary: Random replacements are drawn from ``range(vocabulary)``.
        masking: What is chosen and what becomes of it.
        continues: (T,) which tokens continue the word of the token before (``##`` pieces); then words are masked whole. From a table by
            vocabulary id: ``table[ids]``.
        replacements: Ids to draw random replacements from instead, so that none is a special token.
    """
    candidates = np.flatnonzero(maskable)
    sizes = _word_sizes(candidates, continues)
    count, words = _count(sizes, share, masking), len(sizes)
    # With spans, fates and lengths are drawn for each word at which a span could begin.
    fates, lengths = (count, 0) if masking.spans is None else (words, words)
    # Raw counter output, not Generator methods: NumPy promises that these bits never change between versions (NEP 19).
    key = np.array([seed % _WORD, 0], dtype=np.uint64)
    counter = np.array([0, 0, row % _WORD, epoch % _WORD], dtype=np.uint64)
    bits = np.asarray(np.random.Philox(key=key, counter=counter).random_raw(words + fates + count + lengths))
    lots, kinds, swaps, reaches = (bits[a:b] for a, b in pairwise((0, words, words + fates, words + fates + count, len(bits))))
    visits = np.argsort(lots, kind="stable")
    if masking.spans is not None:
        visits, origins = _in_spans(visits, _span_lengths(masking.spans, reaches), _run_ends(candidates, sizes))
    chosen = np.sort(_take(visits, sizes, count))
    if masking.spans is not None:
        kinds = kinds[np.repeat(origins[chosen], sizes[chosen])]
    positions = candidates[chosen if words == len(candidates) else _tokens_of(chosen, sizes)]
    labels = ids[positions]
    fate = (kinds >> np.uint64(11)) * 2.0**-53
    swapped = swaps % np.uint64(vocabulary) if replacements is None else replacements[swaps % np.uint64(len(replacements))]
    replaced = np.where(fate < masking.mask, mask_id, np.where(fate < masking.mask + masking.random, swapped, labels)).astype(np.int32)
    masked = np.array(ids, dtype=np.int32)
    masked[positions] = replaced
    return Masked(masked, positions, labels.astype(np.int32, copy=False))


def pad_predictions(masked: Masked, predictions: int) -> PaddedMasked:
    """Pad to ``predictions`` entries that all rows have, whatever they hold (Devlin et al.'s ``max_predictions_per_seq``).

    Raises:
        ValueError: The row has more; give ``mask_row`` the same number as ``Masking.predictions``.
    """
    found = len(masked.positions)
    if found > predictions:
        raise ValueError(f"the row has {found} predictions, room is for {predictions}; mask it with Masking(predictions={predictions})")
    room = (0, predictions - found)
    weights = np.pad(np.ones(found, dtype=np.float32), room)
    return PaddedMasked(masked.ids, np.pad(masked.positions, room), np.pad(masked.labels, room), weights)


def _word_sizes(candidates: npt.NDArray[np.int64], continues: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
    """Tokens of each word, a word being candidates that are chosen together; all 1 when words are not known."""
    if continues is None:
        return np.ones(len(candidates), dtype=np.int64)
    begins = np.flatnonzero(~(continues[candidates] & (np.diff(candidates, prepend=-2) == 1)))
    return np.diff(begins, append=len(candidates))


def _tokens_of(chosen: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of the candidates that the ``chosen`` words are made of, ascending."""
    is_chosen = np.zeros(len(sizes), dtype=np.bool_)
    is_chosen[chosen] = True
    return np.flatnonzero(np.repeat(is_chosen, sizes))


def _count(sizes: npt.NDArray[np.int64], share: float, masking: Masking) -> int:
    total = int(sizes.sum())
    most = total if masking.predictions is None else min(total, masking.predictions)
    wanted = min(masked_count(total, share), most)
    if wanted == 0 or total == len(sizes):
        return wanted
    # Some sum lies within the longest word of any number up to the total.
    sums = _sums(sizes.tolist(), wanted + int(sizes.max()))[0]
    near = [count for count in range(1, most + 1) if sums >> count & 1]
    return min(near, key=lambda count: (abs(count - wanted), count), default=0)


def _sums(sizes: list[int], most: int) -> list[int]:
    """For each place in ``sizes`` and one past it, a bit set of what the sizes from there on can add up to, 0 to ``most``."""
    room = (1 << most + 1) - 1
    found = [1]
    for size in reversed(sizes):
        rest = found[-1]
        # Once all sums can be reached they stay so.
        found.append(rest if rest == room else (rest | rest << size) & room)
    return found[::-1]


def _take(visits: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """The words to mask: in the order of ``visits``, each unless the words after it could then no longer fill ``count`` exactly."""
    if sizes.sum() == len(sizes):
        return visits[:count]
    in_order = sizes[visits].tolist()
    sums = _sums(in_order, count)
    taken, left = [], count
    for place, size in enumerate(in_order):
        if left == 0:
            break
        if size <= left and sums[place + 1] >> (left - size) & 1:
            taken.append(place)
            left -= size
    return visits[taken]


def _span_lengths(spans: Spans, bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    # Products rather than powers and logarithms: these round the same everywhere.
    bounds = np.cumsum(spans.p * np.cumprod(np.append(1.0, np.full(spans.longest - 1, 1 - spans.p))))
    found: npt.NDArray[np.int64] = 1 + np.searchsorted(bounds[:-1], (bits >> np.uint64(11)) * 2.0**-53 * bounds[-1], side="right")
    return found


def _run_ends(candidates: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each word, the first later one with something unmaskable before it, or one past the last: no span goes on there."""
    begins = np.cumsum(sizes) - sizes
    is_first = (np.diff(candidates, prepend=-2) != 1)[begins]
    ends: npt.NDArray[np.int64] = np.append(np.flatnonzero(is_first), len(sizes))
    return np.take(ends, np.cumsum(is_first))


def _in_spans(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The order in which spans visit the words, and for each word the one that began its span.

    Spans begin at ``starts`` in turn, unless the word has been visited. A span of ``lengths[start]`` words ends early before
    ``ends[start]`` and before a visited word; two spans may touch.
    """
    visits: list[int] = []
    origins = [-1] * len(starts)
    limits = np.minimum(np.arange(len(starts)) + lengths, ends).tolist()
    for start in starts.tolist():
        for word in range(start, limits[start]):
            if origins[word] >= 0:
                break
            origins[word] = start
            visits.append(word)
    return np.array(visits, dtype=np.int64), np.array(origins, dtype=np.int64)
