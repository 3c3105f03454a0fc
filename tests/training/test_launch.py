"""What a run that failed says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.session import Session
from cluster.topology import Topology
from foundation.errors import ConfigError
from foundation.home import home
from tests.support.tiny import make_encoder, write_reviews
from training import runs
from training.config import FinetuneConfig
from training.launch import launch, out_of_memory
from training.planning import plan

RECIPE = {"tokens_per_microbatch": 4096, "workers": {"count": 2}}


def test_a_run_that_ray_ended_for_want_of_memory_names_the_node_and_what_to_lower() -> None:
    told = (
        "Training failed due to controller error:\n5 worker(s) were killed due to the node running low on memory. "
        "Memory on the node (IP: 10.0.0.7, ID: 95475) was 22.31GB used / 23.54GB limit (0.947807)\nOOM kill reason: more\n"
    )
    reason = out_of_memory(told, RECIPE)
    assert reason is not None
    assert reason.startswith("node 10.0.0.7 ran out of memory (22.31 of 23.54 GB were taken")
    assert reason.endswith("lower tokens_per_microbatch (4,096 now) or the number of workers")


@pytest.mark.parametrize("told", ["", "ValueError: no memory of it", "Memory on the node"])
def test_other_failures_are_not_taken_for_it(told: str) -> None:
    assert out_of_memory(told, RECIPE) is None


def test_a_run_that_cannot_begin_leaves_its_name_free_and_one_that_there_is_is_not_touched(
    raybert_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"encoder": str(make_encoder(tmp_path / "encoder", layers=1)), "data": {"train": str(write_reviews(tmp_path / "r.csv", 40))}}
    planned = plan("finetune", FinetuneConfig.model_validate(tree | {"max_length": 32}), run_id="named")
    folder, session = home().runs / "named", Session("nowhere", "private", Topology(()))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")
    with pytest.raises(Exception, match="file"):
        launch(planned, session)
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / runs.RUN_FILE).write_text("of another run")
    with pytest.raises(ConfigError, match="named: came into use since this was planned"):
        launch(planned, session)
    assert (folder / runs.RUN_FILE).read_text() == "of another run"
