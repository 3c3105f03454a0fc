"""Decontamination: finds documents that share a long run of words with evaluation texts, so that a test measures what was learnt.

The evaluation texts become an index of hashed n-grams, small enough to go to every worker; documents are then judged one by one, in any
partition. What a word is, is ``words.py``; what happens to a document that is found is the caller's business. Source: Brown et al. 2020
(GPT-3), appendix C: runs of 13 words without case and punctuation; nothing shorter than 8, because short runs collide by chance. Theirs
spares runs found in more than ten documents as boilerplate and cuts the run out; here the whole document counts as contaminated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from corpus.words import Hashes, Words, hash_words, split_words, whole, word_runs

_SHORTEST_RUN = 8


@dataclass(frozen=True)
class EvaluationIndex:
    """Hashed runs of words of evaluation texts. Picklable; eight bytes a run."""

    n: int
    """Words of a run."""
    by_length: dict[int, Hashes] = field(default_factory=dict)
    """Number of words → ascending, unique hashes. Runs of ``n`` words, and each shorter text as one run of all its words."""

    def __or__(self, other: EvaluationIndex) -> EvaluationIndex:
        """Both indices in one.

        Raises:
            ValueError: They hold runs of different lengths.
        """
        if self.n != other.n:
            raise ValueError(f"indices of runs of {self.n} and of {other.n} words cannot be joined; build both with the same n")
        none = np.empty(0, dtype=np.uint64)
        lengths = sorted(self.by_length.keys() | other.by_length.keys())
        return EvaluationIndex(self.n, {k: np.union1d(self.by_length.get(k, none), other.by_length.get(k, none)) for k in lengths})


def grams(texts: Sequence[str], n: int = 13) -> EvaluationIndex:
    """The index of evaluation texts.

    Texts of fewer than ``n`` words are one run of all their words. From 8 words on it is looked for anywhere in a document; a shorter
    one only convicts a document that consists of exactly these words: "a great film" stands in many texts that know nothing of the test.
    """
    words = hash_words(texts)
    by_length = {
        length: np.unique(whole(words, length)[1]) for length in np.unique(words.counts[(words.counts > 0) & (words.counts < n)]).tolist()
    }
    if (runs := word_runs(words, n)).hashes.size:
        by_length[n] = np.unique(runs.hashes)
    return EvaluationIndex(n, by_length)


def contaminated(texts: Sequence[str], index: EvaluationIndex) -> npt.NDArray[np.bool_]:
    """(N,) which texts share a run of words with the evaluation texts."""
    words = hash_words(texts)
    found = np.zeros(len(texts), dtype=np.bool_)
    for runs, length in _runs(words, index):
        hits = np.flatnonzero(_among(runs.hashes, index.by_length[length]))
        found[np.searchsorted(runs.starts, hits, side="right") - 1] = True
    return found


def matching_words(text: str, index: EvaluationIndex) -> str | None:
    """The first run of words that a text shares with the evaluation texts, in lower case and without punctuation; None if there is none."""
    for runs, length in _runs(hash_words([text]), index):
        hits = np.flatnonzero(_among(runs.hashes, index.by_length[length]))
        if hits.size:
            return " ".join(split_words(text)[hits[0] : hits[0] + length])
    return None


def _runs(words: Words, index: EvaluationIndex) -> Iterable[tuple[Words, int]]:
    """For each length in the index, longest first, the runs of each text that may be compared."""
    for length in sorted(index.by_length, reverse=True):
        if length >= min(index.n, _SHORTEST_RUN):
            yield word_runs(words, length), length
        else:
            numbers, hashes = whole(words, length)
            counts = np.bincount(numbers, minlength=len(words.counts))
            yield Words(hashes, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])), length


def _among(hashes: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    """Which hashes are among the ascending ``wanted`` ones, at least one."""
    # A table of their leading bits, at most one place in sixteen taken, spares nearly all the binary searches.
    bits = max(16, len(wanted).bit_length() + 4)
    shift = np.uint64(64 - bits)
    table = np.zeros(1 << bits, dtype=np.bool_)
    table[wanted >> shift] = True
    found: npt.NDArray[np.bool_] = table[hashes >> shift]
    likely = np.flatnonzero(found)
    places = np.minimum(np.searchsorted(wanted, hashes[likely]), len(wanted) - 1)
    found[likely] = wanted[places] == hashes[likely]
    return found
