"""Texts that resemble each other, and how much they do: by brute force, to compare with."""

from __future__ import annotations

import random

from corpus.words import split_words


def jaccard(first: str, second: str, n: int) -> float:
    """By brute force, of texts of at least n words."""
    a, b = ({tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in (split_words(first), split_words(second)))
    return len(a & b) / len(a | b)


def changed(text: str, share: float, chance: random.Random) -> str:
    """A text with that share of its words replaced by words that no other text has."""
    words = text.split()
    for place in chance.sample(range(len(words)), round(share * len(words))):
        words[place] = f"new{chance.random()}"
    return " ".join(words)
