"""Packing places every token of every document exactly once, keeps boundaries, and fills rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corpus.packing import FRAME, fill_rows, fill_share, pack

CLS, SEP = 1, 2


@given(lengths=st.lists(st.integers(0, 120), max_size=60), row_length=st.integers(4, 50))
def test_every_token_is_placed_exactly_once_and_no_row_is_too_long(lengths: list[int], row_length: int) -> None:
    numbers = np.cumsum([0, *lengths])
    documents = [np.arange(10 + a, 10 + b, dtype=np.int32) for a, b in pairwise(numbers)]
    placed = pack(lengths, row_length)
    rows = fill_rows(placed, documents, cls_id=CLS, sep_id=SEP)
    tokens = []
    for row in rows:
        assert 0 < len(row.ids) <= row_length
        assert row.starts[0] == 0
        for piece in np.split(row.ids, row.starts[1:]):
            assert piece[0] == CLS
            assert piece[-1] == SEP
            assert len(piece) > FRAME
            assert not np.isin(piece[1:-1], (CLS, SEP)).any()
            tokens += piece[1:-1].tolist()
    assert sorted(tokens) == list(range(10, 10 + sum(lengths)))
    share = sum(len(row.ids) for row in rows) / (len(rows) * row_length) if rows else 0.0
    assert fill_share(placed, row_length) == share


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_documents_that_fit_in_a_row_are_never_cut(lengths: list[int]) -> None:
    pieces = [piece for row in pack(lengths, 32) for piece in row]
    assert sorted((piece.document, piece.start, piece.stop) for piece in pieces) == [(i, 0, n) for i, n in enumerate(lengths)]


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_no_two_rows_could_have_been_one(lengths: list[int]) -> None:
    sizes = sorted(sum(piece.size for piece in row) for row in pack(lengths, 32))
    assert all(first + second > 32 for first, second in pairwise(sizes))


def test_a_long_document_is_cut_into_full_rows_and_a_rest() -> None:
    pieces = sorted((piece.start, piece.stop) for row in pack([25], 12) for piece in row)
    assert pieces == [(0, 10), (10, 20), (20, 25)]


def test_rows_are_nearly_full_on_many_documents_of_mixed_length() -> None:
    lengths = np.random.default_rng(0).lognormal(3.5, 1.0, size=5_000).astype(int).tolist()
    assert fill_share(pack(lengths, 128), 128) > 0.99
