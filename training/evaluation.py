"""How good a model is on labelled rows, beside a baseline on the same split, and whether that passes its gates.

Each task has its metrics, its baseline and its default gate. The baselines read TF-IDF of words and word pairs: logistic regression of one
label, the same one-vs-rest of several, ridge regression of a number. That is what a model has to beat to be worth serving.
N = rows, C = labels.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from corpus.labelled import LabelledData, LabelledSplit
from corpus.labelled_config import LabelKind
from foundation.bundle import LOWER_IS_BETTER, Bundle, Gate, TaskKind
from foundation.errors import ConfigError, DataError
from foundation.progress import say
from training.metrics import classification_metrics, confusion_matrix
from training.task_metrics import (
    best_constant_micro_f1,
    multi_label_counts,
    multi_label_metrics,
    regression_metrics,
    regression_sums,
    spearman,
)

LABEL_KINDS: dict[TaskKind, LabelKind] = {"single_label": "single", "multi_label": "list", "regression": "number"}
"""What rows hold that a task is measured on."""
METRICS: dict[LabelKind, tuple[str, ...]] = {
    "single": ("accuracy", "macro_f1"),
    "list": ("micro_f1", "macro_f1", "subset_accuracy"),
    "number": ("pearson", "spearman", "mae", "rmse", "r2"),
}


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
    """Those of ``METRICS``, and the same of the baseline as ``baseline_…`` when one was fitted."""
    labels: tuple[LabelReport, ...]
    """Nothing for a regression."""
    gates: tuple[Gate, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"gates": [gate.model_dump() for gate in self.gates], "passed": self.passed}


def check_kind(bundle: Bundle, data: LabelledData, where: str) -> LabelKind:
    """What the rows hold, if it is what the model answers.

    Raises:
        DataError: It is not, or the model was trained on pairs and there are none.
    """
    task = bundle.manifest.task
    wanted = LABEL_KINDS.get(task)
    if data.kind != wanted:
        raise DataError(f"{where}: found label_kind: {data.kind}; a {task} model is measured on label_kind: {wanted or 'none'}")
    if bundle.manifest.takes_pairs and not data.has_pairs:
        raise DataError(f"{where}: holds single texts, the model was trained on pairs; name the second text's column (--pair-column)")
    if data.has_pairs and not bundle.manifest.takes_pairs:
        say(f"warning: {where}: holds pairs of texts, the model was trained on single ones; it reads both as one input")
    return wanted


def check_gates(gates: Mapping[str, float], kind: LabelKind, *, baseline: bool) -> None:
    """Refuse gates on what is not measured.

    Raises:
        ConfigError: Names the metric and those that there are.
    """
    known = [*METRICS[kind], *(f"baseline_{name}" for name in METRICS[kind] if baseline)]
    unknown = sorted(set(gates) - set(known))
    if unknown:
        raise ConfigError(f"gate {unknown[0]}: not measured on label_kind: {kind}; known metrics: {', '.join(known)}")


def align(split: LabelledSplit, data_labels: tuple[str, ...], model_labels: tuple[str, ...], where: str) -> np.ndarray:
    """The split's labels as indices into the model's labels (N,), as flags for each of them (N, C), or the numbers that they are (N,).

    Raises:
        DataError: The data has a label that the model does not know.
    """
    if split.labels.dtype == np.float64:
        return split.labels
    unknown = [label for label in data_labels if label not in model_labels]
    if unknown:
        raise DataError(f"{where}: label {unknown[0]!r} is unknown to the model, whose labels are {', '.join(model_labels)}")
    places = np.array([model_labels.index(label) for label in data_labels], dtype=np.int64)
    if split.labels.ndim == 1:
        return np.asarray(places[split.labels])
    flags_NC = np.zeros((len(split), len(model_labels)), dtype=np.bool_)
    flags_NC[:, places] = split.labels
    return flags_NC


def evaluate_bundle(
    model: str, bundle: Bundle, data: LabelledData, split: LabelledSplit, *, where: str, gates: Mapping[str, float], baseline: bool
) -> Evaluation:
    """Score a bundle on ``split``.

    Args:
        model: The REF, for the report.
        bundle: A verified bundle that is no encoder's.
        data: Where ``split`` is from; its training rows fit the baseline.
        split: The rows to score.
        where: The file, for messages.
        gates: Metric to the figure that it has to reach; without any, the model has to be as good as the best constant answer.
        baseline: Fit the TF-IDF baseline on the training rows.

    Raises:
        DataError: No rows, rows of another kind, unknown labels, or no training rows for a baseline.
        ConfigError: A gate on what is not measured.
    """
    from encoder.classifier import SequenceClassifier

    if not len(split):
        raise DataError(f"{where}: no rows to evaluate on; give a file with labelled rows")
    kind = check_kind(bundle, data, where)
    check_gates(gates, kind, baseline=baseline)
    began = time.perf_counter()
    classifier = SequenceClassifier.load(bundle.path)
    truth = align(split, data.labels, classifier.labels, where)
    predicted = classifier.decide(classifier.score(inputs(split)))
    metrics = metrics_of(truth, predicted, len(classifier.labels))
    if baseline:
        # It chooses nothing, so it may learn from what the model had to hold back.
        known = [data.train, data.validation] if split is data.test else [data.train]
        metrics |= {f"baseline_{name}": value for name, value in baseline_metrics(known, split, where).items()}
    return Evaluation(
        model=model,
        rows=len(split),
        data_fingerprint=data.fingerprint,
        metrics=metrics,
        labels=label_reports(truth, predicted, classifier.labels),
        gates=tuple(Gate.check(name, wanted, metrics[name]) for name, wanted in (gates or constant_answer(truth)).items()),
        seconds=round(time.perf_counter() - began, 2),
    )


def metrics_of(truth: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """The metrics of ``METRICS`` for two arrays of the same kind: indices (N,), flags (N, C), or numbers (N,)."""
    if truth.dtype == np.float64:
        found = regression_metrics(regression_sums(truth, predicted)) | {"spearman": spearman(truth, predicted)}
        return {name: found[name] for name in METRICS["number"]}
    if truth.ndim == 2:
        return multi_label_metrics(*multi_label_counts(truth, predicted), rows=len(truth))
    return classification_metrics(confusion_matrix(truth, predicted, classes))


def constant_answer(truth: np.ndarray) -> dict[str, float]:
    """The gate where none is given: what the best answer that ignores the text reaches."""
    if truth.dtype == np.float64:
        return {"r2": 0.0}
    if truth.ndim == 2:
        return {"micro_f1": best_constant_micro_f1(truth)}
    return {"accuracy": float(np.bincount(truth).max() / len(truth))}


def baseline_metrics(known: Sequence[LabelledSplit], test: LabelledSplit, where: str) -> dict[str, float]:
    """Metrics on ``test`` of the baseline, fitted on the rows of ``known``."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    labels = np.concatenate([part.labels for part in known])
    texts = [text for part in known for text in _joined(part)]
    if labels.dtype == np.float64:
        model: Any = Ridge(alpha=1.0)
    else:
        model = LogisticRegression(C=10.0, max_iter=1000)
        if labels.ndim == 2:
            model = OneVsRestClassifier(model)
        elif len(np.unique(labels)) < 2:
            raise DataError(f"{where}: the baseline needs training rows of two classes; give a folder with a train split, or --no-baseline")
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1), model)
    with warnings.catch_warnings():
        # A label that no training row has, or every one: it is answered as it was seen.
        warnings.filterwarnings("ignore", message="Label .* is present in all training examples")
        warnings.filterwarnings("ignore", message="Label not .* is present in all training examples")
        pipeline.fit(texts, labels.astype(np.int64) if labels.dtype == np.bool_ else labels)
    predicted = np.asarray(pipeline.predict(_joined(test))).astype(labels.dtype)
    classes = int(max(labels.max(), np.max(test.labels))) + 1 if labels.dtype == np.int64 else 0
    return metrics_of(test.labels, predicted, classes)


def label_reports(truth: np.ndarray, predicted: np.ndarray, labels: tuple[str, ...]) -> tuple[LabelReport, ...]:
    """Precision, recall and F1 of each label, from indices (N,) or flags (N, C); nothing for numbers."""
    if truth.dtype == np.float64:
        return ()
    if truth.ndim == 1:
        each = np.arange(len(labels))
        truth, predicted = truth[:, None] == each, predicted[:, None] == each
    right_C, wrong_C, missed_C, _ = multi_label_counts(truth, predicted)
    reports = []
    for label, right, wrong, missed in zip(labels, right_C.tolist(), wrong_C.tolist(), missed_C.tolist(), strict=True):
        precision, recall = (right / total if total else 0.0 for total in (right + wrong, right + missed))
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        reports.append(LabelReport(label, precision, recall, f1, right + missed))
    return tuple(reports)


def table(evaluation: Evaluation) -> str:
    """The evaluation for people."""
    lines = [f"{evaluation.model} on {evaluation.rows} rows ({evaluation.seconds:.1f} s)"]
    lines += [f"  {name:<24} {value:.4f}" for name, value in evaluation.metrics.items()]
    if evaluation.labels:
        lines.append(f"  {'label':<24} {'precision':>9} {'recall':>7} {'f1':>7} {'rows':>6}")
        lines += [f"  {row.label:<24} {row.precision:>9.4f} {row.recall:>7.4f} {row.f1:>7.4f} {row.rows:>6}" for row in evaluation.labels]
    for gate in evaluation.gates:
        sign = "≤" if gate.metric in LOWER_IS_BETTER else "≥"
        verdict = "passed" if gate.passed else "FAILED"
        lines.append(f"  gate {gate.metric} {sign} {gate.wanted:.4f}: found {gate.found:.4f}, {verdict}")
    return "\n".join(lines)


def inputs(split: LabelledSplit) -> list[str | tuple[str, str]]:
    """Texts, or pairs of texts, as a classifier reads them."""
    return list(split.texts) if split.pairs is None else list(zip(split.texts, split.pairs, strict=True))


def _joined(split: LabelledSplit) -> list[str]:
    return split.texts if split.pairs is None else [f"{first}\n{second}" for first, second in zip(split.texts, split.pairs, strict=True)]
