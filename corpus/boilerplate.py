"""Lines that belong to a web site rather than to its text: by pattern, or because very many documents have them. Pure, one text at a time.

Patterns (``BoilerplateConfig``) know the notices of English web pages. Counting knows no language: each partition takes ``line_digests`` of
its texts, whoever merges them counts in how many documents each occurs, and ``without_lines`` removes those above the limit; CCNet (Wenzek
et al. 2020, arXiv 1911.00359, section 3.1) compares paragraphs in this form. Whole duplicate documents are ``duplicates.py``'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from corpus.quality_config import BoilerplateConfig

Digests = npt.NDArray[np.uint64]

_NUMBER = re.compile(r"\d+")
_MANY_LINE_BREAKS = re.compile(r"\n{3,}")
MIN_CHARACTERS = 20
"""Shorter lines are not counted unless asked for: ``}`` or "Example:" repeat without being boilerplate."""


def without_boilerplate(text: str, config: BoilerplateConfig) -> tuple[str, dict[str, int]]:
    """A repaired text without the lines that match a pattern; paragraphs stay apart. Doing it twice changes nothing.

    Returns:
        The text, and how many lines each pattern took; one that took none is absent.
    """
    patterns = _compiled(config.patterns)
    removed: dict[str, int] = {}

    def is_kept(line: str) -> bool:
        if len(line) > config.max_characters:
            return True
        name = next((name for name, pattern in patterns if pattern.search(line)), None)
        if name is not None:
            removed[name] = removed.get(name, 0) + 1
        return name is None

    return filter_lines(text, is_kept)[0], removed


def normalise(line: str) -> str:
    """The form in which lines are the same: lower case, every number 0, white space folded."""
    return _NUMBER.sub("0", " ".join(line.lower().split()))


def line_digests(text: str, min_characters: int = MIN_CHARACTERS) -> Digests:
    """Digests of the lines of a text, ascending and each once, so that counting digests counts documents.

    Args:
        text: With its line breaks.
        min_characters: Lines that are shorter when normalised have none.

    Returns:
        (D,) 64 bits each; two different lines of a million share one with a chance of 3e-8.
    """
    digests = {digest for line in set(text.split("\n")) if (digest := _digest(line, min_characters)) is not None}
    return np.array(sorted(digests), dtype=np.uint64)


def without_lines(text: str, digests: frozenset[int] | Digests, min_characters: int = MIN_CHARACTERS) -> tuple[str, int]:
    """The text without the lines whose digest is one of ``digests``; paragraphs stay apart.

    Args:
        text: With its line breaks.
        digests: A set, or an ascending array, which takes eight bytes each.
        min_characters: As given to ``line_digests``.

    Returns:
        The text, unchanged if nothing was removed, and the number of lines removed.
    """

    def is_kept(line: str) -> bool:
        digest = _digest(line, min_characters)
        return digest is None or not _holds(digests, digest)

    return filter_lines(text, is_kept) if len(digests) else (text, 0)


def filter_lines(text: str, is_kept: Callable[[str], bool]) -> tuple[str, int]:
    """The text without the lines that are not kept, and their number; blank lines are not asked about, paragraphs stay apart."""
    lines = text.split("\n")
    kept = [line for line in lines if not line or line.isspace() or is_kept(line)]
    if len(kept) == len(lines):
        return text, 0
    return _MANY_LINE_BREAKS.sub("\n\n", "\n".join(kept)).strip(), len(lines) - len(kept)


def _digest(line: str, min_characters: int) -> int | None:
    # Numbers and white space only get shorter.
    if len(line) < min_characters or len(normal := normalise(line)) < min_characters:
        return None
    return int.from_bytes(blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _holds(digests: frozenset[int] | Digests, digest: int) -> bool:
    if isinstance(digests, frozenset):
        return digest in digests
    place = int(np.searchsorted(digests, np.uint64(digest)))
    return place < len(digests) and int(digests[place]) == digest


@lru_cache(maxsize=8)
def _compiled(patterns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in patterns)
