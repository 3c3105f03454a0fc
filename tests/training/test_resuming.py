"""Going on with runs that their driver left: what is refused, what may differ, which checkpoint is taken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation import driving
from foundation.driving import driven
from foundation.errors import ConfigError, RunError
from foundation.home import checked_run_id, home
from foundation.records import read_rows
from tests.support.tiny import make_encoder, write_reviews
from training import runs
from training.checkpoint import Checkpoint, Fragment, Progress, first_whole, write_fragments, write_manifest
from training.config import FinetuneConfig
from training.launch import best_whole
from training.planning import TrainPlan, plan
from training.resuming import differing, forget_damaged, is_free, resumed
from training.worker import ranked

pytestmark = pytest.mark.usefixtures("raybert_home")


@pytest.fixture
def recipe(tmp_path: Path) -> FinetuneConfig:
    tree = {"encoder": str(make_encoder(tmp_path / "encoder", layers=1)), "data": {"train": str(write_reviews(tmp_path / "r.csv", 60))}}
    return FinetuneConfig.model_validate(tree | {"max_length": 32, "rows_per_step": 8})


def checkpoint(folder: Path, step: int) -> Path:
    """A small whole one, whose name says the step."""
    path = folder / f"step-{step:07d}-abcdef"
    files = write_fragments(path, 0, [Fragment("w", 0, {"param": torch.arange(6.0)})])
    write_manifest(path, Progress(step, step), files, {"w": (6,)}, {})
    return path


def damage(path: Path) -> None:
    """One byte of the tensors is another."""
    (file,) = path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def left_run(recipe: FinetuneConfig, steps: tuple[int, ...] = (10, 20), *, state: str | None = None, name: str = "left") -> Path:
    """A run whose driver is gone, with checkpoints that Ray Train remembers."""
    planned = plan("finetune", recipe, run_id=name)
    folder = Path(planned.run_folder)
    folder.mkdir(parents=True)
    with driven(folder):
        runs.begin(folder, planned.as_json(), score="macro_f1", score_order="max", mlflow_run="m")
    if state:
        runs.end(folder, state)
    results = [{"version": 0, "checkpoint_dir_name": checkpoint(folder, step).name, "metrics": {"step": step}} for step in steps]
    snapshot = {
        "checkpoint_results": results,
        "checkpoint_report_indices": [*range(len(results))],
        "latest_checkpoint_result": results[-1] if results else None,
    }
    if steps:
        (folder / "checkpoint_manager_snapshot.json").write_text(json.dumps(snapshot), encoding="utf-8")
    return folder


def go_on(recipe: FinetuneConfig, *, accepts_changes: bool = False, **changed: Any) -> TrainPlan:
    again = FinetuneConfig.model_validate(recipe.model_dump(mode="json") | changed)
    return resumed("finetune", runs.open_run("left"), again, accepts_changes=accepts_changes)


def test_a_run_whose_driver_is_gone_goes_on_from_its_last_checkpoint_under_its_name(recipe: FinetuneConfig) -> None:
    folder = left_run(recipe)
    assert runs.open_run("left").state == "lost"
    planned = go_on(recipe)
    assert (planned.run_id, planned.run_folder) == ("left", str(folder))
    assert planned.resumes is not None
    assert (planned.resumes.step, planned.resumes.checkpoint) == (20, str(folder / "step-0000020-abcdef"))
    assert (planned.resumes.damaged, planned.resumes.changes) == ((), {})


def test_a_run_that_wrote_no_checkpoint_begins_anew(recipe: FinetuneConfig) -> None:
    left_run(recipe, ())
    found = go_on(recipe).resumes
    assert found is not None
    assert (found.step, found.checkpoint) == (0, None)


@pytest.mark.parametrize("how", ["altered", "cut", "without a manifest", "with a surplus file", "gone"])
def test_a_damaged_checkpoint_is_passed_over_and_said_to_be(recipe: FinetuneConfig, how: str) -> None:
    folder = left_run(recipe)
    last = folder / "step-0000020-abcdef"
    (file,) = last.glob("*.safetensors")
    if how == "altered":
        damage(last)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "without a manifest":
        (last / "checkpoint.json").unlink()
    elif how == "with a surplus file":
        (last / "rank-00007.safetensors").write_bytes(b"")
    else:
        for path in last.iterdir():
            path.unlink()
        last.rmdir()
    found = go_on(recipe).resumes
    assert found is not None
    assert found.step == 10
    (reason,) = found.damaged
    assert str(last) in reason
    assert found.checkpoint is not None
    forget_damaged(folder, Path(found.checkpoint))
    list_of_ray = json.loads((folder / "checkpoint_manager_snapshot.json").read_text())
    assert [item["checkpoint_dir_name"] for item in list_of_ray["checkpoint_results"]] == [Path(found.checkpoint).name]
    assert list_of_ray["latest_checkpoint_result"] == list_of_ray["checkpoint_results"][0]
    assert list_of_ray["checkpoint_report_indices"] == [0]


def test_a_run_without_a_whole_checkpoint_is_refused_with_what_is_wrong_with_each(recipe: FinetuneConfig) -> None:
    folder = left_run(recipe)
    for path in runs.checkpoints(folder):
        damage(path)
    with pytest.raises(ConfigError, match=r"no checkpoint of it is whole.*step-0000020.*altered.*; .*step-0000010.*altered"):
        go_on(recipe)


def test_a_checkpoint_that_was_written_but_that_ray_does_not_remember_is_not_taken(recipe: FinetuneConfig) -> None:
    folder = left_run(recipe)
    checkpoint(folder, 30)
    found = go_on(recipe).resumes
    assert found is not None
    assert found.step == 20, "its evaluation is in no list of the run, so the best checkpoint would not be that of an undisturbed run"


def test_what_would_change_the_result_is_refused_key_by_key_unless_it_is_accepted(recipe: FinetuneConfig) -> None:
    left_run(recipe)
    changed: dict[str, Any] = {"seed": 5, "schedule": {"peak_lr": 0.5}, "workers": {"count": 2}, "register_as": "reviews"}
    with pytest.raises(ConfigError) as refused:
        go_on(recipe, **changed)
    told = str(refused.value)
    assert "seed: was 0, now 5" in told
    assert "schedule.peak_lr: was" in told
    assert "workers" not in told
    assert "--accept-changes" in told
    planned = go_on(recipe, accepts_changes=True, **changed)
    assert planned.resumes is not None
    assert {"seed", "schedule.peak_lr", "workers.count", "register_as"} <= planned.resumes.changes.keys()


def test_what_only_speed_memory_and_records_depend_on_may_differ(recipe: FinetuneConfig) -> None:
    left_run(recipe)
    planned = go_on(recipe, workers={"count": 3}, sharding={"zero_stage": 3}, tokens_per_microbatch=64, checkpoint={"keep": 5})
    assert planned.resumes is not None
    assert planned.resumes.changes["workers.count"] == (None, 3)


def test_other_data_under_the_same_name_is_refused(recipe: FinetuneConfig) -> None:
    left_run(recipe)
    write_reviews(Path(recipe.data.train), 80)
    with pytest.raises(ConfigError, match="the data's fingerprint: was"):
        go_on(recipe)


def test_another_encoder_is_refused_and_another_name_of_the_same_one_is_not(recipe: FinetuneConfig, tmp_path: Path) -> None:
    left_run(recipe)
    link = tmp_path / "link"
    link.symlink_to(recipe.encoder)
    with pytest.raises(ConfigError, match="encoder: was"):
        go_on(recipe, encoder=str(make_encoder(tmp_path / "other", layers=2)))
    assert go_on(recipe, encoder=str(link)).resumes is not None


def test_a_finished_run_a_running_one_and_one_of_another_verb_are_refused(recipe: FinetuneConfig) -> None:
    folder = left_run(recipe, state="finished")
    with pytest.raises(ConfigError, match=r"has finished; to train its model further.*encoder="):
        go_on(recipe)
    with pytest.raises(ConfigError, match="is a run of finetune; go on with `raybert finetune --resume left`"):
        resumed("pretrain", runs.open_run("left"), recipe)
    runs.end(folder, "running")
    with driven(folder), pytest.raises(ConfigError, match=f"is still running \\(process {os.getpid()} on"):
        go_on(recipe)


def test_a_list_of_checkpoints_that_cannot_be_read_is_refused_with_a_way_on(recipe: FinetuneConfig) -> None:
    folder = left_run(recipe)
    (folder / "checkpoint_manager_snapshot.json").write_text('{"other": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"list of the checkpoints cannot be read.*begin a new run with start_from=.*step-0000020"):
        go_on(recipe)


def test_a_run_has_one_driver_at_a_time(recipe: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = left_run(recipe)
    monkeypatch.setattr(driving, "_LOCK_S", 0.1)
    with driven(folder), pytest.raises(ConfigError, match="another process is driving it"), driven(folder):
        pass
    with driven(folder):
        pass


def test_going_on_keeps_when_a_run_began_and_is_a_row_of_its_record(recipe: FinetuneConfig) -> None:
    folder = left_run(recipe)
    began = runs.open_run("left").about["started"]
    runs.go_on(folder, go_on(recipe, workers={"count": 2}).as_json(), mlflow_run="n")
    run = runs.open_run("left")
    assert (run.about["started"], run.about["mlflow_run"], run.about["score"]) == (began, "n", "macro_f1")
    (row,) = read_rows(folder / runs.METRICS_FILE)
    assert (row["event"], row["changes"]["workers.count"]) == ("resumed", [None, 2])


def test_keys_are_free_with_their_groups_and_compared_wherever_they_stand() -> None:
    assert is_free("workers.count")
    assert is_free("checkpoint.keep")
    assert not is_free("checkpoint.every_steps")
    assert not is_free("seed")
    assert differing({"a": {"b": 1}, "encoder": "x"}, {"a": {"b": 2, "c": 3}, "encoder": "y"}) == {"a.b": (1, 2), "a.c": (None, 3)}
    assert differing({"a": 1, "gone": True}, {"a": 1}) == {"gone": (True, None)}


def test_the_best_checkpoint_that_is_whole_is_exported(recipe: FinetuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Ray:
        def __init__(self, path: Path) -> None:
            self.path = str(path)

    scores = {10: 0.5, 20: 0.9, 30: 0.9}
    made = {step: checkpoint(tmp_path, step) for step in scores}
    kept = [(Ray(made[step]), {"macro_f1": score, "step": step}) for step, score in scores.items()]
    kept.append((Ray(checkpoint(tmp_path, 40)), ranked({}, recipe) | {"step": 40}))  # for a restart only
    assert best_whole(kept, recipe)[0].folder == made[20], "the earliest of equals"
    damage(made[20])
    best, metrics = best_whole(kept, recipe)
    assert (best.folder, metrics) == (made[30], {"macro_f1": 0.9, "step": 30})
    assert "the next best checkpoint is taken" in capsys.readouterr().err
    for path in (made[10], made[30]):
        damage(path)
    with pytest.raises(RunError, match="no checkpoint is whole"):
        best_whole(kept, recipe)


def test_a_score_that_is_no_number_ranks_a_checkpoint_last_and_can_be_written_down(recipe: FinetuneConfig) -> None:
    lower = FinetuneConfig.model_validate(recipe.model_dump(mode="json") | {"metric": "validation_loss"})
    assert ranked({}, recipe)["macro_f1"] == -runs.UNRANKED
    assert ranked({"validation_loss": float("nan"), "accuracy": 0.5}, lower) == {"validation_loss": runs.UNRANKED, "accuracy": 0.5}
    assert ranked({"macro_f1": 0.5}, recipe) == {"macro_f1": 0.5}


def test_ranks_that_take_the_first_ones_word_still_compare_sizes(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 10)
    damage(path)
    assert Checkpoint.open(path, is_verified=True).progress.step == 10
    assert first_whole([path]) == (
        None,
        (f"{path / 'rank-00000.safetensors'}: altered or cut off (size or SHA-256 is not the manifest's); use an earlier checkpoint",),
    )
    (path / "rank-00000.safetensors").write_bytes(b"short")
    with pytest.raises(RunError, match="altered or cut off"):
        Checkpoint.open(path, is_verified=True)


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "a b", "x" * 81])
def test_a_name_that_cannot_be_a_folder_everywhere_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a run's name has up to 80"):
        checked_run_id(name)


def test_a_name_in_use_is_refused_with_both_ways_on(recipe: FinetuneConfig) -> None:
    left_run(recipe)
    with pytest.raises(ConfigError, match=r"left: in use by a run in .*give another name, or go on with that run: --resume left"):
        checked_run_id("left")
    assert checked_run_id("another-1.2_3") == "another-1.2_3"
    assert not (home().runs / "another-1.2_3").exists()
