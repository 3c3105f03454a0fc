"""How good a classifier is on labelled rows, beside a baseline on the same split, and whether that passes its gates.

The baseline is TF-IDF of words and word pairs with logistic regression: what a model has to beat to be worth serving.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from corpus.labelled import LabelledData, LabelledSplit
from foundation.bundle import Bundle, Gate
from foundation.errors import DataError
from training.metrics import classification_metrics, confusion_matrix


@dataclass(frozen=True)
class LabelReport:
    """One class."""

    label: str
    precision: float
    recall: float
    f1: float
    rows: int


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on one set of rows."""

    model: str
    rows: int
    data_fingerprint: str
    metrics: dict[str, float]
    """``accuracy``, ``macro_f1``, and ``baseline_accuracy``, ``baseline_macro_f1`` when a baseline was fitted."""
    labels: tuple[LabelReport, ...]
    gates: tuple[Gate, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"gates": [gate.model_dump() for gate in self.gates], "passed": self.passed}


def align(split: LabelledSplit, data_labels: tuple[str, ...], model_labels: tuple[str, ...], where: str) -> np.ndarray:
    """The split's labels as indices into the model's labels (B,).

    Raises:
        DataError: The data has a label that the model does not know.
    """
    unknown = [label for label in data_labels if label not in model_labels]
    if unknown:
        raise DataError(f"{where}: label {unknown[0]!r} is unknown to the model, whose labels are {', '.join(model_labels)}")
    places = np.array([model_labels.index(label) for label in data_labels], dtype=np.int64)
    aligned: np.ndarray = places[np.asarray(split.labels)]
    return aligned


def evaluate_bundle(
    model: str, bundle: Bundle, data: LabelledData, split: LabelledSplit, *, where: str, gates: Mapping[str, float], baseline: bool
) -> Evaluation:
    """Score a bundle on ``split``.

    Args:
        model: The REF, for the report.
        bundle: A verified single-label bundle.
        data: Where ``split`` is from; its training rows fit the baseline.
        split: The rows to score.
        where: The file, for messages.
        gates: Metric to least value; without any, accuracy has to beat the most frequent class.
        baseline: Fit the TF-IDF baseline on the training rows.

    Raises:
        DataError: No rows, unknown labels, or no training rows for a baseline.
    """
    from encoder.classifier import SequenceClassifier
    from training.export import gates_of, majority_share

    if not len(split):
        raise DataError(f"{where}: no rows to evaluate on; give a file with labelled rows")
    began = time.perf_counter()
    classifier = SequenceClassifier.load(bundle.path)
    truth = align(split, data.labels, classifier.labels, where)
    predicted = classifier.score(split.texts).argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, len(classifier.labels))
    metrics = classification_metrics(confusion)
    if baseline:
        # It chooses nothing, so it may learn from what the model had to hold back.
        known = [data.train, data.validation] if split is data.test else [data.train]
        found = baseline_metrics(
            [text for part in known for text in part.texts], np.concatenate([part.labels for part in known]), split, where
        )
        metrics |= {f"baseline_{name}": value for name, value in found.items()}
    return Evaluation(
        model=model,
        rows=len(split),
        data_fingerprint=data.fingerprint,
        metrics=metrics,
        labels=label_reports(confusion, classifier.labels),
        gates=gates_of(gates, metrics, majority_share(list(truth))),
        seconds=round(time.perf_counter() - began, 2),
    )


def baseline_metrics(texts: list[str], labels: np.ndarray, test: LabelledSplit, where: str) -> dict[str, float]:
    """Metrics on ``test`` of TF-IDF (1- and 2-grams, sublinear) with logistic regression, fitted on ``texts`` and ``labels`` (B,)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(np.unique(labels)) < 2:
        raise DataError(f"{where}: the baseline needs training rows of two classes; give a folder with a train split, or --no-baseline")
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1), LogisticRegression(C=10.0, max_iter=1000))
    pipeline.fit(texts, labels)
    predicted = np.asarray(pipeline.predict(test.texts))
    classes = int(max(labels.max(), np.max(test.labels))) + 1
    return classification_metrics(confusion_matrix(np.asarray(test.labels), predicted, classes))


def label_reports(confusion: np.ndarray, labels: tuple[str, ...]) -> tuple[LabelReport, ...]:
    """Precision, recall and F1 of each class from a (C, C) confusion matrix, truth by prediction."""
    reports = []
    for index, label in enumerate(labels):
        right, said, are = confusion[index, index], confusion[:, index].sum(), confusion[index].sum()
        precision, recall = float(right / said) if said else 0.0, float(right / are) if are else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        reports.append(LabelReport(label, precision, recall, f1, int(are)))
    return tuple(reports)


def table(evaluation: Evaluation) -> str:
    """The evaluation for people."""
    lines = [f"{evaluation.model} on {evaluation.rows} rows ({evaluation.seconds:.1f} s)"]
    lines += [f"  {name:<20} {value:.4f}" for name, value in evaluation.metrics.items()]
    lines.append(f"  {'label':<20} {'precision':>9} {'recall':>7} {'f1':>7} {'rows':>6}")
    lines += [f"  {row.label:<20} {row.precision:>9.4f} {row.recall:>7.4f} {row.f1:>7.4f} {row.rows:>6}" for row in evaluation.labels]
    for gate in evaluation.gates:
        verdict = "passed" if gate.passed else "FAILED"
        lines.append(f"  gate {gate.metric} ≥ {gate.wanted:.4f}: found {gate.found:.4f}, {verdict}")
    return "\n".join(lines)
