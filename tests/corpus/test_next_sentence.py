"""Pairs for next-sentence prediction: as long as the documents they are made of, and a function of (seed, epoch, row) alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.next_sentence import FEWEST_TOKENS, NO_PAIR, Paired, paired_row

# T tokens of a row, D documents in it
CLS, SEP = 2, 3
Row = tuple[np.ndarray, np.ndarray]
"""(T,) ids and (D,) starts."""


def build(sizes: list[list[int]]) -> list[Row]:
    """Rows of documents with so many words; no word stands twice anywhere."""
    rows, word = [], 10
    for row in sizes:
        documents = []
        for words in row:
            documents.append(np.array([CLS, *range(word, word + words), SEP], dtype=np.int32))
            word += words
        starts = np.cumsum([0, *(len(document) for document in documents)])[:-1]
        rows.append((np.concatenate(documents), starts.astype(np.int32)))
    return rows


def words_of(rows: list[Row], row: int) -> np.ndarray:
    ids = rows[row][0]
    return ids[ids >= 10]


def paired(rows: list[Row], row: int, *, seed: int = 0, epoch: int = 0) -> Paired:
    ids, starts = rows[row]
    return paired_row(
        ids, starts, row=row, rows=len(rows), words_of=lambda other: words_of(rows, other), separator=SEP, seed=seed, epoch=epoch
    )


def documents(rows: list[Row], row: int, found: Paired) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """(ids before, ids after, types, class) of each document."""
    ids, starts = rows[row]
    borders = pairwise([*starts.tolist(), len(ids)])
    return [(ids[a:b], found.ids[a:b], found.types[a:b], int(found.is_other[place])) for place, (a, b) in enumerate(borders)]


sizes = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=2, max_size=4)


@given(sizes=sizes, seed=st.integers(-5, 2**65), epoch=st.integers(0, 2**33))
def test_a_document_keeps_its_length_and_becomes_two_halves_of_its_own_or_of_another_row(
    sizes: list[list[int]], seed: int, epoch: int
) -> None:
    rows = build(sizes)
    for row in range(len(rows)):
        found = paired(rows, row, seed=seed, epoch=epoch)
        assert found.ids.shape == found.types.shape == rows[row][0].shape
        for before, after, types, kind in documents(rows, row, found):
            if len(before) < FEWEST_TOKENS:
                assert after.tolist() == before.tolist()
                assert not types.any()
                assert kind == NO_PAIR
                continue
            assert kind in (0, 1)
            assert after[0] == CLS
            cut = int(np.flatnonzero(after == SEP)[0])
            assert np.flatnonzero(after == SEP).tolist() == [cut, len(after) - 1]
            assert types.tolist() == [0] * (cut + 1) + [1] * (len(after) - cut - 1)
            first, second, words = after[1:cut].tolist(), after[cut + 1 : -1].tolist(), before[1:-1].tolist()
            assert first == words[: len(first)]
            assert min(len(first), len(second) + 1) >= len(words) // 4
            if kind == 0:
                # The second separator takes the place of the last word.
                assert second == words[len(first) : -1]
            else:
                others = [words_of(rows, other).tolist() for other in range(len(rows)) if other != row]
                assert any(is_stretch(second, other) for other in others)


def is_stretch(words: list[int], of: list[int]) -> bool:
    """Whether ``words`` are a stretch of ``of``, read over and over."""
    if words[0] not in of:
        return False
    place = of.index(words[0])
    return words == [of[(place + step) % len(of)] for step in range(len(words))]


def test_about_half_of_the_pairs_have_another_second_half() -> None:
    rows = build([[30, 30, 30, 30]] * 50)
    kinds = np.concatenate([paired(rows, row, epoch=epoch).is_other for row in range(50) for epoch in range(10)])
    # 2,000 draws: five standard deviations are 0.056.
    assert kinds.mean() == pytest.approx(0.5, abs=0.056)


@given(seed=st.integers(0, 2**64), epoch=st.integers(0, 50))
def test_pairs_depend_on_seed_epoch_and_row_and_on_nothing_else(seed: int, epoch: int) -> None:
    rows = build([[30, 25], [40, 20, 12], [35]])
    first = paired(rows, 1, seed=seed, epoch=epoch)
    paired(rows, 0, seed=seed, epoch=epoch)
    again = paired(rows, 1, seed=seed, epoch=epoch)
    for found, wanted in zip(again, first, strict=True):
        assert np.array_equal(found, wanted)
    others = [paired(rows, 1, seed=seed + step, epoch=epoch) for step in range(1, 9)]
    others += [paired(rows, 1, seed=seed, epoch=epoch + step) for step in range(1, 9)]
    assert any(not np.array_equal(other.ids, first.ids) for other in others[:8])
    assert any(not np.array_equal(other.ids, first.ids) for other in others[8:])


def test_the_rows_of_a_build_are_not_written_to() -> None:
    rows = build([[30], [30]])
    before = rows[0][0].copy()
    rows[0][0].flags.writeable = False
    for epoch in range(8):
        paired(rows, 0, epoch=epoch)
    assert np.array_equal(rows[0][0], before)
