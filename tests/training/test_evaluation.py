"""Evaluation of every task: metrics of what the model says, a baseline of the same kind, gates in the metric's own direction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus.config import LabelledDataConfig
from corpus.labelled import LabelledData, load_labelled
from encoder.classifier import SequenceClassifier
from foundation.bundle import Bundle
from foundation.errors import ConfigError, DataError
from raybert.main import main
from tests.support.tiny import make_classifier_bundle
from training.evaluation import Evaluation, evaluate_bundle, table

WORDS = ("good", "bad", "fast", "slow", "great", "awful", "nice", "poor")
TAGS = ("fast", "good", "slow")


def rows(seed: int, count: int = 60) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [random.choice(WORDS, 4, replace=False).tolist() for _ in range(count)]


def write(file: Path, kind: str, *, pairs: bool = False) -> Path:
    """Rows whose labels are the words themselves, so that a linear model can learn them."""
    lines: list[dict[str, Any]] = []
    for number, words in enumerate(rows(1)):
        labels: Any = {
            "single": "good" if "good" in words else "other",
            "list": [tag for tag in TAGS if tag in words],
            "number": 2.0 * ("good" in words) - ("bad" in words),
        }[kind]
        text = {"text": f"{words[0]} {number}", "second": " ".join(words[1:])} if pairs else {"text": f"{' '.join(words)} {number}"}
        lines.append(text | {"label": labels, "part": "test" if number % 3 == 0 else "train"})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def load(file: Path, kind: str, *, pairs: bool = False) -> LabelledData:
    tree = {"train": str(file), "label_kind": kind, "split_column": "part", "pair_column": "second" if pairs else None}
    return load_labelled(LabelledDataConfig.model_validate(tree))


def evaluate(bundle: Bundle, data: LabelledData, gates: dict[str, float] | None = None, *, baseline: bool = True) -> Evaluation:
    return evaluate_bundle("model", bundle, data, data.test, where="rows.jsonl", gates=gates or {}, baseline=baseline)


def make(folder: Path, task: Any, labels: Sequence[str], **more: Any) -> Bundle:
    return make_classifier_bundle(folder, labels, task=task, **more)


def test_a_multi_label_model_is_measured_at_its_thresholds_label_by_label(tmp_path: Path) -> None:
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    data = load(write(tmp_path / "rows.jsonl", "list"), "list")
    # Another order than the data's, a label more than it has, and thresholds that make every label both given and not.
    labels = ("slow", "unused", "good", "fast")
    plain = SequenceClassifier.load(make(tmp_path / "plain", "multi_label", labels).path)
    middle = dict(zip(labels, np.median(plain.score(data.test.texts), axis=0).tolist(), strict=True))
    bundle = make(tmp_path / "bundle", "multi_label", labels, thresholds=middle)
    found = evaluate(bundle, data, {"micro_f1": 0.01, "subset_accuracy": 0.99})
    truth = np.zeros((len(data.test), 4), dtype=bool)
    truth[:, [3, 2, 0]] = data.test.labels
    said = plain.score(data.test.texts) >= np.array(list(middle.values()), dtype=np.float32)
    assert said.any(axis=0).all()
    assert not said.all(axis=0).any()
    assert found.metrics["micro_f1"] == pytest.approx(f1_score(truth, said, average="micro"))
    assert found.metrics["subset_accuracy"] == pytest.approx((truth == said).all(axis=1).mean())
    precision, recall, f1, count = precision_recall_fscore_support(truth, said, zero_division=0)
    assert [report.label for report in found.labels] == list(labels)
    for index, report in enumerate(found.labels):
        wanted = (precision[index], recall[index], f1[index], count[index])
        assert (report.precision, report.recall, report.f1, report.rows) == pytest.approx(wanted)
    assert found.metrics["baseline_micro_f1"] > 0.9
    assert [gate.passed for gate in found.gates] == [True, False]
    assert not found.passed


def test_a_regression_is_measured_beside_ridge_and_its_errors_are_better_when_lower(tmp_path: Path) -> None:
    from scipy import stats

    data = load(write(tmp_path / "rows.jsonl", "number"), "number")
    bundle = make(tmp_path / "bundle", "regression", ["stars"])
    found = evaluate(bundle, data, {"mae": 100.0, "rmse": 0.0001, "spearman": -1.0})
    values = SequenceClassifier.load(bundle.path).score(data.test.texts)[:, 0]
    assert found.metrics["mae"] == pytest.approx(np.abs(values - data.test.labels).mean(), rel=1e-5)
    assert found.metrics["spearman"] == pytest.approx(stats.spearmanr(data.test.labels, values)[0], abs=1e-6)
    assert found.metrics["baseline_r2"] > 0.5
    assert found.labels == ()
    assert [gate.passed for gate in found.gates] == [True, False, True]
    assert "gate rmse ≤ 0.0001" in table(found)


def test_pairs_reach_the_model_and_the_baseline_as_pairs(tmp_path: Path) -> None:
    data = load(write(tmp_path / "rows.jsonl", "single", pairs=True), "single", pairs=True)
    bundle = make(tmp_path / "bundle", "single_label", ("good", "other"), takes_pairs=True)
    found = evaluate(bundle, data)
    assert data.test.pairs is not None
    said = SequenceClassifier.load(bundle.path).score(list(zip(data.test.texts, data.test.pairs, strict=True))).argmax(axis=1)
    assert found.metrics["accuracy"] == pytest.approx((said == data.test.labels).mean())
    # The word stands in the second text of most rows: who reads the first alone cannot reach this.
    assert found.metrics["baseline_accuracy"] > 0.85


def test_without_gates_a_model_has_to_be_as_good_as_the_best_constant_answer(tmp_path: Path) -> None:
    numbers = load(write(tmp_path / "numbers.jsonl", "number"), "number")
    (gate,) = evaluate(make(tmp_path / "stars", "regression", ["stars"]), numbers, baseline=False).gates
    assert (gate.metric, gate.wanted) == ("r2", 0.0)
    lists = load(write(tmp_path / "lists.jsonl", "list"), "list")
    (gate,) = evaluate(make(tmp_path / "tags", "multi_label", TAGS), lists, baseline=False).gates
    assert (gate.metric, gate.wanted) == ("micro_f1", pytest.approx(2 / 3, abs=0.1))
    classes = load(write(tmp_path / "classes.jsonl", "single"), "single")
    (gate,) = evaluate(make(tmp_path / "classes", "single_label", ("good", "other")), classes, baseline=False).gates
    assert gate.metric == "accuracy"
    assert gate.wanted == max(np.bincount(classes.test.labels.astype(np.int64))) / len(classes.test)


def test_rows_of_another_kind_single_texts_for_pairs_and_unknown_metrics_are_refused(tmp_path: Path) -> None:
    data = load(write(tmp_path / "rows.jsonl", "list"), "list")
    with pytest.raises(DataError, match="found label_kind: list; a regression model is measured on label_kind: number"):
        evaluate(make(tmp_path / "stars", "regression", ["stars"]), data)
    with pytest.raises(DataError, match="holds single texts, the model was trained on pairs"):
        evaluate(make(tmp_path / "pairs", "multi_label", TAGS, takes_pairs=True), data)
    with pytest.raises(DataError, match="label 'slow' is unknown to the model, whose labels are fast, good"):
        evaluate(make(tmp_path / "fewer", "multi_label", TAGS[:2]), data)
    with pytest.raises(ConfigError, match="gate accuracy: not measured on label_kind: list; known metrics: micro_f1, macro_f1, subset"):
        evaluate(make(tmp_path / "tags", "multi_label", TAGS), data, {"accuracy": 0.5})


def test_the_command_reads_labels_as_the_models_task_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))
    tags, stars = make(tmp_path / "tags", "multi_label", TAGS), make(tmp_path / "stars", "regression", ["stars"], takes_pairs=True)
    plain = tmp_path / "tags.csv"
    plain.write_text("text,label\ngood one,good;fast\nslow one,slow\n")
    asked = ["evaluate", "--model", str(tags.path), "--data", str(plain), "--label-separator", ";", "--gate", "micro_f1=0", "--json"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], [report["rows"] for report in found["labels"]]) == (2, [1, 1, 1])
    numbers = write(tmp_path / "numbers.jsonl", "number", pairs=True)
    asked = ["evaluate", "--model", str(stars.path), "--data", str(numbers), "--pair-column", "second", "--gate", "mae=0.0001", "--json"]
    assert main(asked) == 3
    assert json.loads(capsys.readouterr().out)["gates"][0]["passed"] is False
    assert main([*asked, "--label-separator", ";"]) == 2
    assert "--label-separator: stands between the labels of a multi_label model's rows" in capsys.readouterr().err
