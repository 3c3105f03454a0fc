"""A served model is checked before it answers, and answers what transformers answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foundation.bundle import Bundle, GoldenRequest, reseal
from foundation.errors import BundleError, EncoderError
from serving.classifier import Classifier
from serving.errors import InvalidRequest
from tests.support.tiny import WORDS, make_classifier_bundle, make_encoder

TEXTS = [" ".join(WORDS[start : start + length]) for start in range(0, 40, 4) for length in (1, 3, 9, 30)] + ["", "good " * 200]


def test_scores_equal_the_transformers_pipeline_alone_and_in_batches(bundle: Bundle, classifier: Classifier) -> None:
    from transformers import pipeline

    reference = pipeline("text-classification", model=str(bundle.path), tokenizer=str(bundle.path), top_k=None, device="cpu")
    wanted = [{item["label"]: item["score"] for item in reference([text], truncation=True, max_length=64)[0]} for text in TEXTS]
    alone = [classifier.classify([text])[0] for text in TEXTS]
    together = classifier.classify(TEXTS)
    for expected, single, batched in zip(wanted, alone, together, strict=True):
        for found in (single, batched):
            scores = {item.label: item.score for item in found.labels}
            assert scores == pytest.approx(expected, abs=1e-4)


def test_labels_come_best_first_and_top_k_and_threshold_cut_them(classifier: Classifier) -> None:
    (everything,) = classifier.classify(["a good product"])
    scores = [item.score for item in everything.labels]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0, abs=1e-5)
    assert classifier.classify(["a good product"], top_k=2)[0].labels == everything.labels[:2]
    assert classifier.classify(["a good product"], threshold=scores[0])[0].labels == everything.labels[:1]
    assert classifier.classify(["a good product"], threshold=1.0)[0].labels == ()


def test_raw_scores_are_the_logits(classifier: Classifier) -> None:
    (raw,) = classifier.classify(["a good product"], raw_scores=True)
    (scored,) = classifier.classify(["a good product"])
    logits = np.array([item.score for item in raw.labels])
    assert [item.label for item in raw.labels] == [item.label for item in scored.labels]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), [item.score for item in scored.labels], atol=1e-5)


def test_a_long_text_is_cut_and_said_so_or_refused_with_both_lengths(classifier: Classifier) -> None:
    (cut,) = classifier.classify(["good " * 100])
    assert (cut.tokens, cut.truncated) == (64, True)
    with pytest.raises(InvalidRequest, match=r"text 1 has 102 tokens, the model takes 64") as refused:
        classifier.classify(["short", "good " * 100], truncate=False)
    assert refused.value.field == "inputs.1"


def test_an_altered_bundle_is_refused(altered_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"config\.json: altered"):
        Classifier.open(str(altered_bundle.path))


def test_a_bundle_that_no_longer_gives_its_recorded_scores_is_refused(tmp_path: Path) -> None:
    made = make_classifier_bundle(tmp_path / "drifted")
    golden = GoldenRequest(text="this is a good product", scores={"negative": 0.5, "positive": 0.5})
    reseal(made, golden=(golden,))
    with pytest.raises(BundleError, match="golden request 'this is a good product'"):
        Classifier.open(str(made.path))


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a bundle, it has no raybert\.json"):
        Classifier.open(str(make_encoder(tmp_path / "encoder")))
    with pytest.raises(EncoderError, match="no such folder"):
        Classifier.open(str(tmp_path / "nowhere"))
