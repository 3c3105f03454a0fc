"""The profile of labelled rows, for the bundle: what serving compares its requests with. The counting; what a profile is stands in
``foundation/profile.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from corpus.labels import LabelArray, LabelledSplit, class_counts
from corpus.order import order
from foundation.profile import Profile, profile, word_key

Encode = Callable[[list[str], list[str] | None], Sequence[Sequence[int]]]
"""Token ids of each text (or pair of texts), as the model reads them."""

_ROWS = 20_000
_BATCH = 10_000
_NUMBER_BINS = 10


def profile_of(rows: LabelledSplit, names: Sequence[str], encode: Encode | None) -> Profile:
    """Profile training rows. Of more than 20,000 rows lengths and words are counted on a fixed sample; labels on all of them.

    Args:
        rows: The rows.
        names: Class names; empty for numbers.
        encode: The model's own tokenisation; None counts words between white space, in lower case.
    """
    chosen = np.arange(len(rows))
    if len(rows) > _ROWS:
        chosen = np.sort(order(0, 0, len(rows), part="profile")(np.arange(_ROWS)))
    lengths: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    words: Counter[str] = Counter()
    for start in range(0, len(chosen), _BATCH):
        part = rows.take(chosen[start : start + _BATCH])
        if encode is not None:
            encoded = [np.asarray(ids, dtype=np.int64) for ids in encode(part.texts, part.pairs)]
            lengths.update(map(len, encoded))
            found, counts = np.unique(np.concatenate(encoded), return_counts=True)
            tokens.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        else:
            for number, text in enumerate(part.texts):
                split = (text if part.pairs is None else f"{text} {part.pairs[number]}").lower().split()
                lengths[len(split)] += 1
                words.update(split)
    keys = tokens if encode is not None else {word_key(word): count for word, count in words.items()}
    edges = number_edges(rows.labels)
    return profile("words" if encode is None else "tokens", lengths, keys, label_mix(rows.labels, names, edges), edges)


def label_mix(labels: LabelArray, names: Sequence[str], edges: Sequence[float] = ()) -> dict[str, int]:
    """Rows of each class, or of each bin of numbers."""
    if labels.dtype == np.float64:
        counts = np.bincount(np.searchsorted(np.asarray(edges), labels, side="right"), minlength=len(edges) + 1)
        return {str(number): int(count) for number, count in enumerate(counts)}
    return dict(zip(names, class_counts(labels, len(names)).tolist(), strict=True))


def number_edges(labels: LabelArray) -> tuple[float, ...]:
    """Tenths of the numbers, repeated borders left out; nothing for classes."""
    if labels.dtype != np.float64 or not len(labels):
        return ()
    borders: npt.NDArray[np.float64] = np.unique(np.quantile(labels, np.linspace(0, 1, _NUMBER_BINS + 1)[1:-1]))
    return tuple(borders.tolist())
