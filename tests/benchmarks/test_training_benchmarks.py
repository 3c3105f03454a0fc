"""The training benchmarks at a size of seconds: that they run, compare what they say, and go on where they ended."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from benchmarks import finetune_throughput, pays_cells, peers, pretrain_throughput, pretraining_pays, sharding_cost, time_to_loss
from benchmarks.harness import HERE
from benchmarks.pays_recipes import LABELS, QUICK_RECIPES, RECIPES, Recipe, Stage
from benchmarks.pretrain_throughput import Shape
from benchmarks.pretraining_pays import Cell, gains, spread
from benchmarks.texts import LENGTH, build, documents
from benchmarks.turns import NEVER, Side
from tests.benchmarks.test_texts import write_corpus
from tests.support.tiny import make_encoder, write_reviews

TINY = Shape("4x256", 1, 32, rows=2, quick_rows=2)


@pytest.fixture(autouse=True)
def _the_peer_runs_in_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # It pins the versions that this one has, which a test holds; making its own takes a minute and a gigabyte.
    monkeypatch.setattr(peers, "environment", lambda name: Path(sys.executable))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return make_encoder(tmp_path / "encoder", positions=LENGTH)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.parquet")


def test_the_peer_that_trains_pins_what_is_installed_here() -> None:
    assert peers.versions("trainer") == {package: metadata.version(package).partition("+")[0] for package in peers.versions("trainer")}


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """200 rows: a fifth each for test and validation."""
    rows = [line.rpartition(",") for line in write_reviews(tmp_path / "reviews.csv", 200).read_text(encoding="utf-8").splitlines()[1:]]
    names = {0: "test", 1: "test", 2: "validation", 3: "validation"}
    columns = {"text": [row[0] for row in rows], "label": [row[2] for row in rows]}
    columns["split"] = [names.get(number % 10, "train") for number in range(len(rows))]
    pa.parquet.write_table(pa.table(columns), tmp_path / "reviews.parquet")
    return tmp_path / "reviews.parquet"


def cell(start: str, labels: int | None, *figures: float, minutes: float = 0) -> Cell:
    stages = (Stage("task", minutes, 1e-3),) if minutes else ()
    return Cell(Recipe(f"{start}-{minutes}", start, stages), labels, {"macro_f1": [*figures]})  # type: ignore[arg-type]


def test_a_gain_is_taken_against_the_same_start_and_as_many_labels() -> None:
    plain = [cell("scratch", 10, 40.0, 42.0), cell("minilm", 10, 60.0), cell("minilm", None, 80.0)]
    tried = [cell("scratch", 10, 42.0, 43.0, minutes=5), cell("minilm", 10, 59.0, minutes=5), cell("minilm", 100, 90.0, minutes=5)]
    found = gains([*plain, *tried])
    assert [(better.recipe.start, better.macro_f1 - against.macro_f1) for better, against in found] == [("scratch", 1.5), ("minilm", -1.0)]


def test_figures_of_several_seeds_are_told_with_their_spread() -> None:
    assert spread([54.0, 53.0, 55.0]) == "54.00 (53.00 to 55.00)"
    assert spread([54.0]) == "54.00"


def test_each_start_is_pretrained_on_both_kinds_of_texts_within_half_an_hour_each_beside_its_start_without() -> None:
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
    tried = [recipe for recipe in RECIPES if recipe.stages]
    assert {(recipe.start, recipe.stages[-1].texts) for recipe in tried} == {
        (a, b) for a in ("scratch", "modern", "minilm") for b in ("general", "task")
    }
    assert all(recipe.minutes <= 30 for recipe in tried)
    for recipe in RECIPES:
        assert any(other.start == recipe.start and not other.stages for other in RECIPES)
    assert LABELS == (10, 100, None)


def test_a_command_is_told_without_the_folders_of_this_machine() -> None:
    spec = {"recipe": {"data": "/home/somebody/packed", "steps": 3}, "tokenizer": "/home/somebody/tokenizer", "threads": 2}
    told = pretrain_throughput.shown(["python", "/home/somebody/benchmarks/programs/train_ours.py", json.dumps(spec)])
    assert "somebody" not in told
    assert '"steps": 3' in told


@pytest.mark.slow
def test_our_side_steps_tells_its_work_and_saves_what_transformers_loads(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    packed = build(documents(corpus), tmp_path / "packed", tokenizer=str(encoder))
    recipe = {"data": str(packed.folder), "new_model": {"layers": 1, "hidden": 32}, "rows_per_step": 2, "steps": 5}
    spec = {"verb": "pretrain", "recipe": recipe, "full_rows": True, "threads": 1}
    with Side([sys.executable, str(HERE / "programs" / "train_ours.py"), json.dumps(spec)], threads=1) as side:
        about = side.ask({"do": "about"})
        assert side.ask({"do": "peak"})["flops"] > 0
        first = side.ask({"do": "steps", "count": 2})
        rest = side.ask({"do": "steps", "count": NEVER})
        side.ask({"do": "save", "folder": str(tmp_path / "saved")})
        assert side.ask({"do": "validate"})["validation_loss"] > 0
    assert (first["steps"], first["tokens"], rest["steps"]) == (2, 2 * 2 * LENGTH, 3)
    assert 0.1 < about["mask_share"] < 0.16
    assert about["attended"] <= LENGTH
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").config.hidden_size == 32


@pytest.mark.slow
def test_sharded_and_replicated_sides_take_the_same_steps(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    data = pretrain_throughput.prepare(corpus, tmp_path, str(encoder))
    found = []
    for stage in (None, 2):
        with Side(sharding_cost.command(data, 1, 32, stage, 1), threads=1) as side:
            found.append(side.ask({"do": "steps", "count": 3}))
        assert side.ended == 0
    assert found[0]["tokens"] == found[1]["tokens"] == 3 * sharding_cost.WORKERS * sharding_cost.ROWS_EACH * LENGTH
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_pretraining_is_compared_in_the_rows_that_are_asked_for(encoder: Path, corpus: Path) -> None:
    wanted = ["against_padded_lines_4x256", "against_trainer_4x512", "share_of_peak_4x512"]
    shapes = [TINY, replace(TINY, name="4x512")]
    rows = pretrain_throughput.measure(True, corpus=corpus, rows=wanted, tokenizer=str(encoder), shapes=shapes, rounds=2, threads=1)
    assert [row.name for row in rows] == wanted
    assert [(len(row.samples.ours), len(row.samples.peer)) for row in rows] == [(2, 2), (2, 2), (2, 1)]
    peak = rows[-1]
    assert 0 < peak.ours < 1
    assert peak.peer == 1.0


@pytest.mark.slow
def test_time_to_loss_goes_on_where_it_ended(encoder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = {"LAYERS": 1, "HIDDEN": 32, "PEER_ROWS": 2, "PEER_SECONDS": 10.0, "BUDGETS": (10.0,), "QUICK_LOOKS": 2}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: packed\nnew_model: {layers: 1, hidden: 32}\nrows_per_step: 2\nmask_share: 0.3\nmasking: {final_share: 0.15}\n")
    for name, value in {**small, "HELD_OUT_ROWS": 5, "RECIPE": recipe}.items():
        monkeypatch.setattr(time_to_loss, name, value)
    found = time_to_loss.time_to_loss(corpus, tmp_path / "work", tokenizer=str(encoder), quick=True, threads=1)
    assert "grouped" in found.note
    assert "lines" in found.note
    monkeypatch.setattr(time_to_loss, "Side", None)
    assert time_to_loss.time_to_loss(corpus, tmp_path / "work", tokenizer=str(encoder), quick=True, threads=1) == found


@pytest.mark.slow
def test_fine_tuning_is_compared_by_speed_and_when_it_is_whole_by_accuracy(encoder: Path, reviews: Path) -> None:
    whole = finetune_throughput.measure(False, data=reviews, encoder=str(encoder), threads=1, epochs=3, seeds=(0,))
    assert [row.name for row in whole] == ["against_dynamic_padding", "against_group_by_length", "accuracy_difference"]
    assert 0 < whole[-1].ours <= 100
    assert whole[-1].kind == "within"


def test_with_many_labels_the_best_rate_of_few_and_the_next_lower_one_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int | None, float]] = []

    def scores(bench: Any, recipe: Recipe, labels: int | None, rate: float, seed: int, *, split: str) -> dict[str, float]:
        tried.append((labels, rate))
        return {"macro_f1": -abs(rate - 2.0) if labels == 10 else -rate}

    monkeypatch.setattr(pays_cells.Bench, "scores", scores)
    bench = object.__new__(pays_cells.Bench)
    assert bench.best_rate(RECIPES[0], 10, (1.0, 2.0, 3.0)) == 2.0
    tried.clear()
    assert bench.best_rate(RECIPES[0], None, (1.0, 2.0, 3.0)) == 1.0
    assert [rate for labels, rate in tried if labels == 100] == [1.0, 2.0]


@pytest.mark.slow
def test_what_pretraining_buys_is_told_with_all_that_was_tried(
    corpus: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pays_cells, "NEW_MODELS", {"scratch": {"layers": 1, "hidden": 32}})
    monkeypatch.setattr(pays_cells, "VOCABULARY", 200)
    monkeypatch.setattr(pretraining_pays, "QUICK_SCALE", 0.02)
    some: dict[str, Any] = {"data": reviews, "corpus": corpus, "work": tmp_path / "work", "threads": 1}
    with pytest.raises(SystemExit, match="too few to compare"):
        pretraining_pays.measure(True, only=["scratch:10"], **some)
    (found,) = pretraining_pays.measure(True, **some)
    assert "scratch-task-quick" in found.appendix
    assert set(found.charts) == {"loss", "macro-f1"}
    capsys.readouterr()
    shutil.rmtree(tmp_path / "work" / "models")
    bench = pays_cells.Bench(tmp_path / "work", data=reviews, corpus=corpus, threads=1, scale=0.02)
    assert Path(bench.model_folder(QUICK_RECIPES[1])).is_dir()
    again = re.search(r"made again, held-out loss (\S+), was (\S+)\n", capsys.readouterr().err)
    assert again
    assert again[1] == again[2]
    monkeypatch.setattr(pays_cells, "Side", None)  # everything is finished by now
    assert pretraining_pays.measure(True, **some) == [found]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        pretraining_pays.measure(True, tells=True, **some)
    assert "scratch:10: macro-F1" in capsys.readouterr().out
