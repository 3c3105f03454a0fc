"""Documents without padding mean what they mean alone, in every family and for every kind of attention; a document sees itself only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from corpus.order import StepRows
from corpus.shards import PackedRows
from encoder.config import AttentionKind
from encoder.last_layer import last_layer
from encoder.layout import divided, layout
from encoder.loading import load_tokenizer, new_classifier, new_masked_lm
from encoder.padding_free import Documents, check_same, class_logits, documents, masked_logits, prepare
from foundation.errors import EncoderError
from tests.support.steps import gradients
from tests.support.tiny import FAMILIES, WORDS, make_packed
from training.objectives import MaskedLanguageModel

# D documents, N tokens, V vocabulary
KINDS = ("runs", "block", "padded")
Ids = list[np.ndarray]


def awake(model: Any) -> Any:
    """In evaluation mode, with biases that are not 0: else a fresh head answers much the same everywhere."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model.eval()


class Family:
    """A tiny encoder of one family with either head."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, FAMILIES[name](folder / name)
        self.tokenizer = load_tokenizer(str(self.folder))
        self.masked_lm = awake(new_masked_lm(str(self.folder), seed=1))
        self.classifier = awake(new_classifier(str(self.folder), ["a", "b", "c"], seed=1))

    def texts(self, *lengths: int) -> Ids:
        random = np.random.default_rng(sum(lengths))
        found = self.tokenizer([" ".join(random.choice(WORDS, length)) for length in lengths])["input_ids"]
        return [np.asarray(row, dtype=np.int32) for row in found]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp("encoders"))


def joined(rows: Ids, kind: AttentionKind) -> tuple[Documents, list[int]]:
    found, placed = documents(np.concatenate(rows), np.array([len(row) for row in rows]), kind)
    return found, placed.documents_D.tolist()


def alone(model: Any, row: np.ndarray) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.from_numpy(row.astype(np.int64)).unsqueeze(0)).logits
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_documents_in_one_row_answer_as_each_alone(family: Family, kind: AttentionKind) -> None:
    rows = family.texts(3, 11, 1, 20, 2, 11)
    found, order = joined(rows, kind)
    with torch.no_grad():
        of_words = masked_logits(family.masked_lm, found.asking(np.arange(len(found.ids_N))))
        of_classes = class_logits(family.classifier, found)
        words_alone = torch.cat([alone(family.masked_lm, rows[i])[0] for i in order])
        classes_alone = torch.cat([alone(family.classifier, rows[i]) for i in order])
    assert words_alone.std() > 0.1
    assert classes_alone.std() > 0.01
    torch.testing.assert_close(of_words, words_alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(of_classes, classes_alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_another_document_changes_nothing_for_its_neighbour(family: Family, kind: AttentionKind) -> None:
    # As long, a little and much longer, so that it lies beside, in the same run and in the same folded row.
    first, *others = family.texts(9, 9, 9, 10, 25)
    answers = []
    for other in others:
        found, order = joined([first, other], kind)
        start = int(found.layout.ends[order.index(0)])
        with torch.no_grad():
            words = masked_logits(family.masked_lm, found.asking(np.arange(start, start + len(first))))
            answers.append(torch.cat([words.reshape(-1), class_logits(family.classifier, found)[order.index(0)]]))
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_at_masked_positions_are_those_of_the_full_computation(
    family: Family, kind: AttentionKind, tmp_path: Path
) -> None:
    model, tokenizer = family.masked_lm, family.tokenizer
    packed = PackedRows.open(make_packed(tmp_path / "packed", family.folder, rows=30))
    objective = MaskedLanguageModel(
        packed, mask_share=0.2, seed=3, mask_id=tokenizer.mask_token_id, vocabulary=model.config.vocab_size, attention=kind
    )
    rows = StepRows(np.array([0, 0, 1]), np.array([0, 2, 1]))
    batch = objective.batch(rows, [0, 1, 2], 1.0)
    assert len(batch["labels"]) == objective.count(rows)
    found: Documents = batch["documents"]
    labels_N = torch.full_like(found.ids_N, -100)
    labels_N[found.asked_K] = batch["labels"]
    full = torch.zeros(())
    for start, end in pairwise(found.layout.ends.tolist()):
        logits_TV = model(input_ids=found.ids_N[start:end].unsqueeze(0)).logits[0]
        if (labels_N[start:end] >= 0).any():
            full = full + functional.cross_entropy(logits_TV, labels_N[start:end], reduction="sum")
    sparse = objective.loss_sum(model, batch)
    torch.testing.assert_close(sparse / len(batch["labels"]), full / len(batch["labels"]), rtol=1e-5, atol=1e-5)
    wanted, ours = gradients(model, full / len(batch["labels"])), gradients(model, sparse / len(batch["labels"]))
    assert wanted.keys() == ours.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def layers_of(model: Any) -> Any:
    """The list of layers that ``last_layer`` takes the last one of."""
    last = last_layer(model.base_model)
    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and module[-1] is last)


def test_logits_are_computed_at_masked_positions_only(family: Family) -> None:
    found, _ = joined(family.texts(9, 4), "runs")
    seen: list[int] = []
    handle = family.masked_lm.get_output_embeddings().register_forward_hook(lambda _, __, output: seen.append(output.shape[-2]))
    try:
        assert masked_logits(family.masked_lm, found.asking(np.array([1, 7]))).shape[0] == 2
    finally:
        handle.remove()
    assert seen == [2]


def test_the_last_layer_is_computed_for_the_tokens_asked_for_only(family: Family) -> None:
    found, _ = joined(family.texts(9, 4, 4), "runs")
    for model, compute in ((family.masked_lm, masked_logits), (family.classifier, class_logits)):
        seen: list[int] = []
        handles = []
        for layer in layers_of(model)[-2:]:
            feed_forward = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)][-1]
            handles.append(feed_forward.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.shape[-2])))
        compute(model, found)
        for handle in handles:
            handle.remove()
        assert seen == [len(found.ids_N), 3]


def test_a_model_is_left_as_it_was(family: Family) -> None:
    (row,) = family.texts(7)
    with torch.no_grad():
        before = alone(family.classifier, row)
        class_logits(family.classifier, joined(family.texts(3, 5), "runs")[0])
        assert torch.equal(alone(family.classifier, row), before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_claimed_family_passes_the_trial_at_the_start_of_a_run(family: Family, kind: AttentionKind) -> None:
    check_same(family.masked_lm, kind, vocabulary=40, is_classifier=False)
    check_same(family.classifier, kind, vocabulary=40, is_classifier=True)


def test_attention_that_sees_other_documents_is_found_out_and_padded_rows_are_possible() -> None:
    from transformers import MPNetConfig, MPNetForSequenceClassification

    config = MPNetConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.3
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = prepare(MPNetForSequenceClassification(config))
    with pytest.raises(EncoderError, match=r"mpnet: logits without padding differ by .* from those of each document alone"):
        check_same(model, "runs", vocabulary=40, is_classifier=True)
    check_same(model, "padded", vocabulary=40, is_classifier=True)


def test_the_mean_over_each_document_is_pooled_where_the_head_takes_it(tmp_path: Path) -> None:
    folder = FAMILIES["modernbert"](tmp_path / "mean")
    model = awake(new_classifier(str(folder), ["a", "b"], seed=1))
    model.config.classifier_pooling = "mean"
    for kind in KINDS:
        check_same(model, kind, vocabulary=40, is_classifier=True)


sizes = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@given(lengths=sizes, kind=st.sampled_from(get_args(AttentionKind)))
def test_documents_are_put_in_the_order_of_their_lengths_and_none_is_lost(lengths: list[int], kind: AttentionKind) -> None:
    rows = [np.arange(size, dtype=np.int32) + 100 * number for number, size in enumerate(lengths)]
    found, placed = documents(np.concatenate(rows), np.array(lengths), kind)
    assert list(found.layout.lengths) == sorted(lengths)
    ends = found.layout.ends.tolist()
    for number, (start, end) in enumerate(pairwise(ends)):
        assert found.ids_N[start:end].tolist() == rows[placed.documents_D[number]].tolist()
        assert found.positions_N[start:end].tolist() == list(range(end - start))
    asked = np.arange(0, sum(lengths), 3)
    assert found.ids_N[placed.places(asked)].tolist() == np.concatenate(rows)[asked].tolist()
    if kind == "runs":
        assert sum(run.tokens for run in found.layout.runs) == sum(lengths)
        assert sum(run.rows for run in found.layout.runs) == len(lengths)


@given(lengths=sizes, kind=st.sampled_from(KINDS), seed=st.integers(0, 2**16))
def test_what_is_asked_for_is_the_last_that_was_asked_for(lengths: list[int], kind: AttentionKind, seed: int) -> None:
    found, _ = documents(np.arange(sum(lengths)), np.array(lengths), kind)  # asks for first tokens
    chosen = np.random.default_rng(seed).random(sum(lengths)) < 0.2
    chosen[seed % sum(lengths)] = True
    asked_K = np.flatnonzero(chosen)
    asked = found.asking(asked_K)
    assert asked.asked_K.tolist() == asked_K.tolist()
    assert sum(run.asked for run in asked.layout.runs) == len(asked_K)
    assert asked.layout.asked_ends is not None
    assert asked.layout.asked_ends[-1] == len(asked_K)
    assert found.layout.asking(asked_K).most_asked == asked.layout.most_asked <= found.layout.longest
    for run in asked.layout.runs:
        assert (run.asked_fold is None) == (run.asked == 0)
        if run.asked_fold is not None:
            assert len(set(run.asked_fold.places_N.tolist())) == run.asked


def test_a_run_without_masked_tokens_is_left_out(family: Family) -> None:
    rows = family.texts(2, 2, 30, 30)
    found, _ = joined(rows, "runs")
    assert len(found.layout.runs) > 1
    asked_K = np.array([len(found.ids_N) - 3])
    with torch.no_grad():
        logits = masked_logits(family.masked_lm, found.asking(asked_K))
        alone_TV = alone(family.masked_lm, found.ids_N[int(found.layout.ends[-2]) :].numpy())[0]
    torch.testing.assert_close(logits[0], alone_TV[-3], atol=1e-5, rtol=0)


@given(lengths=sizes)
def test_runs_are_divided_where_calls_and_padding_cost_least(lengths: list[int]) -> None:
    sizes_D = np.sort(np.array(lengths))

    def cost(ends: Sequence[int]) -> float:
        return sum(2000 + (end - start) * int(sizes_D[end - 1]) ** 2 for start, end in pairwise(ends))

    found = divided(sizes_D)
    assert (found[0], found[-1]) == (0, len(lengths))
    inner = range(1, len(lengths))
    every = [[0, *ends, len(lengths)] for count in range(min(3, len(lengths))) for ends in combinations(inner, count)]
    assert cost(found) <= min(cost(ends) for ends in every)


@given(lengths=sizes)
def test_a_fold_holds_every_document_whole_in_one_row(lengths: Sequence[int]) -> None:
    found = layout(sorted(lengths), "block")
    rows, width = found.fold.document_BT.shape
    assert width == max(lengths)
    assert rows <= len(lengths)
    assert len(set(found.fold.places_N.tolist())) == sum(lengths)
    assert found.fold.sources_BT[found.fold.places_N].tolist() == list(range(sum(lengths)))
    for document, size in enumerate(sorted(lengths)):
        inside = (found.fold.document_BT == document).nonzero()
        assert len(set(inside[:, 0].tolist())) == 1
        assert found.fold.offset_BT[tuple(inside.T)].tolist() == list(range(size))


def test_documents_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="order of their lengths"):
        layout([3, 2], "runs")
