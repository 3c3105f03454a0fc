"""A plan is checked, complete, and writes nothing; a bundle's gates and a run's end are pure functions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundation.errors import InputError
from tests.support.tiny import make_encoder, make_packed, write_reviews
from training.assembly import is_stale
from training.config import FinetuneConfig, PretrainConfig
from training.export import gates_of, shared_threshold
from training.planning import count_parameters, plan, total_steps
from tuning.config import StudyConfig
from tuning.study import plan_study

SPACE = {"dropout": {"kind": "uniform", "low": 0.0, "high": 0.2}}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


def recipe(encoder: Path, folder: Path, **more: Any) -> FinetuneConfig:
    folder.mkdir(exist_ok=True)
    data = write_reviews(folder / "reviews.csv")
    return FinetuneConfig.model_validate({"encoder": str(encoder), "data": {"train": str(data)}, "max_length": 32} | more)


def test_parameters_are_counted_from_the_files_headers(encoder: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(encoder, add_pooling_layer=False)
    assert count_parameters(encoder) == sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(tmp_path / "a hub id") is None
    with pytest.raises(InputError, match="holds no weights"):
        count_parameters(tmp_path)


def test_a_dry_run_tells_everything_and_creates_nothing(
    encoder: Path, tmp_path: Path, raybert_home: Path, unchanged_tree: Callable[[Path], AbstractContextManager[None]]
) -> None:
    made = recipe(encoder, tmp_path / "data", workers={"count": 2}, rows_per_step=10, epochs=1.5)
    with unchanged_tree(tmp_path):
        planned = plan("finetune", made)
    assert (planned.rows, planned.steps, planned.engine, planned.cpus) == (72, 11, "deepspeed", 2)
    assert planned.deepspeed is not None
    assert planned.state_bytes_per_worker == 12 * (planned.parameters or 0)  # ZeRO 2 on two workers: 4 + 16 / 2
    assert planned.work is not None
    assert planned.work.microbatches == 1
    assert isinstance(planned.decisions, dict)
    assert planned.decisions["precision"]["value"] == "fp32"
    assert planned.run_folder == str(raybert_home / "runs" / planned.run_id)
    assert FinetuneConfig.model_validate(planned.recipe) == made.model_copy(update={"metric": "macro_f1"})


def test_a_plan_tells_what_learns_at_which_share_of_the_rate_and_refuses_to_freeze_more_than_there_is(
    encoder: Path, tmp_path: Path, raybert_home: Path
) -> None:
    made = recipe(encoder, tmp_path / "data", freeze=1, optimiser={"layer_decay": 0.5})
    assert plan("finetune", made).learning_rates == {"embeddings": 0.0, "layer 1": 0.0, "layer 2": 0.5, "head": 1.0}
    assert plan("finetune", recipe(encoder, tmp_path / "data")).learning_rates is None
    with pytest.raises(InputError, match="freeze: 3, but the encoder has 2 layers"):
        plan("finetune", recipe(encoder, tmp_path / "data", freeze=3))


@pytest.mark.skipif(bool(torch.cuda.device_count()), reason="needs a machine without GPUs")
def test_a_plan_for_gpus_that_are_elsewhere_says_who_decides(encoder: Path, tmp_path: Path, raybert_home: Path) -> None:
    planned = plan("finetune", recipe(encoder, tmp_path / "data", workers={"count": 2, "gpus_each": 1}))
    assert planned.hardware is None
    assert planned.decisions == "decided on the workers, whose GPUs are not known here"
    assert planned.deepspeed is not None
    assert planned.deepspeed["zero_optimization"]["overlap_comm"] is True


def test_a_plan_tells_what_the_checks_warn_of(encoder: Path, tmp_path: Path, raybert_home: Path) -> None:
    file = tmp_path / "rows.csv"
    rows = [f"good movie number {i},positive\nbad movie number {i},negative" for i in range(20)]
    file.write_text("\n".join(["text,label", *rows, "same,positive", "Same,negative", f"{'word ' * 40},positive"]) + "\n")
    tree = {"encoder": str(encoder), "max_length": 32, "data": {"train": str(file), "validation_fraction": 0}}
    found = {finding["kind"]: finding for finding in plan("finetune", FinetuneConfig.model_validate(tree)).findings}
    assert set(found) == {"conflicts", "duplicates", "long_texts"}
    assert found["conflicts"]["rows"] == ["rows.csv#41", "rows.csv#42"]
    assert "1 of 43 texts (2.3 %) are longer than max_length=32 tokens" in found["long_texts"]["message"]
    assert found["long_texts"]["rows"] == ["rows.csv#43"]
    tree["data"] = {**tree["data"], "checks": {"long_texts": "refuse"}}  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"rows.csv: 1 of 43 texts .* longer than max_length=32"):
        plan("finetune", FinetuneConfig.model_validate(tree))


def test_every_kind_of_label_is_planned_with_a_metric_of_its_own_and_another_kinds_is_refused(
    encoder: Path, tmp_path: Path, raybert_home: Path
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label,stars\n" + "".join(f"text {i},{'a|b' if i % 2 else 'a'},{i}\n" for i in range(12)))
    lists, numbers = {"label_kind": "list", "label_separator": "|"}, {"label_column": "stars", "label_kind": "number"}
    tree = {"encoder": str(encoder), "max_length": 32}
    found = []
    for data in (lists, numbers, {"pair_column": "stars"}):
        made = FinetuneConfig.model_validate(tree | {"data": {"train": str(file), **data}})
        found.append(plan("finetune", made).recipe["metric"])
        assert plan_study(StudyConfig.model_validate({"recipe": made.model_dump(), "space": SPACE})).metric == found[-1]
    assert found == ["micro_f1", "pearson", "macro_f1"]
    for data, more, message in (
        (lists, {"metric": "accuracy"}, "metric: found accuracy, but labels of kind list have micro_f1, "),
        (numbers, {"label_smoothing": 0.1}, "labels are numbers, which have neither class_weights nor label_smoothing"),
        (lists, {"class_weights": {"c": 2.0}}, "class_weights: found 'c', which is none of the classes: a, b"),
        (numbers, {"gates": {"accuracy": 0.5}}, "gate accuracy: not measured"),
    ):
        made = FinetuneConfig.model_validate(tree | {"data": {"train": str(file), **data}, **more})
        with pytest.raises(InputError, match=message):
            plan("finetune", made)
        with pytest.raises(InputError, match=message):
            plan_study(StudyConfig.model_validate({"recipe": made.model_dump(), "space": SPACE}))


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ({"label_kind": "list", "label_separator": "|"}, {}, "one of several classes applies is found on validation rows"),
        ({}, {"patience": 2}, "patience stops by validation rows.*set patience=null"),
    ],
)
def test_validation_rows_that_something_is_chosen_by_are_not_trained_on(
    encoder: Path, tmp_path: Path, raybert_home: Path, data: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    file = write_reviews(tmp_path / "r.csv")
    tree = {"encoder": str(encoder), "max_length": 32, "data": {"train": str(file), "train_on": "train_and_validation", **data}, **more}
    with pytest.raises(InputError, match=f"data.train_on: found train_and_validation, but.*{message}"):
        plan("finetune", FinetuneConfig.model_validate(tree))


def test_a_pretraining_plan_takes_its_steps_from_the_recipe(encoder: Path, tmp_path: Path, raybert_home: Path) -> None:
    data = make_packed(tmp_path / "packed", encoder)
    made = PretrainConfig.model_validate({"encoder": str(encoder), "data": str(data), "steps": 9})
    planned = plan("pretrain", made)
    assert (planned.steps, planned.engine, planned.deepspeed) == (9, "torch", None)
    assert planned.rows > 3


def test_data_of_another_tokenizer_or_with_a_damaged_shard_is_refused_before_anything_starts(
    encoder: Path, tmp_path: Path, raybert_home: Path
) -> None:
    data = make_packed(tmp_path / "packed", encoder)
    made = PretrainConfig.model_validate({"encoder": str(encoder), "data": str(data)})
    other = tmp_path / "other"
    shutil.copytree(encoder, other)
    tokenizer = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(tokenizer.replace('"wonderful"', '"marvellous"'), encoding="utf-8")
    with pytest.raises(InputError, match="another vocabulary than the encoder's; build the data with tokenizer="):
        plan("pretrain", made.model_copy(update={"encoder": str(other)}))
    shard = data / "packed" / "shard-00000.arrow"
    content = shard.read_bytes()
    for damaged in (content[:-8], bytes([content[0] ^ 1]) + content[1:]):
        shard.write_bytes(damaged)
        with pytest.raises(InputError, match=r"shard-00000\.arrow: altered"):
            plan("pretrain", made)
    shard.unlink()
    with pytest.raises(InputError, match=r"shard-00000\.arrow: missing"):
        plan("pretrain", made)


def test_a_curriculum_over_data_without_length_buckets_is_refused_before_anything_starts(
    encoder: Path, tmp_path: Path, raybert_home: Path
) -> None:
    tree = {"encoder": str(encoder), "data": str(make_packed(tmp_path / "packed", encoder, rows=20)), "curriculum": "short_first"}
    with pytest.raises(InputError, match="in no length buckets"):
        plan("pretrain", PretrainConfig.model_validate(tree))


def test_more_than_one_torch_worker_and_a_folder_that_is_no_model_are_refused(encoder: Path, tmp_path: Path, raybert_home: Path) -> None:
    with pytest.raises(ValueError, match=r"runs one worker, but workers asks for 2 workers"):
        recipe(encoder, tmp_path / "data", sharding={"engine": "torch"}, workers={"count": 2})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        plan("finetune", recipe(tmp_path / "empty", tmp_path / "data"))


def test_steps_are_epochs_of_rows_rounded_up_and_at_least_one() -> None:
    made = FinetuneConfig.model_validate({"data": {"train": "x"}, "rows_per_step": 32, "epochs": 0.1})
    assert total_steps(made, 5) == 1
    assert total_steps(made, 330) == 2


@pytest.mark.parametrize(
    ("scores", "patience", "order", "stale"),
    [
        ([0.5, 0.6, 0.6, 0.6], 2, "max", True),
        ([0.5, 0.6, 0.6, 0.7], 2, "max", False),
        ([0.5, 0.6], 2, "max", False),  # too few to tell
        ([0.5, 0.4], 1, "max", True),
        ([0.5, 0.4], 1, "min", False),
        ([0.5, 0.4, 0.41, 0.4], 2, "min", True),
        ([0.5] * 9, None, "max", False),
        ([], 1, "max", False),
    ],
)
def test_a_run_is_stale_when_patience_brought_nothing_better(scores: list[float], patience: int | None, order: str, stale: bool) -> None:
    assert is_stale(list(enumerate(scores)), patience=patience, order=order) is stale


def test_gates_compare_what_was_wanted_with_what_was_found() -> None:
    wanted, metrics = {"accuracy": 0.8, "macro_f1": 0.9, "mae": 0.5, "auc": 0.1}, {"accuracy": 0.8, "macro_f1": 0.89, "mae": 0.4}
    found = {gate.metric: gate for gate in gates_of(wanted, metrics, np.array([0, 1]))}
    assert [found[name].passed for name in ("accuracy", "macro_f1", "mae", "auc")] == [True, False, True, False]


def test_without_gates_a_model_has_to_reach_the_most_frequent_class() -> None:
    (gate,) = gates_of({}, {"accuracy": 0.59}, np.array([0, 1, 1, 1, 0]))
    assert (gate.metric, gate.wanted, gate.passed) == ("accuracy", pytest.approx(0.6), False)


def test_labels_are_answered_from_the_score_on_that_serves_all_of_them_best() -> None:
    scores = np.array([[0.9, 0.2], [0.4, 0.3], [0.1, 0.05]])
    assert shared_threshold(scores, np.array([[True, False], [True, True], [False, False]])) == pytest.approx(0.25)
    assert shared_threshold(scores, np.zeros((3, 2), dtype=np.bool_)) > 0.5
