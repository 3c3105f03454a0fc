"""``raybert plan`` in one process: what it says of a recipe, of machines that are not here, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from raybert.main import main
from tests.support.tiny import make_encoder, make_packed, write_reviews

QUICK = ("--peak-tflops", "0.05")  # nothing need be measured


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    make_packed(folder / "packed", make_encoder(folder / "encoder"))
    write_reviews(folder / "reviews.csv")
    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))


def finetuning(place: Path) -> list[str]:
    return [f"data.train={place / 'reviews.csv'}", f"encoder={place / 'encoder'}", "max_length=32"]


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_plan_tells_people_everything_and_creates_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], unchanged_tree: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with unchanged_tree(place.parent):
        assert main(["plan", *finetuning(place), "workers.count=2", *QUICK, "--price", "0.10"]) == 0
    text = capsys.readouterr().out
    for word in ("M parameters on 2 workers", "micro-batches", "FLOP a step", "80 % of 0.05 TFLOPS", "0.10 an hour of a worker", "ZeRO 3"):
        assert word in text
    assert "recommended" in text


def test_a_stage_other_than_the_recipes_is_told_with_the_key_to_set(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *finetuning(place), "sharding.engine=deepspeed", *QUICK]) == 0
    assert "the recipe has ZeRO 2; set sharding.engine=torch" in capsys.readouterr().out
    assert main(["plan", *finetuning(place), "workers.count=2", "sharding.zero_stage=3", *QUICK]) == 0
    assert "the recipe has ZeRO 3; set sharding.zero_stage=" in capsys.readouterr().out
    assert main(["plan", *finetuning(place), *QUICK]) == 0
    assert "the recipe has" not in capsys.readouterr().out


def test_the_verb_follows_from_the_recipe(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = planned(capsys, *finetuning(place), *QUICK)
    assert (tuned["verb"], tuned["rows"], tuned["stage_in_recipe"]) == ("finetune", 72, None)
    assert list(tuned["memory"]) == ["torch"]
    pretrained = planned(capsys, f"data={place / 'packed'}", "new_model.hidden=64", "steps=7", "workers.count=3", *QUICK)
    assert (pretrained["verb"], pretrained["steps"], pretrained["stage_in_recipe"]) == ("pretrain", 7, 2)
    assert pretrained["tokens"] == pytest.approx(7 * pretrained["tokens_per_step"], abs=7)


def test_gpus_that_are_not_here_are_planned_for_by_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *finetuning(place), "workers={count: 8, gpus_each: 1}", "--gpu", "a100-80gb", "--price", "2.5")
    assert found["pace"] == {"peak": 312e12, "share": 0.4, "source": "NVIDIA A100-SXM4-80GB's data sheet, bf16"}
    assert found["room"]["bytes"] == 80 * 2**30
    assert found["cost"] == pytest.approx(8 * 2.5 * found["seconds"] / 3600)
    given = planned(capsys, *finetuning(place), "workers.gpus_each=1", "--peak-tflops", "50", "--memory", "24", "--share-of-peak", "0.25")
    assert (given["pace"]["peak"], given["pace"]["share"], given["room"]["bytes"]) == (50e12, 0.25, 24_000_000_000)


def test_this_machines_peak_is_measured_where_none_is_given(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *finetuning(place))
    assert found["pace"]["source"] == "measured here"
    assert 1e9 < found["pace"]["peak"] < 1e14


def test_memory_that_does_not_suffice_is_told_with_what_to_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *finetuning(place), "workers.count=2", *QUICK, "--memory", "0.01")
    assert found["stage"]["value"] == "none"
    assert "lower tokens_per_microbatch" in found["stage"]["reason"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--gpu", "riva128"], "--gpu: found 'riva128', expected one of t4"),
        (["--gpu", "t4"], "workers.gpus_each is 0"),
        (["workers.gpus_each=1"], "say which with --gpu"),
        (["--price", "-1"], "--price: found -1, expected a number above 0"),
        (["--share-of-peak", "80"], "--share-of-peak: found 80, expected a share"),
        (["tokens_per_microbatch=16"], "tokens_per_microbatch: found 16"),
        (["epochs=0"], "epochs"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_message(
    place: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert main(["plan", *finetuning(place), *more]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert words in told.err
    assert told.out == ""


def test_a_plan_without_a_recipe_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 2
    assert "give a recipe of pretrain or finetune with -c" in capsys.readouterr().err
