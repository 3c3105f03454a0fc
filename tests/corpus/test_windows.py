"""What is packed can be read back: every token of every document, once, whatever the documents look like."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus import windows
from corpus.config import DataConfig
from corpus.packing import SMALLEST_FILLING, Piece, cut, fill_gaps, pack_pieces
from corpus.shards import PackedRow, map_shard
from corpus.tokenizer import open_tokenizer, sentence_ends
from corpus.windows import PackedWriter

Recipe = Callable[..., DataConfig]
Documents = dict[int, npt.NDArray[np.int32]]


@given(
    length=st.integers(1, 400),
    room=st.integers(4, 60),
    ends=st.sets(st.integers(1, 400)),
    overlap=st.integers(0, 28),
)
def test_cut_pieces_fit_and_cover_a_document_in_order(length: int, room: int, ends: set[int], overlap: int) -> None:
    overlap = min(overlap, (room - 1) // 2)
    spans = cut(length, room, np.array(sorted(ends), dtype=np.int64), overlap)
    assert all(0 < stop - start <= room for start, stop in spans)
    assert (spans[0][0], spans[-1][1]) == (0, length)
    for (_, stop), (start, _) in pairwise(spans):
        assert start == stop - overlap


def test_a_cut_is_made_behind_a_sentence_unless_that_leaves_a_gap_that_nothing_fills() -> None:
    assert cut(95, 40, np.array([25, 55])) == [(0, 25), (25, 55), (55, 95)]
    assert cut(100, 40, np.array([37])) == [(0, 40), (40, 80), (80, 100)]
    assert cut(100, 40, np.array([24, 37])) == [(0, 24), (24, 64), (64, 100)]
    assert cut(100, 40, np.array([5, 40])) == [(0, 40), (40, 80), (80, 100)]


@given(sizes=st.lists(st.integers(1, 60), max_size=30), donors=st.lists(st.integers(1, 300), max_size=4))
def test_gaps_are_filled_with_consecutive_pieces(sizes: list[int], donors: list[int]) -> None:
    rows = pack_pieces([Piece(number, 0, size) for number, size in enumerate(sizes)], 62)
    rest = fill_gaps(rows, [(100 + number, length) for number, length in enumerate(donors)], 62)
    given_away: dict[int, int] = {}
    for piece in [*(piece for row in rows for piece in row if piece.document >= 100), *rest]:
        assert piece.start == given_away.get(piece.document, 0)
        given_away[piece.document] = piece.stop
    assert given_away == {100 + number: length for number, length in enumerate(donors)}
    open_rows = [row for row in rows if 62 - sum(piece.size for piece in row) >= SMALLEST_FILLING]
    assert not (open_rows and rest)
    assert all(sum(piece.size for piece in row) <= 62 for row in rows)


def read_back(folder: Path, names: tuple[str, ...], *, overlap: int = 0) -> Documents:
    """Documents put together again from shards."""
    pieces: dict[int, list[tuple[int, npt.NDArray[np.int32]]]] = {}
    for name in names:
        for row, origin in map_shard(folder / name):
            assert isinstance(row, PackedRow)
            for tokens, document, offset in zip(np.split(row.ids, row.starts[1:]), origin.documents, origin.offsets, strict=True):
                pieces.setdefault(int(document), []).append((int(offset), tokens[1:-1]))
    found = {}
    for document, parts in pieces.items():
        whole = np.zeros(0, dtype=np.int32)
        for offset, tokens in sorted(parts, key=lambda part: part[0]):
            assert len(whole) - overlap <= offset <= len(whole)
            assert np.array_equal(whole[offset:], tokens[: len(whole) - offset])
            whole = np.concatenate([whole[:offset], tokens])
        found[document] = whole
    return found


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lengths=st.lists(st.integers(0, 500), min_size=1, max_size=40),
    seed=st.integers(0, 9),
    overlap=st.sampled_from([0, 0, 5]),
    at_sentences=st.booleans(),
    rows_per_shard=st.sampled_from([3, 1_000]),
    window_rows=st.sampled_from([4, 1_000]),
)
def test_every_token_of_every_document_is_read_back(
    recipe_for: Recipe,
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    seed: int,
    overlap: int,
    at_sentences: bool,
    rows_per_shard: int,
    window_rows: int,
) -> None:
    config = recipe_for(overlap=overlap, cut_at_sentences=at_sentences, rows_per_shard=rows_per_shard, sequence_length=40)
    tokenizer = open_tokenizer(Path(config.tokenizer))
    random = np.random.default_rng(seed)
    documents = {3 * n: random.integers(5, tokenizer.record.vocabulary, length).astype(np.int32) for n, length in enumerate(lengths)}
    folder = tmp_path_factory.mktemp("packed")
    (folder / "packed").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_WINDOW_ROWS", window_rows)
        patch.setattr(windows, "_FILLED_ROWS", 3)
        writer = PackedWriter(folder, "shard", config, tokenizer)
        for number, ids in documents.items():
            writer.add(number, ids)
        record = writer.close(len(documents))
    found = read_back(folder, record.shards, overlap=overlap)
    assert found.keys() == {number for number, ids in documents.items() if len(ids)}
    assert all(np.array_equal(ids, documents[number]) for number, ids in found.items())


def test_rows_of_prose_are_full_although_cuts_are_made_at_sentences(recipe_for: Recipe, tmp_path: Path) -> None:
    config = recipe_for(sequence_length=128)
    tokenizer = open_tokenizer(Path(config.tokenizer))
    stops = sentence_ends(tokenizer.serialised)
    other = np.setdiff1d(np.arange(5, tokenizer.record.vocabulary), stops)
    random = np.random.default_rng(0)
    (tmp_path / "packed").mkdir()
    writer = PackedWriter(tmp_path, "shard", config, tokenizer)
    documents = {}
    for number in range(400):
        ids = random.choice(other, random.integers(20, 4_000)).astype(np.int32)
        places = np.cumsum(random.integers(5, 60, len(ids)))
        ids[places[places < len(ids)]] = stops[0]
        documents[number] = ids
        writer.add(number, ids)
    record = writer.close(len(documents))
    assert record.fill >= 0.99
    cuts = ends = 0
    for name in record.shards:
        for row, _ in map_shard(tmp_path / name):
            for tokens in np.split(row.ids, row.starts[1:]):
                cuts, ends = cuts + 1, ends + (tokens[-2] == stops[0])
    assert ends > 0.4 * cuts, (ends, cuts)
