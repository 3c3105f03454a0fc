"""Which documents and paragraphs repeat earlier ones: decided over all partitions at once, from small arrays and without any text.

Each partition computes digests of its texts here, or signatures (``minhash.py``); concatenated in the order of the partitions, their rows
are document numbers, and everything below is a function of them: where partitions begin makes no difference. Of equals the smallest number
stays. Documents that one stage drops are to be left out before the next stage, so that nothing is dropped for a document that is gone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.minhash import Verifier
from corpus.words import Hashes, Positions

Flags = npt.NDArray[np.bool_]

# Captured, so that what is left of a text keeps its own separators.
_BLANK_LINES = re.compile(r"(\n[^\S\n]*(?:\n[^\S\n]*)+)")
# How often the rest of a bucket gets another leader, and the rest of a component another keeper: bounds the work at a few comparisons for
# each document, also where very many documents resemble each other halfway.
_LEADERS = 4
_KEEPERS = 256


class ParagraphDigests(NamedTuple):
    """Digests of the paragraphs of many texts, one text after the other. P = paragraphs."""

    digests: Hashes
    """(P, 2) 128 bits each."""
    documents: Positions
    """(P,) in which text each stands; counted from 0 in each partition, so add the documents of the partitions before."""


class Clusters(NamedTuple):
    """Near-duplicates of N documents."""

    keepers: Positions
    """(N,) the smallest document number of each document's cluster: itself, if it is kept."""
    candidates: int
    """Pairs that shared a band and were looked at."""
    united: int
    """Those of them that were alike enough."""

    @property
    def kept(self) -> Flags:
        """(N,) which documents stay."""
        return np.asarray(self.keepers == np.arange(len(self.keepers)))

    @property
    def pairs(self) -> Positions:
        """(dropped, 2) each dropped document, in order, and the one kept in its place."""
        dropped = np.flatnonzero(~self.kept)
        return np.stack([dropped, self.keepers[dropped]], axis=1)


def document_digests(texts: Sequence[str]) -> Hashes:
    """(N, 2) a 128-bit BLAKE2b digest of each repaired text, letter for letter; a collision is out of reach."""
    joined = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def first_occurrences(digests: Hashes) -> Flags:
    """(N,) which of the digests (N, 2) stand for the first time. Needs about 33 bytes a document besides the digests."""
    return np.asarray(_first_equals(digests) == np.arange(len(digests)))


def paragraph_digests(texts: Sequence[str], min_characters: int) -> ParagraphDigests:
    """Digests of the paragraphs of at least ``min_characters``: what stands between blank lines, without white space around it."""
    found = [_long_paragraphs(text, min_characters) for text in texts]
    documents = np.repeat(np.arange(len(texts)), [len(paragraphs) for paragraphs in found])
    return ParagraphDigests(document_digests([paragraph for paragraphs in found for paragraph in paragraphs]), documents)


def seen_in_earlier_documents(paragraphs: ParagraphDigests) -> Flags:
    """(P,) which paragraphs stand in an earlier document, too. A repeat within its own document is left to it.

    Args:
        paragraphs: Of all partitions, with document numbers that count through and never fall.
    """
    return paragraphs.documents[_first_equals(paragraphs.digests)] < paragraphs.documents


def without_paragraphs(text: str, dropped: Sequence[bool] | Flags, min_characters: int) -> str:
    """A text without some of its paragraphs.

    Args:
        text: As it was given to ``paragraph_digests``.
        dropped: One for each of its paragraphs of at least ``min_characters``.
        min_characters: As it was given to ``paragraph_digests``.
    """
    if not any(dropped):
        return text
    flags = iter(dropped)
    # The even pieces are paragraphs, each odd one the blank lines after it.
    pieces = _BLANK_LINES.split(text)
    kept = []
    for place in range(0, len(pieces), 2):
        if not (_is_long(pieces[place], min_characters) and next(flags)):
            kept += pieces[place : place + 2]
    return "".join(kept).strip("\n")


def clusters(band_keys: Hashes, verify: Verifier | None = None) -> Clusters:
    """Unite documents that share a band key and, if there is a verifier, resemble each other and the one that is kept.

    Documents with the same key in a band (a bucket) are not compared each with each but all with the first of them, its leader; those
    that differ from it get the first among them as their next leader, a few times. So 100,000 documents in one bucket cost a few hundred
    thousand comparisons and not five billion; the price is that two documents that resemble neither leader go unnoticed in that bucket.
    They meet again in other bands, with other leaders.

    Resemblance is not transitive: along a chain of small differences the ends may share nothing. So a united group is split again: the
    smallest number is kept and takes with it what resembles itself, of the rest again the smallest, and so on. Every dropped document
    resembles the one that is kept for it. After 256 kept ones of a group all others are kept unseen, rather than lost.

    Args:
        band_keys: (N, bands) from ``minhash.band_keys``; may be memory-mapped: bands are read one by one.
        verify: From ``minhash.verifier``. None: sharing a key is enough.
    """
    groups = np.arange(len(band_keys), dtype=np.int64)
    candidates = united = 0
    for band in range(band_keys.shape[1]):
        waiting, leaders = _buckets(band_keys[:, band], groups)
        for _ in range(_LEADERS):
            if not len(waiting):
                break
            alike = np.ones(len(waiting), dtype=np.bool_) if verify is None else verify(leaders, waiting)
            candidates, united = candidates + len(waiting), united + int(alike.sum())
            groups = _unite(groups, leaders[alike], waiting[alike])
            waiting, leaders = _next_leaders(waiting[~alike], leaders[~alike])
    return Clusters(groups if verify is None else _around_keepers(groups, verify), candidates, united)


def _first_equals(digests: Hashes) -> Positions:
    """(N,) the first place at which each digest stands."""
    # A stable sort: equal digests stay in document order.
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    is_first = np.ones(len(digests), dtype=np.bool_)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = np.empty(len(digests), dtype=np.int64)
    firsts[order] = order[is_first][np.cumsum(is_first) - 1]
    return firsts


def _is_long(paragraph: str, min_characters: int) -> bool:
    return len(paragraph.strip()) >= max(1, min_characters)


def _long_paragraphs(text: str, min_characters: int) -> list[str]:
    return [piece.strip() for piece in _BLANK_LINES.split(text)[::2] if _is_long(piece, min_characters)]


def _buckets(keys: Hashes, groups: Positions) -> tuple[Positions, Positions]:
    """Documents that share their key with an earlier one of another group, in the order of buckets, and the first with that key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.ones(len(keys), dtype=np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    leaders = order[is_first][np.cumsum(is_first) - 1]
    apart = groups[order] != groups[leaders]
    return order[apart], leaders[apart]


def _next_leaders(waiting: Positions, leaders: Positions) -> tuple[Positions, Positions]:
    """The same for those whom their leader did not resemble: the first of each bucket leads the others."""
    is_first = np.ones(len(leaders), dtype=np.bool_)
    is_first[1:] = leaders[1:] != leaders[:-1]
    following = waiting[is_first][np.cumsum(is_first) - 1]
    return waiting[~is_first], following[~is_first]


def _unite(groups: Positions, first: Positions, second: Positions) -> Positions:
    """Groups after uniting pairs of documents; a group is named by its smallest number, and ``groups[groups] == groups``."""
    groups = groups.copy() if len(first) else groups
    while True:
        low, high = np.minimum(groups[first], groups[second]), np.maximum(groups[first], groups[second])
        apart = low != high
        if not apart.any():
            return groups
        np.minimum.at(groups, high[apart], low[apart])
        while not np.array_equal(shorter := groups[groups], groups):
            groups = shorter


def _around_keepers(groups: Positions, verify: Verifier) -> Positions:
    """Split groups so that every document resembles the smallest of its cluster."""
    keepers = np.arange(len(groups), dtype=np.int64)
    sizes = np.bincount(groups, minlength=len(groups))
    members = np.flatnonzero(sizes[groups] > 1)
    waiting = members[np.argsort(groups[members], kind="stable")]
    for _ in range(_KEEPERS):
        if not len(waiting):
            break
        waiting, leaders = _next_leaders(waiting, groups[waiting])
        alike = verify(leaders, waiting)
        keepers[waiting[alike]] = leaders[alike]
        waiting = waiting[~alike]
    return keepers
