"""Packed rows mean what their documents mean, padded one by one; a document sees itself only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from corpus.order import StepRows
from corpus.shards import PackedRows
from encoder.batches import block_attention, document_layout, pad
from encoder.loading import load_tokenizer, new_masked_lm
from tests.support.tiny import WORDS, make_encoder, make_packed, make_roberta_encoder
from training.objectives import Batch, MaskedLanguageModel, masked_logits

# B rows, T tokens, M masked positions, V vocabulary
FAMILIES = {"bert": make_encoder, "roberta": make_roberta_encoder}
Packed = list[list[int]]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A tiny masked language model in evaluation mode, its tokenizer and its folder."""
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("encoders") / request.param)
    model = new_masked_lm(str(folder), seed=1)
    with torch.no_grad():  # else the fresh head and biases answer much the same everywhere
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model.eval(), load_tokenizer(str(folder)), folder


def documents_of(tokenizer: Any, *lengths: int) -> Packed:
    random = np.random.default_rng(sum(lengths))
    found: Packed = tokenizer([" ".join(random.choice(WORDS, length)) for length in lengths])["input_ids"]
    return found


def batch_of(rows: Sequence[Packed], masked: Sequence[int] | None = None, pad_id: int = 0) -> Batch:
    """A batch of packed rows; every token is asked for unless ``masked`` names flat positions."""
    ids_BT, mask_BT = pad([[token for document in row for token in document] for row in rows], pad_id)
    starts = [[0, *np.cumsum([len(document) for document in row])[:-1].tolist()] for row in rows]
    document_BT, positions_BT = document_layout(starts, mask_BT.sum(1).tolist(), ids_BT.shape[1])
    asked = mask_BT.reshape(-1).nonzero().squeeze(1) if masked is None else torch.tensor(masked)
    return {
        "input_ids": ids_BT,
        "documents": document_BT,
        "position_ids": positions_BT,
        "masked": asked,
        "labels": torch.arange(len(asked)) % 7,
        "weight": torch.tensor(1.0),
    }


def test_rows_are_padded_on_the_right() -> None:
    ids_BT, mask_BT = pad([[5, 6, 7], [8]], 9)
    assert ids_BT.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_layout_counts_documents_and_positions_from_each_start() -> None:
    document_BT, positions_BT = document_layout([[0, 2], [0]], [5, 3], 6)
    assert document_BT.tolist() == [[0, 0, 1, 1, 1, -1], [0, 0, 0, -1, -1, -1]]
    assert positions_BT.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 0, 0, 0]]


packed_rows = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=5)  # sizes of documents


@given(sizes=packed_rows, more=st.integers(0, 4), as_arrays=st.booleans())
def test_padding_and_layout_are_those_of_a_loop_over_rows_and_documents(sizes: list[list[int]], more: int, as_arrays: bool) -> None:
    rows = [[100 + row * 50 + token for token in range(sum(documents))] for row, documents in enumerate(sizes)]
    starts = [[0, *np.cumsum(documents)[:-1].tolist()] for documents in sizes]
    lengths, longest = [len(row) for row in rows], max(map(len, rows))
    ids, mask, documents, positions = [], [], [], []
    for row, inside in zip(rows, sizes, strict=True):
        ids.append(row + [9] * (longest - len(row)))
        mask.append([1] * len(row) + [0] * (longest - len(row)))
        gap = longest + more - len(row)
        documents.append([number for number, size in enumerate(inside) for _ in range(size)] + [-1] * gap)
        positions.append([place for size in inside for place in range(size)] + [0] * gap)

    def given_as(lists: list[list[int]]) -> Any:
        return [np.array(item, dtype=np.int32) for item in lists] if as_arrays else lists

    ids_BT, mask_BT = pad(given_as(rows), 9)
    document_BT, positions_BT = document_layout(given_as(starts), lengths, longest + more)
    assert (ids_BT.tolist(), mask_BT.tolist()) == (ids, mask)
    assert (document_BT.tolist(), positions_BT.tolist()) == (documents, positions)
    assert {tensor.dtype for tensor in (ids_BT, mask_BT, document_BT, positions_BT)} == {torch.int64}


def test_no_token_attends_to_another_document_and_none_to_nothing() -> None:
    document_BT, _ = document_layout([[0, 2], [0]], [5, 3], 6)
    mask_BTT = block_attention(document_BT)[:, 0]
    assert mask_BTT.any(dim=2).all()
    for row, documents in enumerate(document_BT):
        assert torch.equal(mask_BTT[row], documents[:, None] == documents[None, :])


def test_packed_rows_answer_as_their_documents_padded_one_by_one(family: tuple[Any, Any, Path]) -> None:
    model, tokenizer, _ = family
    documents = documents_of(tokenizer, 3, 11, 1, 6, 2)
    with torch.no_grad():
        packed_MV = masked_logits(model, batch_of([documents[:2], documents[2:]], pad_id=tokenizer.pad_token_id))
        ids_BT, mask_BT = pad(documents, tokenizer.pad_token_id)
        padded_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    assert packed_MV.std() > 0.1
    torch.testing.assert_close(packed_MV, padded_BTV[mask_BT.bool()], atol=1e-5, rtol=0)


def test_another_document_in_the_row_changes_nothing_for_its_neighbour(family: tuple[Any, Any, Path]) -> None:
    model, tokenizer, _ = family
    first, second, other = documents_of(tokenizer, 5, 7, 9)
    with torch.no_grad():
        answers = [masked_logits(model, batch_of([[first, neighbour]], masked=range(len(first)))) for neighbour in (second, other)]
    torch.testing.assert_close(answers[0], answers[1], atol=1e-6, rtol=0)


def test_loss_and_gradients_at_masked_positions_are_those_of_the_full_computation(family: tuple[Any, Any, Path], tmp_path: Path) -> None:
    model, tokenizer, folder = family
    packed = PackedRows.open(make_packed(tmp_path / "packed", folder, rows=30))
    objective = MaskedLanguageModel(
        packed, mask_share=0.2, seed=3, mask_id=tokenizer.mask_token_id, pad_id=tokenizer.pad_token_id, vocabulary=model.config.vocab_size
    )
    rows = StepRows(np.array([0, 0, 1]), np.array([0, 2, 1]))
    batch = objective.batch(rows, [0, 1, 2], 1.0)
    assert len(batch["labels"]) == objective.count(rows)

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}

    offset = tokenizer.pad_token_id + 1 if model.config.model_type == "roberta" else 0
    logits_BTV = model(
        input_ids=batch["input_ids"], attention_mask=block_attention(batch["documents"]), position_ids=batch["position_ids"] + offset
    ).logits
    labels_BT = torch.full_like(batch["input_ids"], -100).reshape(-1)
    labels_BT[batch["masked"]] = batch["labels"]
    full = functional.cross_entropy(logits_BTV.reshape(len(labels_BT), -1), labels_BT, reduction="sum")
    sparse = objective.loss_sum(model, batch)
    torch.testing.assert_close(sparse, full, rtol=1e-5, atol=1e-5)
    wanted, found = gradients(full), gradients(sparse)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=name)
