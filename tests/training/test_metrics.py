"""Metrics are scikit-learn's, from a confusion matrix that adds up over batches."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from corpus.labelled import LabelledSplit
from corpus.order import StepRows
from training.metrics import classification_metrics, confusion_matrix
from training.objectives import Supervised
from training.tasks import SingleLabel

answers = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60),
    )
)


@settings(deadline=None)
@given(answers)
def test_accuracy_and_macro_f1_are_scikit_learns(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = drawn
    truth, predicted = np.array(pairs).T
    found = classification_metrics(confusion_matrix(truth, predicted, classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))


def test_no_rows_score_nothing() -> None:
    assert classification_metrics(np.zeros((3, 3))) == {"accuracy": 0.0, "macro_f1": 0.0}


class Fixed:
    """A model whose logits are looked up by the first token."""

    config = SimpleNamespace(pad_token_id=0)

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def forward(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self._logits[input_ids[:, 0]])

    __call__ = forward


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(0, 2**16), st.integers(1, 7))
def test_counts_merge_over_batches_and_fillers_add_nothing(rows: int, seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(size=(rows, 3)), dtype=torch.float32)
    labels = random.integers(0, 3, rows)
    split = LabelledSplit([""] * rows, labels, [str(row) for row in range(rows)])
    ids = [np.array([row, 5], dtype=np.int32) for row in range(rows)]
    objective = Supervised(ids, split.labels, split.ids, task=SingleLabel(np.ones(3, np.float32)), attention="padded")
    everything = StepRows(np.zeros(rows, dtype=np.int64), np.arange(rows))
    model = Fixed(logits)
    sums = torch.zeros(10, dtype=torch.float64)
    for start in range(0, rows, size):
        sums += objective.counts(model, objective.batch(everything, range(start, min(rows, start + size)), 1.0))
    sums += objective.counts(model, objective.batch(everything, [0], 0.0))
    found = objective.metrics(sums.tolist())
    assert found["validation_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels))), rel=1e-5)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1).numpy()))
