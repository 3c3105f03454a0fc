"""A fine-tune on a real Ray: from a CSV to a bundle, through the death of a worker, and stopped by Ctrl-C."""

from __future__ import annotations

import os
import random
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corpus.config import LabelledDataConfig
from corpus.labelled import load_labelled
from foundation.bundle import open_bundle
from foundation.config import dump_yaml
from foundation.home import Home
from foundation.records import read_rows
from foundation.registry import Registry
from tests.conftest import ROOT, Cli, assert_no_processes, end_group, environment_of, processes_of, wait_for
from tests.support.faults import BEFORE_LEAVING, POINTS, RANK, planted
from tests.support.history import (
    attempts,
    differing_bits,
    expected_rows,
    has_come_to,
    last_checkpoint,
    surviving_losses,
    surviving_rows,
    workers,
)
from tests.support.plain_transformers import run_without_us
from tests.support.tiny import make_encoder, make_packed, write_reviews
from training.checkpoint import Checkpoint
from training.config import FinetuneConfig
from training.runs import checkpoints, step_of

pytestmark = pytest.mark.ray
ROWS_PER_STEP, SEED, CHECKPOINT_EVERY = 7, 11, 60


@dataclass(frozen=True)
class Place:
    """A home with an encoder, data and a recipe for two workers under ZeRO-2."""

    home: Path
    folder: Path
    recipe: Path
    cli: Cli

    @property
    def data(self) -> Path:
        return self.folder / "reviews.csv"

    def new_run(self, known: set[Path]) -> Path:
        """The folder of the run that appeared, once it has a record."""
        found: list[Path] = []

        def appeared() -> bool:
            runs = set(self.home.glob("runs/finetune-*")) - known
            found[:] = [run for run in runs if (run / "metrics.jsonl").exists()]
            return bool(found)

        # Long, as the first run of an environment builds DeepSpeed's op.
        wait_for(appeared, 200, "a new run")
        return found[0]

    def runs(self) -> set[Path]:
        return set(self.home.glob("runs/finetune-*"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("training")
    encoder = make_encoder(folder / "encoder", layers=1)
    tree = {
        "encoder": str(encoder),
        "data": {"train": str(write_reviews(folder / "reviews.csv", 400))},
        "rows_per_step": ROWS_PER_STEP,
        "rows_per_microbatch": 2,
        "epochs": 6,  # 309 steps: a hundred more than the latest kill, as a loaded machine may notice late that its step has come
        "max_length": 32,
        "dropout": 0.1,
        "seed": SEED,
        "schedule": {"peak_lr": 3e-3},
        "workers": {"count": 2, "cpus_each": 0.5},
        "sharding": {"zero_stage": 2},
        "checkpoint": {"every_steps": CHECKPOINT_EVERY},
        "record_rows": True,
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(dump_yaml(FinetuneConfig.model_validate(tree)), encoding="utf-8")
    home = folder / "home"
    return Place(home, folder, recipe, Cli(environment_of(home), folder))


@pytest.fixture(scope="module")
def trained(place: Place) -> dict[str, Any]:
    """An undisturbed run, as its ``--json`` line tells it."""
    ran = place.cli("finetune", "-c", place.recipe, "register_as=reviews", "--json", timeout_s=150)
    assert ran.exit_code == 0, ran.err
    return ran.json


def test_a_fine_tune_ends_with_a_verified_bundle_that_plain_transformers_loads(trained: dict[str, Any]) -> None:
    bundle = Path(trained["bundle"])
    profile = open_bundle(bundle).manifest.profile
    assert profile is not None
    assert (profile.unit, profile.rows, profile.labels) == ("tokens", 360, {"negative": 180, "positive": 180})
    assert trained["findings"] == []
    assert trained["metrics"]["accuracy"] > 0.8
    code = (
        "from transformers import AutoModelForSequenceClassification\n"
        f"model = AutoModelForSequenceClassification.from_pretrained({str(bundle)!r})\n"
        "print(sorted(model.config.id2label.values()))"
    )
    assert run_without_us(code, bundle.parent) == "['negative', 'positive']"


def test_the_run_is_recorded_with_parameters_curves_and_its_bundle(place: Place, trained: dict[str, Any]) -> None:
    registry = Registry(f"sqlite:///{place.home / 'mlflow.db'}", Home(place.home))
    run = registry.client.get_run(trained["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["rows_per_step"] == str(ROWS_PER_STEP)
    assert run.data.params["sharding.zero_stage"] == "2"
    steps = attempts(Path(trained["run_folder"]))[0]["steps"]
    assert len(registry.client.get_metric_history(run.info.run_id, "loss")) == steps
    assert len(registry.client.get_metric_history(run.info.run_id, "macro_f1")) == -(-steps // CHECKPOINT_EVERY)
    assert "bundle/raybert.json" in [item.path for item in registry.client.list_artifacts(run.info.run_id, "bundle")]
    assert trained["version"] == "reviews/1"


def test_evaluation_passes_what_was_learnt_and_fails_an_impossible_gate_with_3(place: Place, trained: dict[str, Any]) -> None:
    good = place.cli("evaluate", "--model", trained["version"], "--data", place.data, "--gate", "accuracy=0.6", "--json")
    assert good.exit_code == 0, good.err
    assert good.json["passed"]
    bad = place.cli("evaluate", "--model", trained["version"], "--data", place.data, "--gate", "accuracy=1.01", "--json")
    assert bad.exit_code == 3
    assert not bad.json["passed"]


def test_a_run_whose_workers_fail_or_are_killed_goes_on_by_itself_names_the_rank_and_ends_in_the_same_bits(
    place: Place, trained: dict[str, Any], tmp_path: Path
) -> None:
    """Two points of all at which a rank fails while the others wait for it; ``make prove-elastic`` has all of them."""
    seed = random.randrange(2**32)
    print(f"failures and kill drawn with seed {seed}")
    draw = random.Random(seed)
    points = draw.sample([point for point in POINTS if point != BEFORE_LEAVING], 2)
    cli = Cli(environment_of(place.home, **planted(tmp_path / "faults", points, ROOT)), place.folder)
    # Ray commits a checkpoint within two seconds of its report, and before it takes the next one: from here on the first is safe.
    step, rank = draw.randrange(2 * CHECKPOINT_EVERY + 1, 3 * CHECKPOINT_EVERY), draw.randrange(2)
    known = place.runs()
    process = cli.start("finetune", "-c", place.recipe, "--json")
    try:
        folder = place.new_run(known)
        wait_for(lambda: has_come_to(folder, step, saved=2 * CHECKPOINT_EVERY), 150, f"step {step}")
        os.kill(workers(folder)[rank], signal.SIGKILL)
        ran = cli.finish(process, timeout_s=120)
    finally:
        if process.poll() is None:
            end_group(process)
    assert ran.exit_code == 0, ran.err
    assert ran.json["restarts"] == 3
    for point in points:
        assert f"rank {RANK}: RuntimeError: a fault {point}" in ran.err
    assert re.search(rf"warning: after step \d+ the workers were ended; .*rank {rank}: its process died", ran.err)
    made = attempts(folder)
    assert made[-1]["step"] in (CHECKPOINT_EVERY, 2 * CHECKPOINT_EVERY, 3 * CHECKPOINT_EVERY)
    assert len({attempt["attempt"] for attempt in made}) == len(made) == 4
    ids = load_labelled(LabelledDataConfig(train=str(place.data))).train.ids
    assert surviving_rows(folder) == expected_rows(ids, made[0]["steps"], rows_per_step=ROWS_PER_STEP, seed=SEED)
    undisturbed = Path(trained["run_folder"])
    assert surviving_losses(folder) == surviving_losses(undisturbed)
    assert differing_bits(last_checkpoint(folder), last_checkpoint(undisturbed)) == []


def test_a_run_whose_driver_is_killed_goes_on_when_it_is_told_to_past_a_damaged_checkpoint_and_ends_in_the_same_bits(
    place: Place, trained: dict[str, Any]
) -> None:
    seed = random.randrange(2**32)
    print(f"kill drawn with seed {seed}")
    # The third checkpoint is reported after the second was committed, so there are two; and the last one is reported when the third was.
    step = random.Random(seed).randrange(3 * CHECKPOINT_EVERY + 1, 3 * CHECKPOINT_EVERY + 15)
    process = place.cli.start("finetune", "-c", place.recipe, "--name", "left", "--json")
    folder = place.home / "runs" / "left"
    try:
        wait_for(lambda: has_come_to(folder, step, saved=3 * CHECKPOINT_EVERY), 150, f"step {step}")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        assert_no_processes(place.home)
    finally:
        if process.poll() is None:
            end_group(process)
    assert place.cli("runs", "show", "left", "--json").json["state"] == "lost"
    taken = place.cli("finetune", "-c", place.recipe, "--name", "left")
    assert (taken.exit_code, "left: in use by a run" in taken.error) == (2, True)
    other = place.cli("finetune", "--resume", "left", "seed=12")
    assert (other.exit_code, "seed: was 11, now 12" in other.error) == (2, True)
    planned = place.cli("finetune", "--resume", "left", "--dry-run", "--json").json["resumes"]
    file = max(Path(planned["checkpoint"]).glob("*.safetensors"))
    older = max(done for found in checkpoints(folder) if (done := step_of(found)) < planned["step"])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    ran = place.cli("finetune", "--resume", "left", "--json", timeout_s=150)
    assert ran.exit_code == 0, ran.err
    assert f"warning: {file}: altered or cut off" in ran.err
    first, second = attempts(folder)
    assert second["step"] == older
    ids = load_labelled(LabelledDataConfig(train=str(place.data))).train.ids
    assert surviving_rows(folder) == expected_rows(ids, first["steps"], rows_per_step=ROWS_PER_STEP, seed=SEED)
    undisturbed = Path(trained["run_folder"])
    assert surviving_losses(folder) == surviving_losses(undisturbed)
    if file.parent.exists():  # Ray may have removed it meanwhile, as it would any other
        file.parent.rename(folder / "damaged")
    assert differing_bits(last_checkpoint(folder), last_checkpoint(undisturbed)) == []
    assert ran.json["metrics"] == trained["metrics"]
    curves = Registry(f"sqlite:///{place.home / 'mlflow.db'}", Home(place.home)).client
    assert {point.step for point in curves.get_metric_history(ran.json["mlflow_run"], "loss")} == set(range(first["steps"]))
    again = place.cli("finetune", "--resume", "left")
    assert (again.exit_code, "left: has finished" in again.error) == (2, True)


def test_a_run_that_loses_its_head_skips_steps_and_ends_with_their_rows_without_trying_again(place: Place) -> None:
    known = place.runs()
    more = ["schedule.peak_lr=1e30", "schedule.warmup_share=0", "optimiser.clip_norm=0", "guard.stop_after=3", "checkpoint.every_steps=1"]
    ran = place.cli("finetune", "-c", place.recipe, *more, timeout_s=240)
    assert ran.exit_code == 1, ran.err
    (run,) = place.runs() - known
    rows = read_rows(run / "metrics.jsonl")
    skipped = [row for row in rows if "skipped" in row]
    assert len(skipped) == 3
    assert [row["is_applied"] for row in skipped] == [False] * 3
    assert all(len(row["skipped_rows"]) == ROWS_PER_STEP for row in skipped)
    assert f"step {skipped[-1]['step']}: {skipped[-1]['skipped']}; 3 steps in a row could not be applied" in ran.err
    assert all(row in ran.err for row in skipped[-1]["skipped_rows"])
    assert "Traceback" not in ran.err
    assert sum(row["event"] == "attempt" for row in rows) == 1
    kept = sorted(run.glob("step-*/checkpoint.json"))
    assert kept, "the checkpoints of earlier steps are there"
    assert max(Checkpoint.open(file.parent).progress.step for file in kept) == skipped[-1]["step"]


def test_ctrl_c_keeps_the_last_checkpoint_and_leaves_nothing_running(place: Place) -> None:
    known = place.runs()
    process = place.cli.start("finetune", "-c", place.recipe, "epochs=5000")
    try:
        folder = place.new_run(known)
        wait_for(lambda: any(row["event"] == "checkpoint" for row in read_rows(folder / "metrics.jsonl")), 60, "a checkpoint")
        ran = place.cli.interrupt(process, timeout_s=30)
    finally:
        if process.poll() is None:
            end_group(process)
    assert ran.exit_code == 130, ran.err
    assert ran.error.startswith("interrupted")
    assert "Traceback" not in ran.err
    assert list(folder.glob("step-*/checkpoint.json"))
    assert_no_processes(place.home)


def test_a_model_from_scratch_whose_driver_was_killed_is_gone_on_with(place: Place) -> None:
    packed = make_packed(place.folder / "packed", place.folder / "encoder")
    shape = ["new_model={layers: 1, hidden: 32, heads: 2}", "steps=100000", "rows_per_step=4", "checkpoint.every_steps=20"]
    process = place.cli.start("pretrain", "--name", "scratch", f"data={packed}", *shape)
    run = place.home / "runs" / "scratch"
    try:
        wait_for(lambda: has_come_to(run, 45, saved=20), 150, "a checkpoint")
        process.kill()
        process.wait(timeout=10)
    finally:
        if process.poll() is None:
            end_group(process)
    wait_for(lambda: not processes_of(place.home), 60, "the end of its workers")
    upto = max(row["step"] for row in read_rows(run / "metrics.jsonl") if row["event"] == "step") + 30
    ran = place.cli("pretrain", "--resume", "scratch", f"stop_after_steps={upto}", "--json", timeout_s=120)
    assert ran.exit_code == 0, ran.err
    assert attempts(run)[-1]["step"] >= 20
    assert ran.json["steps"] == upto
