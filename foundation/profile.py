"""What data looks like in a few kilobytes: lengths, vocabulary, label mix. Training stores a profile of its rows in the bundle; serving
makes one of what it is asked, with the same functions, and compares.

Standard library and pydantic only. Who counts tokens is elsewhere (``corpus/profiling.py`` for training rows).
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, model_validator

from foundation.errors import DataError

LENGTH_EDGES = (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
"""First length of each bin; the last one has no end. Fixed, so that any two profiles of a unit can be compared."""
BUCKETS = 1024
"""Of the vocabulary sketch."""

_MASK = (1 << 64) - 1
# 2**64 divided by the golden ratio, odd (Knuth, The Art of Computer Programming 3, 6.4: multiplicative hashing).
_GOLDEN = 0x9E3779B97F4A7C15
_BUCKET_BITS = BUCKETS.bit_length() - 1


def _numbers(value: Any) -> Any:
    return tuple(int(part) for part in value.split()) if isinstance(value, str) else value


def _text(value: Sequence[int]) -> str:
    return " ".join(map(str, value))


Counts = Annotated[tuple[int, ...], BeforeValidator(_numbers), PlainSerializer(_text, return_type=str)]
"""Counts, in JSON one text of numbers with spaces between them: a thousand lines would bury the rest of a manifest."""


class Profile(BaseModel):
    """Counts over some rows, each row a text or a pair of texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["tokens", "words"]
    """``tokens``: ids as the model reads them, special tokens counted, cut at max_length. ``words``: between white space, in lower case."""
    rows: int
    """Rows of which lengths and vocabulary were counted."""
    lengths: Counts
    """Rows by length in units, bins as in ``LENGTH_EDGES``."""
    vocabulary: Counts
    """Occurrences by ``bucket_of`` the token id or ``word_key``."""
    labels: dict[str, int]
    """Rows by class; a row with several classes counts for each. Of numbers, rows by bin: ``0`` to ``number_edges``' length."""
    number_edges: tuple[float, ...] = ()
    """Where labels are numbers, the first value of each bin but the lowest."""

    @model_validator(mode="after")
    def _has_its_bins(self) -> Profile:
        if len(self.lengths) != len(LENGTH_EDGES) or len(self.vocabulary) != BUCKETS:
            raise ValueError(f"expected {len(LENGTH_EDGES)} length bins and {BUCKETS} buckets")
        return self


@dataclass(frozen=True)
class Drift:
    """How far two profiles are apart: Jensen-Shannon divergences in bits, 0 for equal shares, 1 for nothing in common.

    Two samples of one source are not at 0: with n and m independent draws over k bins about (k - 1) / (8 ln 2) * (1 / n + 1 / m) is to be
    expected. Tokens of one text are not independent, so the vocabulary of few rows is farther off than their tokens suggest.
    """

    lengths: float
    vocabulary: float
    labels: float | None
    """None when one side has no labels."""


def word_key(word: str) -> int:
    """A 64-bit number for a word, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def bucket_of(key: int) -> int:
    """The bucket of a token id or of a ``word_key``."""
    return ((key * _GOLDEN) & _MASK) >> (64 - _BUCKET_BITS)


def length_bin(length: int) -> int:
    """The bin of a length."""
    return bisect_right(LENGTH_EDGES, length) - 1


def profile(
    unit: Literal["tokens", "words"],
    lengths: Mapping[int, int],
    occurrences: Mapping[int, int],
    labels: Mapping[str, int],
    number_edges: Sequence[float] = (),
) -> Profile:
    """Put counts together.

    Args:
        unit: What was counted.
        lengths: Length to rows.
        occurrences: Token id or ``word_key`` to occurrences.
        labels: Class (or bin of numbers) to rows.
        number_edges: See ``Profile``.
    """
    bins, buckets = [0] * len(LENGTH_EDGES), [0] * BUCKETS
    for length, count in lengths.items():
        bins[length_bin(length)] += count
    for key, count in occurrences.items():
        buckets[bucket_of(key)] += count
    return Profile(
        unit=unit,
        rows=sum(lengths.values()),
        lengths=tuple(bins),
        vocabulary=tuple(buckets),
        labels=dict(labels),
        number_edges=tuple(number_edges),
    )


def compare(first: Profile, second: Profile) -> Drift:
    """How far two profiles are apart, whichever is first.

    Raises:
        DataError: One counts tokens and the other words, their numbers have other bins, or one is of no rows.
    """
    if first.unit != second.unit or first.number_edges != second.number_edges:
        raise DataError(
            f"profiles cannot be compared: one is in {first.unit}, the other in {second.unit}"
            if first.unit != second.unit
            else "profiles cannot be compared: their numbers are in other bins; make the second one with the number_edges of the first"
        )
    if not first.rows or not second.rows:
        raise DataError("profiles cannot be compared: one is of no rows")
    names = sorted(first.labels.keys() | second.labels.keys())
    labels = [[side.labels.get(name, 0) for name in names] for side in (first, second)]
    return Drift(
        lengths=divergence(first.lengths, second.lengths),
        vocabulary=divergence(first.vocabulary, second.vocabulary),
        labels=divergence(*labels) if all(map(any, labels)) else None,
    )


def divergence(first: Sequence[int], second: Sequence[int]) -> float:
    """The Jensen-Shannon divergence of two histograms over the same bins, in bits (Lin, "Divergence measures based on the Shannon entropy",
    IEEE Transactions on Information Theory 37 (1), 1991): 0 to 1, defined where a bin is empty, unlike the population stability index.
    Two empty histograms are equal; an empty and another one have nothing in common."""
    totals = sum(first), sum(second)
    if not all(totals):
        return 0.0 if not any(totals) else 1.0
    found = 0.0
    for a, b in zip(first, second, strict=True):
        p, q = a / totals[0], b / totals[1]
        middle = (p + q) / 2
        found += (p * math.log2(p / middle) if p else 0.0) + (q * math.log2(q / middle) if q else 0.0)
    return min(1.0, max(0.0, found / 2))
