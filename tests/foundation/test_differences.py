"""How two models differ."""

from __future__ import annotations

from pathlib import Path

from foundation.bundle import Bundle, seal
from foundation.differences import Side, differences
from foundation.evidence import Evaluation


def bundle(folder: Path, weights: bytes, labels: tuple[str, ...], accuracy: float) -> Bundle:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    return seal(folder, task="single_label", labels=labels, max_length=8, run_id="r", data_fingerprint="0", metrics={"accuracy": accuracy})


def measured(data: str, accuracy: float) -> Evaluation:
    return Evaluation(at="2026-01-01T00:00:00+00:00", data=data, rows=9, metrics={"accuracy": accuracy})


def test_figures_are_paired_on_the_same_rows_only_and_what_is_the_same_is_left_out(tmp_path: Path) -> None:
    one = Side(
        "m/1", bundle(tmp_path / "1", b"12", ("a", "b"), 0.7), (measured("x", 0.5), measured("y", 0.6)), {"seed": "1", "epochs": "2"}
    )
    other = Side("m/2", bundle(tmp_path / "2", b"345", ("b", "c"), 0.8), (measured("y", 0.9),), {"seed": "2", "epochs": "2"})
    found = differences(one, other)
    assert [(rows["data"], rows["metrics"]) for rows in found.same_rows] == [("y", {"accuracy": (0.6, 0.9)})]
    assert found.training_metrics == {"accuracy": (0.7, 0.8)}
    assert (found.labels_added, found.labels_removed) == (("c",), ("a",))
    assert (found.recipe, found.manifest, found.bytes, found.same_files) == ({"seed": ("1", "2")}, {}, (2, 3), False)


def test_a_model_is_like_itself(tmp_path: Path) -> None:
    side = Side("m/1", bundle(tmp_path / "1", b"12", ("a",), 0.7))
    found = differences(side, side)
    assert found.same_files
    assert (found.recipe, found.software, found.manifest) == ({}, {}, {})
