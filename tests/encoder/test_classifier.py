"""A classifier scores as ``transformers.pipeline`` does, alone and in batches, and tells what it cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.classifier import SequenceClassifier
from encoder.loading import check_vocabulary, load_tokenizer, longest_input, new_classifier, new_masked_lm
from foundation.errors import EncoderError
from tests.support.tiny import WORDS, make_classifier_bundle, make_encoder, make_roberta_encoder

LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier with two rows of token types, if its family has types at all."""
    made = tmp_path_factory.mktemp("classifiers") / request.param
    (make_encoder if request.param == "bert" else make_roberta_encoder)(made)
    new_classifier(str(made), LABELS, seed=2, dropout=0.0).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(4)
    found = [" ".join(random.choice(WORDS, random.integers(1, 40))) for _ in range(30)]
    return [*found, "", "Ünïcode ☃ 42!", "word " * 200]


def pipeline_scores(folder: Path, inputs: list[Any]) -> np.ndarray:
    from transformers import pipeline

    ask = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")
    answers = [ask(one, truncation=True, max_length=64) for one in inputs]
    answers = [answer[0] if isinstance(answer[0], list) else answer for answer in answers]
    return np.array([[next(row["score"] for row in answer if row["label"] == label) for label in LABELS] for answer in answers])


def test_scores_are_the_pipelines_alone_and_in_batches(folder: Path, texts: list[str]) -> None:
    classifier = SequenceClassifier.load(folder)
    wanted = pipeline_scores(folder, texts)
    assert wanted.std(axis=0).max() > 0.01
    np.testing.assert_allclose(classifier.score(texts), wanted, atol=1e-5)
    np.testing.assert_allclose(classifier.score(texts, rows_per_batch=5), wanted, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([classifier.score([text]) for text in texts]), wanted, atol=1e-5)


def test_pairs_are_scored_as_the_pipeline_does_also_beside_single_texts(folder: Path) -> None:
    classifier = SequenceClassifier.load(folder)
    pairs = [("this is good", "bad movie plot"), ("great", "music " * 80)]
    wanted = pipeline_scores(folder, [{"text": first, "text_pair": second} for first, second in pairs])
    np.testing.assert_allclose(classifier.score(pairs), wanted, atol=1e-5)
    mixed = classifier.score([pairs[0], "a single and rather long text of the very good music", pairs[1]])
    np.testing.assert_allclose(mixed[[0, 2]], wanted, atol=1e-5)
    assert classifier.tokenize([pairs[1]])[0].truncated


def test_what_is_cut_is_told(folder: Path) -> None:
    classifier = SequenceClassifier.load(folder)
    short, long = classifier.tokenize(["good movie", "movie " * 100])
    assert (short.truncated, short.length) == (False, len(short.ids))
    assert long.truncated
    assert len(long.ids) == classifier.max_length == 64
    assert long.length >= 102
    (whole,) = classifier.tokenize(["movie " * 100], truncate=False)
    assert (whole.truncated, len(whole.ids), whole.length) == (False, long.length, long.length)
    assert classifier.tokenize([]) == []
    assert classifier.score([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("problem", "logits", "wanted"),
    [
        ("single_label_classification", [[0.0, np.log(3.0)]], [[0.25, 0.75]]),
        ("single_label_classification", [[1000.0, 0.0]], [[1.0, 0.0]]),
        ("single_label_classification", [[0.0]], [[0.5]]),
        ("multi_label_classification", [[0.0, np.log(3.0)]], [[0.5, 0.75]]),
        ("regression", [[2.5]], [[2.5]]),
    ],
)
def test_probabilities_follow_the_problem_type(problem: str, logits: list[list[float]], wanted: list[list[float]], folder: Path) -> None:
    classifier = SequenceClassifier.load(folder)
    classifier.problem_type = problem
    np.testing.assert_allclose(classifier.probabilities(np.array(logits, dtype=np.float32)), wanted, rtol=1e-6)


def test_decisions_follow_the_task_and_a_bundles_own_thresholds(tmp_path: Path) -> None:
    scores = np.array([[0.2, 0.5, 0.6], [0.7, 0.4, 0.1]], dtype=np.float32)
    single = SequenceClassifier.load(make_classifier_bundle(tmp_path / "single", LABELS).path)
    assert (single.task, single.decide(scores).tolist()) == ("single_label", [2, 0])
    thresholds = {"negative": 0.1, "positive": 0.65}
    tagged = make_classifier_bundle(tmp_path / "multi", LABELS, task="multi_label", thresholds=thresholds)
    multi = SequenceClassifier.load(tagged.path)
    assert multi.task == "multi_label"
    assert multi.decide(scores).tolist() == [[True, True, False], [True, False, False]]
    assert abs(multi.score(["a good movie"]).sum() - 1) > 0.01
    value = SequenceClassifier.load(make_classifier_bundle(tmp_path / "value", ["stars"], task="regression", takes_pairs=True).path)
    assert (value.task, value.labels, value.takes_pairs) == ("regression", ("stars",), True)
    found = value.decide(value.score([("good", "movie"), ("bad", "movie")]))
    assert found.dtype == np.float64
    assert found.shape == (2,)
    assert found[0] != found[1]


def test_a_bundle_and_a_configuration_that_say_different_tasks_are_refused(tmp_path: Path) -> None:
    bundle = make_classifier_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle.path / "raybert.json").read_text())
    (bundle.path / "raybert.json").write_text(json.dumps(manifest | {"task": "regression"}))
    with pytest.raises(EncoderError, match=r"says regression, config\.json has problem_type single_label_classification"):
        SequenceClassifier.load(bundle.path)


def test_a_bundle_brings_its_own_longest_input_and_labels(tmp_path: Path) -> None:
    bundle = make_classifier_bundle(tmp_path / "bundle", LABELS)
    classifier = SequenceClassifier.load(bundle.path)
    assert classifier.labels == LABELS
    assert classifier.max_length == bundle.manifest.max_length


def test_an_encoders_bundle_or_an_empty_folder_is_no_classifier(tmp_path: Path) -> None:
    bundle = make_classifier_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle.path / "raybert.json").read_text())
    (bundle.path / "raybert.json").write_text(json.dumps(manifest | {"task": "masked_lm"}))
    with pytest.raises(EncoderError, match="is a masked_lm bundle, not a classifier"):
        SequenceClassifier.load(bundle.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match="empty"):
        SequenceClassifier.load(tmp_path / "empty")


def test_a_head_is_drawn_from_its_seed_and_moves_nobody_elses_random_numbers(folder: Path, tmp_path: Path) -> None:
    import torch

    encoder = make_encoder(tmp_path / "encoder")
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    heads = [new_classifier(str(encoder), LABELS, seed=seed).classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_dropout_can_be_overridden_and_the_decoder_is_tied(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    assert new_classifier(str(encoder), LABELS, seed=0, dropout=0.3).config.hidden_dropout_prob == 0.3
    assert new_classifier(str(encoder), LABELS, seed=0).config.hidden_dropout_prob == 0.1
    model = new_masked_lm(str(encoder), seed=0)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_embeddings_are_added_up_to_a_multiple_of_64_and_only_where_they_are_missing(tmp_path: Path) -> None:
    import torch

    encoder = make_encoder(tmp_path / "encoder")
    plain = new_masked_lm(str(encoder), seed=0)
    size = plain.config.vocab_size
    for enough in (size - 1, size):
        fitting = new_masked_lm(str(encoder), seed=0, vocabulary=enough)
        assert fitting.config.vocab_size == size
        assert all(torch.equal(values, plain.state_dict()[name]) for name, values in fitting.state_dict().items())
    for wanted in (size + 1, 256, 257):
        grown = new_masked_lm(str(encoder), seed=0, vocabulary=wanted)
        embeddings = grown.bert.embeddings.word_embeddings.weight
        assert len(embeddings) == grown.config.vocab_size == -(-wanted // 64) * 64
        assert torch.equal(embeddings[:size], plain.bert.embeddings.word_embeddings.weight)
        assert grown.cls.predictions.decoder.weight is embeddings
        assert grown.cls.predictions.decoder.bias.shape == (len(embeddings),)


def test_too_long_inputs_and_a_foreign_tokenizer_are_refused(folder: Path) -> None:
    from transformers import AutoConfig

    config, tokenizer = AutoConfig.from_pretrained(folder), load_tokenizer(str(folder))
    assert longest_input(config, 64, "here") == 64
    with pytest.raises(EncoderError, match="max_length is 65 tokens, the model has positions for 64"):
        longest_input(config, 65, "here")
    config.vocab_size = 10
    with pytest.raises(EncoderError, match="the model has 10 embeddings"):
        check_vocabulary(config, tokenizer, "here")
