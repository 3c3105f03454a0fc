"""A new head begins with what the training rows say on the whole, whatever their labels are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus.labelled import LabelledData, LabelledSplit
from corpus.labelled_config import LabelKind
from encoder.loading import new_classifier
from foundation.errors import EncoderError
from tests.support.tiny import FAMILIES, make_classifier_bundle, make_encoder
from training.config import FinetuneConfig
from training.fitting import output_bias
from training.tasks import target_tensor, task_of

ROWS = 500
CASES: dict[str, tuple[LabelKind, dict[str, Any]]] = {
    "single": ("single", {}),
    "weighted": ("single", {"class_weights": {"b": 4.0}}),
    "balanced": ("single", {"class_weights": "balanced"}),
    "smoothed": ("single", {"label_smoothing": 0.2}),
    "list": ("list", {}),
    "list, balanced": ("list", {"class_weights": "balanced"}),
    "list, smoothed": ("list", {"label_smoothing": 0.2}),
    "number": ("number", {}),
}


def labelled(kind: LabelKind) -> LabelledData:
    """Rows of three classes of very different size, or numbers far from 0."""
    random = np.random.default_rng(3)
    labels: Any = random.choice(3, ROWS, p=[0.8, 0.15, 0.05])
    if kind == "list":
        labels = (random.random((ROWS, 3)) < [0.5, 0.1, 0.02]).astype(np.int8)
    elif kind == "number":
        labels = random.normal(40, 3, ROWS)
    split = LabelledSplit(["good"] * ROWS, labels, [str(row) for row in range(ROWS)])
    return LabelledData(split, split, split, () if kind == "number" else ("a", "b", "c"), "0" * 64, kind)


@pytest.mark.parametrize("case", CASES)
def test_no_constant_answer_has_less_loss(case: str) -> None:
    kind, more = CASES[case]
    data = labelled(kind)
    recipe = FinetuneConfig.model_validate({"data": {"train": "rows.csv", "label_kind": kind}} | more)
    task, labels = task_of(recipe, data), target_tensor(data.train.labels)

    def loss(bias_C: torch.Tensor) -> torch.Tensor:
        return task.loss_sum(bias_C.expand(ROWS, -1), labels) / task.count(data.train.labels)

    found = torch.from_numpy(output_bias(recipe, data))
    best = torch.zeros_like(found, requires_grad=True)
    optimiser = torch.optim.LBFGS([best], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        now = loss(best)
        now.backward()  # type: ignore[no-untyped-call]
        return now

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    assert loss(found) == pytest.approx(loss(best).item(), rel=2e-3)
    if "balanced" not in case:  # then all classes count alike, as they do without a bias
        assert loss(found) < loss(torch.zeros_like(found)) - 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_head_has_it_in_every_family(family: str, tmp_path: Path) -> None:
    folder, bias_C = str(FAMILIES[family](tmp_path / family)), np.array([1.0, -2.0, 0.5], np.float32)
    without, with_it = (new_classifier(folder, ["a", "b", "c"], seed=1, output_bias=bias).eval() for bias in (None, bias_C))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(with_it(ids).logits - without(ids).logits, torch.from_numpy(bias_C)[None], atol=1e-5, rtol=0)


def test_a_head_that_the_encoder_brings_stays_as_it_is(tmp_path: Path) -> None:
    folder = str(make_classifier_bundle(tmp_path / "bundle").path)
    labels, bias_C = ["negative", "positive"], np.array([9.0, -9.0], np.float32)
    before, after = (new_classifier(folder, labels, seed=1, output_bias=bias).state_dict() for bias in (None, bias_C))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_head_for_other_labels_is_left_behind(tmp_path: Path) -> None:
    folder = str(make_classifier_bundle(tmp_path / "bundle").path)
    bias_C = np.array([1.0, -2.0, 0.5], np.float32)
    same, other = new_classifier(folder, ["negative", "positive"], seed=1), new_classifier(folder, list("abc"), seed=1, output_bias=bias_C)
    torch.testing.assert_close(other.classifier.bias, torch.from_numpy(bias_C))
    before, after = same.base_model.state_dict(), other.base_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 2 * config["intermediate_size"]}))
    with pytest.raises(EncoderError, match=r"intermediate.dense.* has the sizes \(64.*\), by its configuration they are \(128"):
        new_classifier(str(folder), ["a", "b"], seed=1)
