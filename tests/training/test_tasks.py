"""What labels mean to a model: transformers' own losses and gradients on padded rows, and the same step whatever micro-batches make it."""

from __future__ import annotations

import copy
import csv
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from corpus.labelled import LabelledData
from corpus.order import StepRows
from encoder.config import AttentionKind
from tests.support.steps import assert_near, gradients, one_thread
from tests.support.tiny import FAMILIES, WORDS
from training.assembly import Assembly, assemble
from training.config import FinetuneConfig
from training.division import Limits
from training.engine import TorchEngine
from training.loop import Applied, train
from training.optimiser_config import OptimiserConfig
from training.planning import read_labelled
from training.tasks import MultiLabel, Regression, SingleLabel, Task

# B rows, C classes
WEIGHTS = {"b": 3.0, "c": 0.5}
TASKS: dict[str, dict[str, Any]] = {
    "single": {},
    "weighted": {"class_weights": WEIGHTS},
    "balanced": {"class_weights": "balanced"},
    "smoothed": {"label_smoothing": 0.2},
    "list": {"data": {"label_column": "topics", "label_kind": "list", "label_separator": ";"}},
    "number": {"data": {"label_column": "stars", "label_kind": "number"}},
    "pairs": {"data": {"pair_column": "answer"}},
}
"""What the recipe says besides."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def write_rows(file: Path, rows: int = 30) -> Path:
    """Texts of 2 to 20 words with a class, a list of classes, a number and a second text each."""
    random = np.random.default_rng(5)
    words = [name for name in WORDS if name.isalpha()]
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "answer", "label", "topics", "stars"])
        for row in range(rows):
            texts = [" ".join(random.choice(words, random.integers(2, 20))) for _ in range(2)]
            topics = ";".join(name for name in "abc" if random.random() < 0.4) or "a"
            writer.writerow([*texts, "abc"[row % 7 % 3], topics, round(random.normal(), 3)])
    return file


class Place:
    """One family's encoder, the rows, and what is assembled of them."""

    def __init__(self, family: str, folder: Path) -> None:
        self.encoder = FAMILIES[family](folder / family)
        self._rows = write_rows(folder / "rows.csv")
        self.assembled: Callable[[str, AttentionKind], tuple[Assembly, LabelledData]] = cache(self._assembled)

    def _assembled(self, task: str, kind: AttentionKind) -> tuple[Assembly, LabelledData]:
        data = {"train": str(self._rows), "label_column": "label"} | TASKS[task].get("data", {})
        tree = {"encoder": str(self.encoder), "dropout": 0.0, "max_length": 48, "seed": 2} | TASKS[task] | {"data": data}
        recipe = FinetuneConfig.model_validate(tree)
        rows = read_labelled(recipe)
        return assemble(recipe, str(self.encoder), rows, attention=kind), rows


@pytest.fixture(scope="module", params=FAMILIES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(request.param, tmp_path_factory.mktemp("tasks"))


def their_loss(task: str, assembly: Assembly, data: LabelledData, rows: range) -> torch.Tensor:
    """transformers' loss on padded rows. Where it has no such loss: of its Trainer, or PyTorch's on its logits."""
    from transformers.trainer_pt_utils import LabelSmoother

    split = data.train.take(np.array(rows))
    padded = assembly.tokenizer(split.texts, split.pairs, padding=True, return_tensors="pt")
    accepted = inspect.signature(type(assembly.model).forward).parameters
    given = {name: values for name, values in padded.items() if name in accepted}
    labels = torch.from_numpy(split.labels if task not in ("list", "number") else split.labels.astype(np.float32))
    output = assembly.model(**given, labels=labels)
    if task == "smoothed":
        smoothed: torch.Tensor = LabelSmoother(epsilon=0.2)(output, labels.unsqueeze(1))
        return smoothed
    if task in ("weighted", "balanced"):
        counts_C = np.bincount(data.train.labels)
        weights = {"balanced": len(data.train) / (3 * counts_C), "weighted": np.array([1.0, 3.0, 0.5])}[task]
        return functional.cross_entropy(output.logits, labels, weight=torch.from_numpy(weights.astype(np.float32)))
    loss: torch.Tensor = output.loss
    return loss


@pytest.mark.parametrize("kind", ["runs", "padded"])
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_a_step_and_its_gradients_are_transformers_own_on_padded_rows(place: Place, task: str, kind: AttentionKind) -> None:
    assembly, data = place.assembled(task, kind)
    objective, model = assembly.objective, assembly.model.train()
    rows = StepRows(np.zeros(10, np.int64), np.arange(10))
    wanted = their_loss(task, assembly, data, range(10))
    found = objective.loss_sum(model, objective.batch(rows, range(10), 1.0)) / objective.count(rows)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert_near(gradients(model, found), gradients(model, wanted))


def test_the_texts_of_a_pair_are_told_apart_where_the_model_does_so(place: Place) -> None:
    assembly, data = place.assembled("pairs", "runs")
    found = assembly.objective.batch(StepRows(np.zeros(2, np.int64), np.arange(2)), range(2), 1.0)["documents"]
    tells = "token_type_ids" in assembly.tokenizer(*data.train.texts[:1], *(data.train.pairs or [])[:1])
    assert set(found.types_N.tolist()) == ({0, 1} if tells else {0})
    if assembly.model.config.model_type != "bert":
        return
    logits = [
        assembly.model(input_ids=found.ids_N[None], token_type_ids=types[None]).logits for types in (found.types_N, 0 * found.types_N)
    ]
    assert not torch.allclose(*logits), "BERT's answer should depend on token types"


class Stepping(TorchEngine):
    """Keeps the gradient that it stepped with."""

    gradient: dict[str, torch.Tensor]
    micro_batches = 0

    def accumulate(self, batch: Any, *, scale: float) -> float:
        self.micro_batches += 1
        return super().accumulate(batch, scale=scale)

    def apply(self, *, learning_rate: float) -> Applied:
        self.gradient = {name: part.grad.clone() for name, part in self.model.named_parameters() if part.grad is not None}
        return super().apply(learning_rate=learning_rate)


# Where a gradient is above epsilon, Adam's first step is its sign, and that of a gradient which is 0 but for rounding (a key's bias) says
# nothing. So epsilon is large here.
STEPPED = OptimiserConfig(epsilon=1e-3)


def one_step(assembly: Assembly, limits: Limits) -> tuple[float, Stepping]:
    """The loss of one step of twelve rows, and the engine after it."""
    engine = Stepping(copy.deepcopy(assembly.model), assembly.objective, STEPPED)
    arguments: Any = {"steps": 1, "rows_per_step": 12, "seed": 3, "learning_rate": lambda _: 1e-2, "seed_noise": torch.manual_seed}
    (report,) = train(engine, assembly.objective, limits=limits, **arguments)
    return report.loss, engine


def assert_same_step(assembly: Assembly, limits: Limits, *, micro_batches: int | None = None) -> None:
    wanted_loss, wanted = one_step(assembly, Limits(10**6, is_padded=limits.is_padded))
    found_loss, found = one_step(assembly, limits)
    assert wanted.micro_batches == 1
    assert micro_batches in (None, found.micro_batches)
    assert found_loss == pytest.approx(wanted_loss, rel=1e-5)
    assert_near(found.gradient, wanted.gradient)
    assert_near(dict(found.model.named_parameters()), dict(wanted.model.named_parameters()))
    moved = [not torch.equal(part, dict(assembly.model.named_parameters())[name]) for name, part in found.model.named_parameters()]
    assert any(moved), "the step should change something"


@pytest.mark.parametrize("task", TASKS)
def test_micro_batches_of_one_two_and_four_rows_give_the_same_step(place: Place, task: str) -> None:
    for rows in (1, 2, 4):
        assert_same_step(place.assembled(task, "runs")[0], Limits(10**6, rows), micro_batches=12 // rows)


@settings(max_examples=8)
@given(tokens=st.integers(4, 400), task=st.sampled_from(list(TASKS)), kind=st.sampled_from(("runs", "block", "padded")))
def test_any_token_budget_gives_the_same_step(place: Place, tokens: int, task: str, kind: AttentionKind) -> None:
    assert_same_step(place.assembled(task, kind)[0], Limits(tokens, is_padded=kind == "padded"))


def summed(task: Task, logits_BC: np.ndarray, labels_B: np.ndarray) -> dict[str, float]:
    """Metrics of counts that were summed over three parts."""
    parts = zip(np.array_split(logits_BC, 3), np.array_split(labels_B, 3), strict=True)
    counts = [task.counts(torch.from_numpy(logits), torch.from_numpy(labels)) for logits, labels in parts]
    return task.metrics(torch.stack(counts).sum(dim=0).tolist())


def test_metrics_of_single_classes_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    random = np.random.default_rng(0)
    truth, logits = random.integers(0, 3, 90), random.normal(size=(90, 3))
    said, scores = logits.argmax(axis=1), np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = {
        "validation_loss": log_loss(truth, scores),
        "accuracy": accuracy_score(truth, said),
        "macro_f1": f1_score(truth, said, average="macro"),
    }
    # Weights and smoothing are for training: they would make losses incomparable.
    task = SingleLabel(np.array([1.0, 3.0, 0.5], dtype=np.float32), 0.2)
    assert summed(task, logits, truth) == pytest.approx(wanted)


def test_metrics_of_several_classes_at_once_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    random = np.random.default_rng(1)
    truth, logits = random.random((90, 4)) < 0.4, random.normal(size=(90, 4))
    scores = 1 / (1 + np.exp(-logits))
    wanted = {
        "validation_loss": np.mean([log_loss(truth[:, place], scores[:, place]) for place in range(4)]),
        "micro_f1": f1_score(truth, logits > 0, average="micro"),
        "macro_f1": f1_score(truth, logits > 0, average="macro"),
        "subset_accuracy": accuracy_score(truth, logits > 0),
    }
    task = MultiLabel(np.full(4, 2.0, dtype=np.float32), 0.1)
    assert summed(task, logits, truth.astype(np.float64)) == pytest.approx(wanted)


def test_metrics_of_numbers_are_those_of_scikit_learn() -> None:
    from scipy.stats import pearsonr
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, root_mean_squared_error

    random = np.random.default_rng(2)
    truth = random.normal(3, 2, 90)
    said = truth + random.normal(0.5, 1, 90)
    wanted = {
        "validation_loss": mean_squared_error(truth, said),
        "pearson": pearsonr(truth, said)[0],
        "mae": mean_absolute_error(truth, said),
        "rmse": root_mean_squared_error(truth, said),
        "r2": r2_score(truth, said),
    }
    assert summed(Regression(), said[:, None], truth) == pytest.approx(wanted)
