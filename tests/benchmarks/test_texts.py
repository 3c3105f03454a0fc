from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from benchmarks import texts
from benchmarks.drawing import svg_document
from benchmarks.pays_cells import some_held_out, some_of_each
from corpus.shards import PackedRows
from encoder.loading import load_tokenizer
from tests.support.tiny import WORDS, make_encoder


def write_corpus(file: Path, documents: int = 60) -> Path:
    random = np.random.default_rng(0)
    made = ["\n\n".join(" ".join(random.choice(WORDS, 8)) for _ in range(random.integers(1, 40))) for _ in range(documents)]
    table = pa.table({"text": made, "split": ["train" if number % 5 else "validation" for number in range(documents)]})
    pa.parquet.write_table(table, file)
    return file


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"), positions=texts.LENGTH)


@pytest.fixture(scope="module")
def packed(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedRows:
    folder = tmp_path_factory.mktemp("texts")
    return texts.build(texts.documents(write_corpus(folder / "corpus.parquet")), folder / "packed", tokenizer=str(encoder))


def test_fewer_documents_are_spread_over_the_whole_corpus(tmp_path: Path) -> None:
    file = write_corpus(tmp_path / "corpus.parquet")
    everything, some = texts.documents(file), texts.documents(file, 10)
    assert len(some) == 10
    assert some.column("text")[0] == everything.column("text")[0]
    assert some.column("text")[9] == everything.column("text")[59]


def test_both_sides_get_rows_that_are_full(packed: PackedRows) -> None:
    rows = texts.packed_rows(packed)
    assert rows
    assert {len(row) for row in rows} == {texts.LENGTH}


def test_documents_that_share_text_with_the_evaluation_are_left_out(encoder: Path, tmp_path: Path) -> None:
    table = texts.documents(write_corpus(tmp_path / "corpus.parquet"))
    whole = texts.build(table, tmp_path / "whole", tokenizer=str(encoder))
    longest = max(table.column("text").to_pylist(), key=len)
    pa.parquet.write_table(pa.table({"text": [longest]}), tmp_path / "test.parquet")
    less = texts.build(table, tmp_path / "less", tokenizer=str(encoder), without=tmp_path / "test.parquet")
    assert len(less) < len(whole)


def test_lines_are_those_that_are_not_blank_and_groups_lose_only_the_end(encoder: Path) -> None:
    assert list(texts.lines(["a b\n\n c", " \nd"])) == ["a b", " c", "d"]
    rows = list(texts.tokenised(["this is a good product " * 20] * 5, load_tokenizer(str(encoder)), truncate=False))
    grouped = texts.grouped(rows)
    joined = np.concatenate(rows)
    assert (np.concatenate(grouped) == joined[: len(joined) // texts.LENGTH * texts.LENGTH]).all()


def test_the_loss_that_both_sides_are_judged_by_is_that_of_our_own_evaluation(packed: PackedRows, encoder: Path) -> None:
    import torch

    from encoder.loading import new_masked_lm
    from encoder.padding_free import documents, masked_logits

    tokenizer = load_tokenizer(str(encoder))
    rows = texts.held_out(PackedRows.open(packed.folder, "validation"), 5, tokenizer.mask_token_id)
    model: Any = new_masked_lm(str(encoder), seed=0)
    found, placed = documents(np.concatenate([row["ids"] for row in rows]), np.array([len(row["ids"]) for row in rows]), "runs")
    before = np.cumsum([0, *(len(row["ids"]) for row in rows)])
    places = np.concatenate([row["positions"] + start for row, start in zip(rows, before, strict=False)])
    labels = torch.from_numpy(np.concatenate([row["labels"] for row in rows]).astype(np.int64))
    with torch.no_grad():
        asked = placed.places(places)
        logits = masked_logits(model, found.asking(np.sort(asked)))
    ours = float(torch.nn.functional.cross_entropy(logits, labels[np.argsort(asked)]))
    assert texts.masked_loss(model, rows, rows_at_once=3) == pytest.approx(ours, abs=1e-4)


def test_rows_for_a_peer_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [np.array([2, 7, 3], np.int32), np.array([2, 3], np.int32)]
    with np.load(texts.write_rows(tmp_path / "rows.npz", rows, special=[2, 3], labels=np.array([1, 0]))) as found:
        assert found["offsets"].tolist() == [0, 3, 5]
        assert found["special"].tolist() == [1, 0, 1, 1, 1]
        assert found["labels"].tolist() == [1, 0]


def test_so_many_rows_of_each_class_are_drawn_by_the_seed() -> None:
    labels = np.repeat(np.arange(4), [50, 50, 50, 3])
    drawn = some_of_each(labels, 10, seed=1)
    assert np.bincount(labels[drawn]).tolist() == [10, 10, 10, 3]
    assert (drawn == some_of_each(labels, 10, seed=1)).all()
    assert (np.sort(drawn) != np.sort(some_of_each(labels, 10, seed=2))).any()


def test_of_several_classes_at_once_each_is_drawn_at_least_so_often() -> None:
    flags = np.random.default_rng(0).random((300, 5)) < 0.2
    drawn = some_of_each(flags, 10, seed=1)
    assert (flags[drawn].sum(axis=0) >= 10).all()
    assert len(drawn) < 100


def test_held_out_documents_are_thinned_and_training_ones_stay() -> None:
    kept = some_held_out(["train", "validation"] * 100, 10)
    assert kept[::2].all()
    assert kept[1::2].sum() == 10


def test_a_chart_is_a_document_of_its_own() -> None:
    document = svg_document("loss < 9", {"ours": [(0, 9.0), (10, 6.0)], "peer": [(0, 9.0), (10, 7.0)]}, "steps")
    root = ElementTree.fromstring(document)
    said = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"loss < 9", "ours", "peer", "steps"} <= said
    assert len([*root.iter("{http://www.w3.org/2000/svg}polyline")]) == 2
    assert svg_document("nothing", {"ours": []}) == ""
