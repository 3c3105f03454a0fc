"""An untrained model answers with the tokens' frequencies, in every family, also once transformers has loaded it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder.config import NewModelConfig
from encoder.loading import blank_masked_lm, load_tokenizer
from encoder.output_bias import answer_with_frequencies, log_frequencies
from tests.support.tiny import make_encoder


@given(counts=st.lists(st.integers(0, 10**9), min_size=1, max_size=30), beyond=st.integers(0, 5))
def test_frequencies_sum_to_one_and_no_token_is_impossible(counts: list[int], beyond: int) -> None:
    found = np.exp(log_frequencies(np.array(counts), len(counts) + beyond).astype(np.float64))
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert (found > 0).all()
    assert found[np.argmax(counts)] == found.max()  # counts that lie close together have the same frequency in fp32


@pytest.mark.parametrize(
    ("family", "next_sentence"), [("bert", False), ("bert", True), ("roberta", False), ("distilbert", False), ("modernbert", False)]
)
def test_a_new_model_answers_a_mask_with_the_frequencies(family: Any, next_sentence: bool, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(make_encoder(tmp_path / "tokenizer")))
    shape = NewModelConfig(family=family, layers=1, hidden=64, positions=32)
    model = blank_masked_lm(shape, tokenizer, len(tokenizer), seed=0, next_sentence=next_sentence)
    counts = np.random.default_rng(0).zipf(1.5, len(tokenizer)).clip(max=10_000)
    wanted = counts / counts.sum()
    entropy = -(wanted * np.log(wanted)).sum()
    assert cross_entropy(model, wanted) > entropy + 1
    answer_with_frequencies(model, counts)
    assert cross_entropy(model, wanted) < entropy + 0.1
    model.save_pretrained(tmp_path / "model")
    loaded = type(model).from_pretrained(tmp_path / "model")
    assert cross_entropy(loaded, wanted) == pytest.approx(cross_entropy(model, wanted), abs=1e-6)


def cross_entropy(model: Any, wanted: npt.NDArray[np.float64]) -> float:
    """Nats, of ``wanted`` tokens by what the model answers at the places of some input."""
    with torch.no_grad():
        answer = model.eval()(torch.arange(5, 25)[None])
    logits = answer.prediction_logits if "prediction_logits" in answer else answer.logits
    found = logits.log_softmax(-1)[0, :, : len(wanted)].double().mean(0).numpy()
    return float(-(wanted * found).sum())
