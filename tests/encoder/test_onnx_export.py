"""An exported graph computes what the model computes, for each family and task, at any number of rows and any length; or is not kept."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import encoder.onnx_export
from encoder.classifier import SequenceClassifier
from encoder.onnx_export import GRAPH, export_onnx
from foundation.bundle import Bundle, open_bundle
from foundation.errors import BundleError, ConfigError
from raybert.main import main
from tests.support.tiny import FAMILIES, make_classifier_bundle

pytestmark = pytest.mark.slow
LABELS = ("negative", "neutral", "positive")


def onnx_scores(target: Path, texts: list[Any]) -> np.ndarray:
    """Logits of the exported folder as any reader of it computes them: its own tokenizer, padded in one batch."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target)
    session = onnxruntime.InferenceSession(str(target / GRAPH), providers=["CPUExecutionProvider"])
    firsts, seconds = zip(*texts, strict=True) if isinstance(texts[0], tuple) else (texts, None)
    tokens = tokenizer(list(firsts), seconds and list(seconds), padding=True, truncation=True, max_length=64, return_tensors="np")
    given = {item.name: tokens[item.name] for item in session.get_inputs()}
    (logits,) = session.run(["logits"], given)
    return np.asarray(logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exported_and_reads_any_rows_and_lengths(family: str, tmp_path: Path) -> None:
    bundle = make_classifier_bundle(tmp_path / "bundle", LABELS, encoder=FAMILIES[family])
    target = tmp_path / "exported"
    found = export_onnx(bundle, target)
    assert (found.rows, found.longest) == (18, 64)
    assert 0 < found.largest_difference <= 1e-4
    classifier = SequenceClassifier.load(bundle.path)
    for texts in (["good"], ["a bad movie", "the best music " * 9, "good " * 100], ["this is very good"] * 7):
        wanted = classifier.logits([row.ids for row in classifier.tokenize(texts)])
        assert wanted.std() > 0.01
        np.testing.assert_allclose(onnx_scores(target, texts), wanted, atol=1e-4)
    about = json.loads((target / "export.json").read_text())
    assert (about["labels"], about["bundle"], about["parity"]["rows"]) == (list(LABELS), bundle.digest, 18)


def test_pairs_and_several_labels_are_exported_with_token_types_and_thresholds(tmp_path: Path) -> None:
    bundle = make_classifier_bundle(tmp_path / "bundle", LABELS, task="multi_label", takes_pairs=True, thresholds={"neutral": 0.3})
    export_onnx(bundle, tmp_path / "exported")
    classifier = SequenceClassifier.load(bundle.path)
    pairs = [("a good movie", "is it good?"), ("bad", "the best music of the end")]
    rows = classifier.tokenize(pairs)
    wanted = classifier.logits([row.ids for row in rows], [row.types for row in rows])
    np.testing.assert_allclose(onnx_scores(tmp_path / "exported", pairs), wanted, atol=1e-4)
    assert np.abs(classifier.logits([row.ids for row in rows]) - wanted).max() > 1e-3  # token types matter
    about = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert (about["task"], about["thresholds"], about["takes_pairs"]) == ("multi_label", {"neutral": 0.3}, True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_classifier_bundle(tmp_path_factory.mktemp("bundles") / "reviews", LABELS)


def test_a_graph_that_computes_otherwise_is_not_kept(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = encoder.onnx_export.write_graph

    def another_model(classifier: SequenceClassifier, file: Path) -> None:
        other = SequenceClassifier.load(bundle.path)
        other.model.classifier.bias.data += 0.001
        written(other, file)

    monkeypatch.setattr(encoder.onnx_export, "write_graph", another_model)
    with pytest.raises(BundleError, match=r"not exported: ONNX Runtime's logits differ from torch's by \S+, at most 1e-04 is accepted"):
        export_onnx(bundle, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_the_extra_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "onnxscript" else found(name, *more))
    with pytest.raises(ConfigError, match=r"needs onnxscript; install them with: pip install 'raybert\[onnx\]'"):
        export_onnx(bundle, tmp_path / "exported")


def test_the_command_exports_either_format_and_says_the_difference(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["models", "export", str(bundle.path)]
    assert main([*asked, str(tmp_path / "onnx"), "--format", "onnx", "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["format"], found["rows"]) == ("onnx", 18)
    assert found["largest_difference"] <= 1e-4
    assert main([*asked, str(tmp_path / "plain")]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert main(["models", "verify", str(tmp_path / "plain")]) == 0
    assert open_bundle(tmp_path / "plain", digest=bundle.digest).manifest == bundle.manifest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert main([*asked, str(tmp_path / "plain")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*asked, str(tmp_path / "other"), "--format", "gguf"]) == 2
    assert "--format: found 'gguf', expected safetensors or onnx" in capsys.readouterr().err


def test_a_bundle_that_no_longer_gives_its_recorded_scores_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from foundation.bundle import GoldenRequest, reseal

    drifted = make_classifier_bundle(tmp_path / "drifted")
    reseal(drifted, golden=(GoldenRequest(text="good", scores={"negative": 0.5, "positive": 0.5}),))
    assert main(["models", "export", str(drifted.path), str(tmp_path / "exported")]) == 2
    assert "golden requests score otherwise than recorded" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["drifted"]
