"""Words and word n-grams of texts as 64-bit numbers: what near-duplicate search and decontamination both compare.

A word is a run of letters, digits and marks in lower case; everything else separates. Characters of scripts that are written without
spaces (Chinese, Japanese, Thai, …) are words of their own. Texts should be repaired first (``cleaning.py``): other normal forms are other
words. Knows nothing of documents worth keeping; readers are ``minhash.py`` and ``contamination.py``.

The numbers are integer arithmetic and Python's Unicode tables: the same in every process and on every machine with the same minor version
of Python, which Ray asks of a cluster anyway; a newer Unicode can only differ in characters that the older one does not know.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Scripts without spaces between words, first and last character of each block: Thai and Lao, Burmese, Khmer, kana and its extensions,
# Han ideographs with extension A, compatibility ideographs, half-width kana, the two ideographic planes (Unicode's Blocks.txt).
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)
# They only choose how the character before them is drawn; without this an emoji would leave a word behind.
_VARIATION_SELECTORS = (0xFE00, 0xFE0F)
_ASSIGNED = 0x40000
"""Beyond are no letters: unassigned planes, tags and private use."""
_SEPARATES, _JOINS, _ALONE = 0, 1, 2
# Odd, so that multiplying modulo 2**64 loses nothing. Within a word and between words differ, so that "ab c" is not "a bc".
_WITHIN = np.uint64(0xD6E8FEB86659FD93)
_BETWEEN = np.uint64(0x9E3779B97F4A7C15)
# Characters hashed at once: what a processor's cache holds, about 40 bytes each.
_BLOCK_CHARACTERS = 2**17

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


class Words(NamedTuple):
    """Hashed words, or hashed n-grams, of N texts, one text after the other. W = words of all texts."""

    hashes: Hashes
    """(W,)"""
    starts: Positions
    """(N + 1,) where each text's words start; the last is W."""

    @property
    def counts(self) -> Positions:
        """(N,) words of each text."""
        return np.diff(self.starts)


def split_words(text: str) -> list[str]:
    """The words of a text, in order."""
    lowered = text.lower()
    first, last = _borders(_codes(lowered))
    return [lowered[start:stop] for start, stop in zip(first.tolist(), last.tolist(), strict=True)]


def word_counts(texts: Sequence[str]) -> Positions:
    """(N,) how many words each text has."""
    counts = [np.empty(0, dtype=np.int64)]
    for block in _blocks(texts):
        ends = np.fromiter(accumulate(len(text) + 1 for text in block), dtype=np.int64, count=len(block))
        counts.append(_words_before(ends, _borders(_codes("\n".join(block)))[0]))
    return np.concatenate(counts)


def hash_words(texts: Sequence[str]) -> Words:
    """The words of every text as numbers; equal words have equal numbers.

    A word is a polynomial of its characters modulo 2**64, mixed. No library hashes the words inside a text without making a string of each,
    which alone takes longer than all of this. Not for adversaries: whoever knows the constants can make two words collide.
    """
    hashes, counts = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for block in _blocks(texts):
        ends = np.fromiter(accumulate(len(text) + 1 for text in block), dtype=np.int64, count=len(block))
        codes = _codes("\n".join(block))
        first, _ = _borders(codes)
        hashes.append(_hashes(codes, first))
        counts.append(_words_before(ends, first))
    return Words(np.concatenate(hashes), _starts(np.concatenate(counts)))


def word_runs(words: Words, n: int) -> Words:
    """All runs of ``n`` words within a text, in order; a text of W words has W - n + 1 of them, or none."""
    counts = np.maximum(words.counts - n + 1, 0)
    starts = _starts(counts)
    if not starts[-1]:
        return Words(np.empty(0, dtype=np.uint64), starts)
    rolled = combine([words.hashes[k : len(words.hashes) - n + 1 + k] for k in range(n)])
    # Runs that cross from one text into the next are left out.
    return Words(rolled[np.arange(starts[-1]) + np.repeat(words.starts[:-1] - starts[:-1], counts)], starts)


def whole(words: Words, length: int) -> tuple[Positions, Hashes]:
    """The numbers of the texts of exactly ``length`` words, and all words of each as one number, the same as in ``word_runs``."""
    numbers = np.flatnonzero(words.counts == length)
    return numbers, combine([words.hashes[words.starts[numbers] + k] for k in range(length)])


def combine(columns: Sequence[npt.NDArray[np.uint64 | np.uint32]]) -> Hashes:
    """One number for each row of ``columns`` (at least one), in which the order and the number of columns count."""
    total = columns[0].astype(np.uint64)
    for column in columns[1:]:
        total *= _BETWEEN
        total += column
    total += np.uint64(len(columns))
    return _mixed(total)


def _mixed(values: Hashes) -> Hashes:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014), in place; wraps modulo 2**64 by intent."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _blocks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in lower case, together about as long as a block; at least one in each."""
    block: list[str] = []
    characters = 0
    for text in texts:
        block.append(text.lower())
        characters += len(block[-1])
        if characters >= _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _codes(text: str) -> npt.NDArray[np.uint32]:
    # Lone surrogates are no letters; they pass, and separate.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _borders(codes: npt.NDArray[np.uint32]) -> tuple[Positions, Positions]:
    """The first character of every word and the one after its last."""
    kinds = np.zeros(len(codes) + 2, dtype=np.uint8)
    kinds[1:-1] = _tables()[0][codes]
    joins, alone = kinds == _JOINS, kinds == _ALONE
    first = alone[1:-1] | (joins[1:-1] & ~joins[:-2])
    last = alone[1:-1] | (joins[1:-1] & ~joins[2:])
    return np.flatnonzero(first), np.flatnonzero(last) + 1


def _words_before(ends: Positions, first: Positions) -> Positions:
    """Of each text, the number of words that begin in it; ``ends`` are the texts' ends, ``first`` the words' beginnings."""
    return np.diff(np.searchsorted(first, ends), prepend=0)


def _hashes(codes: npt.NDArray[np.uint32], first: Positions) -> Hashes:
    if not len(first):
        return np.empty(0, dtype=np.uint64)
    values = _tables()[1][codes[first[0] :]]
    starts = first - first[0]
    places = np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
    powers = np.full(int(places.max()) + 1, _WITHIN)
    np.multiply.accumulate(powers, out=powers)
    values *= powers[places]
    # A sum runs up to the next word's start; the separators in between are zero.
    return _mixed(np.add.reduceat(values, starts))


def _starts(counts: Positions) -> Positions:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


@cache
def _tables() -> tuple[npt.NDArray[np.uint8], Hashes]:
    """Of every code point: whether it separates, joins or stands alone, and a random number, zero for separators."""
    kinds = np.full(0x110000, _SEPARATES, dtype=np.uint8)
    categories = [unicodedata.category(chr(code)) for code in range(_ASSIGNED)]
    kinds[:_ASSIGNED] = [_JOINS if name[0] in "LN" or name in ("Mn", "Mc") else _SEPARATES for name in categories]
    for first, last in _UNSPACED:
        block = kinds[first : last + 1]
        block[block == _JOINS] = _ALONE
    kinds[_VARIATION_SELECTORS[0] : _VARIATION_SELECTORS[1] + 1] = _SEPARATES
    values = _mixed(np.arange(1, len(kinds) + 1, dtype=np.uint64) * _BETWEEN)
    values[kinds == _SEPARATES] = 0
    return kinds, values
