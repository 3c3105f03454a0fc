"""Searches at a third of a grid's steps: what is asked of each side, what is told, and that Optuna's side keeps to the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from benchmarks import tune_efficiency
from benchmarks.tune_efficiency import SIDES, Texts, _rows, peer, study_of, texts_of
from tests.support.tiny import make_encoder
from tuning.config import StudyConfig


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Texts:
    monkeypatch.setattr(tune_efficiency, "TOKENIZER", str(make_encoder(tmp_path / "encoder", layers=1, positions=64)))
    monkeypatch.setattr(tune_efficiency, "TRAIN_ROWS", 96)
    monkeypatch.setattr(tune_efficiency, "VALIDATION_ROWS", 16)
    rows = [(f"a {word} film number {number}", word) for number in range(60) for word in ("good", "bad")]
    table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows], "split": ["train"] * len(rows)})
    pa.parquet.write_table(table, tmp_path / "films.parquet")
    return texts_of(tmp_path / "films.parquet", tmp_path)


def test_the_same_rows_are_drawn_each_time_and_none_is_in_both_parts(texts: Texts, tmp_path: Path) -> None:
    assert texts_of(tmp_path / "films.parquet", tmp_path).fingerprint == texts.fingerprint
    drawn = pa.parquet.read_table(texts.recipe["data"]["train"]).to_pylist()
    assert [row["split"] for row in drawn] == ["train"] * 96 + ["validation"] * 16
    assert len({row["text"] for row in drawn}) == 112


@pytest.mark.parametrize("side", ["grid", *SIDES])
def test_every_side_is_a_study_and_all_but_the_grid_have_a_third_of_its_steps(texts: Texts, side: str) -> None:
    study = StudyConfig.model_validate(study_of(texts, side, 1))
    if side == "grid":
        assert (study.trials, study.budget) == (24, None)
    else:
        assert study.budget
        assert study.budget.steps == 24 * tune_efficiency.STEPS // 3


def test_optunas_processes_share_a_study_and_stop_when_its_steps_are_spent(
    texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_efficiency, "STEPS", 4)
    monkeypatch.setattr(tune_efficiency, "GRACE", 2)
    study = study_of(texts, "random", 1) | {"budget": {"steps": 12}}
    found = peer(study, tmp_path)
    assert 12 <= found["steps"] <= 12 + 2 * tune_efficiency.AT_ONCE
    assert found["steps"] == sum(trial["step"] for trial in found["trials"])
    assert found["best"] == max(trial["score"] or 0 for trial in found["trials"])


def test_the_worst_seed_is_held_against_the_grid(texts: Texts) -> None:
    answer: Any = lambda best, steps: {"best": best, "steps": steps, "trials": [{}] * 24}  # noqa: E731
    found = {side: [answer(0.79, 300), answer(0.81, 360), answer(0.80, 350)] for side in SIDES}
    best, steps, random, optuna = _rows(texts, answer(0.8, 1080), found)
    assert (best.name, best.ours, best.peer, best.met) == ("best_score_films", 79.0, 80.0, False)
    assert (steps.ratio, steps.met) == (3.0, True)
    assert random.met
    assert optuna.met
    assert "| asha_tpe | 300, 360, 350 | 79.00, 81.00, 80.00 |" in best.appendix
