"""MinHash signatures: a few hundred numbers that tell how much of their word n-grams two documents share, without the documents.

Signatures are made partition by partition; bands and the comparison need signatures only. The signing is ``rensa``'s R-MinHash. Which
documents are then united is ``duplicates.py``; what a word is, ``words.py``. Sources: Broder 1997, "On the resemblance and containment of
documents"; for banding Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.config import NearDuplicateConfig
from corpus.words import Hashes, Words, combine, hash_words, whole, word_runs
from foundation.errors import InputError

Signatures = npt.NDArray[np.uint32]
Verifier = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
"""(P,) and (P,) document numbers → (P,) whether each pair is alike enough to be united."""

# Signatures of other versions of the algorithm are other numbers, which would match nothing and say nothing.
_ALGORITHM = 2
# Signature pairs compared at once: 2 x 16 MB at 256 permutations.
_BLOCK_PAIRS = 2**14


class Banding(NamedTuple):
    """A signature cut into ``bands`` keys of ``rows`` numbers; documents that share one key become a candidate pair."""

    bands: int
    rows: int

    def probability(self, jaccard: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """That documents of this similarity become a candidate pair."""
        return np.asarray(1 - (1 - np.asarray(jaccard, dtype=np.float64) ** self.rows) ** self.bands)


def signatures(texts: Sequence[str], config: NearDuplicateConfig) -> Signatures:
    """Sign texts: the same numbers in any partition, process and order.

    Returns:
        (N, permutations) uint32. The share of equal numbers at equal places estimates the Jaccard similarity of two texts' shingles.

    Raises:
        InputError: Another version of rensa is installed, whose signatures differ.
    """
    from rensa import RMinHash

    if RMinHash.ALGORITHM_VERSION != _ALGORITHM:
        raise InputError(f"rensa: signs with algorithm {RMinHash.ALGORITHM_VERSION}, expected {_ALGORITHM}; install rensa==0.5.0")
    shingled = shingles(texts, config.shingle_words)
    starts = shingled.starts.astype(np.uint64)
    signed = RMinHash.digest_matrix_from_flat_token_hashes(shingled.hashes, starts, config.permutations, config.seed)
    return np.array(signed.to_rows(), dtype=np.uint32).reshape(len(texts), config.permutations)


def shingles(texts: Sequence[str], n: int) -> Words:
    """The runs of ``n`` words of every text as numbers, repeats included: at least one for each text.

    A text of fewer words has one of all its words; a text without any word, such as a row of dashes, one of all its characters.
    """
    words = hash_words(texts)
    found = word_runs(words, n)
    numbers, hashes = [], []
    for length in np.unique(words.counts[words.counts < n]).tolist():
        numbers.append(np.flatnonzero(words.counts == length))
        hashes.append(whole(words, length)[1] if length else np.array([_digest(texts[i]) for i in numbers[-1].tolist()], dtype=np.uint64))
    if not numbers:
        return found
    counts = found.counts
    counts[np.concatenate(numbers)] = 1
    # Before insertion, a short text's place is where the next text's runs start.
    at = found.starts[np.concatenate(numbers)]
    order = np.argsort(np.concatenate(numbers), kind="stable")
    filled = np.insert(found.hashes, at[order], np.concatenate(hashes)[order])
    return Words(filled, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]))


@cache
def banding(config: NearDuplicateConfig) -> Banding:
    """The bands and rows with the smallest weighted area of error, among all that fit into a signature.

    The area of false positives lies under the probability of becoming a candidate, below the threshold; that of false negatives over it,
    above the threshold (Zhu et al. 2016, "LSH Ensemble", section 5.5).
    """
    grid = (np.arange(1_000) + 0.5) / 1_000
    below = grid < config.threshold
    weight = config.false_negative_weight

    def error(tried: Banding) -> float:
        candidate = tried.probability(grid)
        return float((1 - weight) * candidate[below].sum() + weight * (1 - candidate[~below]).sum())

    # More bands never lose a pair, so for each number of rows as many as fit and all fewer are tried; the first of equals is taken.
    return min(
        (Banding(bands, rows) for rows in range(1, config.permutations + 1) for bands in range(1, config.permutations // rows + 1)),
        key=error,
    )


def band_keys(signed: Signatures, cut: Banding) -> Hashes:
    """(N, bands) one number for the ``rows`` numbers of each band. A key says nothing about other bands; numbers left over are unused."""
    keys = np.empty((len(signed), cut.bands), dtype=np.uint64)
    for band in range(cut.bands):
        keys[:, band] = combine([signed[:, band * cut.rows + row] for row in range(cut.rows)])
    return keys


def estimated_jaccard(signed: Signatures, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(P,) estimated Jaccard similarity of P pairs of documents: the share of equal numbers.

    Args:
        signed: (N, permutations); may be memory-mapped.
        first: (P,) document numbers.
        second: (P,) document numbers.
    """
    shares = np.empty(len(first), dtype=np.float64)
    for start in range(0, len(first), _BLOCK_PAIRS):
        part = slice(start, start + _BLOCK_PAIRS)
        shares[part] = (signed[first[part]] == signed[second[part]]).mean(axis=1)
    return shares


def verifier(signed: Signatures, threshold: float) -> Verifier:
    """Says of pairs of documents whether their estimated similarity reaches the threshold."""
    return lambda first, second: estimated_jaccard(signed, first, second) >= threshold


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
