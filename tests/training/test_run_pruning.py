"""What ``runs prune`` takes and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import ConfigError
from foundation.home import home
from foundation.pruning import DAY_S, Asked
from raybert.main import main
from training import runs
from training.pruning import prune

pytestmark = pytest.mark.usefixtures("raybert_home")


def make_run(name: str, state: str = "finished", *, days: float = 0.0, **recipe: Any) -> Path:
    """A run with two checkpoints of 1,000 bytes and a bundle, which ended so long ago."""
    folder = home().runs / name
    for place in ("step-0000010-abcdef", "step-0000020-abcdef", "bundle"):
        (folder / place).mkdir(parents=True)
        (folder / place / "tensors").write_bytes(b"x" * 1000)
    runs.begin(folder, {"verb": "finetune", "steps": 20, "recipe": recipe, "location": ""}, score="accuracy", score_order="max")
    if state not in ("running", "lost"):
        runs.end(folder, state)
    about = json.loads((folder / runs.RUN_FILE).read_text())
    if about["ended"]:
        about["ended"] -= days * DAY_S
    if state == "lost":
        about["pid"] = 2**22 + 1
    (folder / runs.RUN_FILE).write_text(json.dumps(about))
    return folder


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_finished_runs_lose_their_checkpoints_and_keep_the_rest() -> None:
    folder = make_run("a")
    found = prune(Asked())
    assert [(item.id, item.what, item.bytes) for item in found.gone] == [("a", "checkpoints", 2000)]
    assert left(folder) == {"bundle"}
    assert runs.open_run("a").state == "finished"
    assert not list(home().runs.glob(".going*"))
    assert [item.reason for item in prune(Asked()).kept] == ["has no checkpoints"]


@pytest.mark.parametrize("state", ["failed", "interrupted", "lost"])
def test_a_run_that_could_be_gone_on_with_keeps_its_checkpoints_until_it_goes_whole(state: str) -> None:
    folder = make_run("a", state)
    (kept,) = prune(Asked()).kept
    assert kept.reason == f"is {state}, but could be gone on with"
    assert len(left(folder)) == 3
    (gone,) = prune(Asked(whole=True)).gone
    assert (gone.what, gone.state) == ("run", state)
    assert not folder.exists()


def test_a_running_run_is_never_touched() -> None:
    folder = make_run("a", "running")
    for whole in (False, True):
        (kept,) = prune(Asked(whole=whole), [runs.open_run("a")]).kept
        assert kept.reason == "is running"
    assert len(left(folder)) == 3


def test_age_and_state_choose(capsys: pytest.CaptureFixture[str]) -> None:
    make_run("young", days=1)
    make_run("old", days=10)
    make_run("broken", "failed", days=10)
    found = prune(Asked(older_than_s=7 * DAY_S, dry_run=True))
    assert [item.id for item in found.gone] == ["old"]
    found = prune(Asked(states=["failed"], whole=True, dry_run=True))
    assert [item.id for item in found.gone] == ["broken"]
    assert {item.reason for item in found.kept} == {"is finished"}
    with pytest.raises(ConfigError, match="--state: found 'done'; expected one of finished, failed"):
        prune(Asked(states=["done"]))
    assert main(["runs", "prune", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gone"] == [], "by default only what is a month old"
    assert main(["runs", "prune", "young", "--dry-run"]) == 0
    assert "would remove 2 kB of 1 runs" in capsys.readouterr().out
    assert all(len(left(home().runs / name)) == 3 for name in ("young", "old", "broken"))


def test_a_run_from_which_one_that_stays_began_is_not_removed_and_one_whose_heirs_go_too_is() -> None:
    first = make_run("first")
    second = make_run("second", encoder=str(first / "bundle"))
    third = make_run("third", start_from=str(second / "step-0000020-abcdef"))
    found = prune(Asked(whole=True), [runs.open_run("first"), runs.open_run("second")])
    assert found.gone == ()
    assert {item.id: item.reason for item in found.kept} == {"second": "third began from it", "first": "second began from it"}
    assert {item.id for item in prune(Asked(whole=True)).gone} == {"first", "second", "third"}
    assert not any(folder.exists() for folder in (first, second, third))


def test_checkpoints_stay_as_long_as_a_run_that_began_from_them_could_be_gone_on_with() -> None:
    first = make_run("first")
    make_run("second", "interrupted", start_from=str(first / "step-0000020-abcdef"))
    assert [item.reason for item in prune(Asked(), [runs.open_run("first")]).kept] == ["second began from it"]
    runs.end(home().runs / "second", "finished")
    assert {item.id for item in prune(Asked()).gone} == {"first", "second"}


def test_what_a_cut_prune_left_goes_with_the_next() -> None:
    (home().runs / ".going-a-b-1").mkdir(parents=True)
    assert prune(Asked()).gone == ()
    assert not list(home().runs.iterdir())


def test_a_run_that_a_studys_recipes_begin_from_is_not_removed_whole() -> None:
    first = make_run("first")
    studies = {"study": [str(first / "bundle")]}
    assert [item.reason for item in prune(Asked(whole=True), studies=studies).kept] == ["recipes of study begin from it"]
    assert first.exists()
    assert [item.id for item in prune(Asked(), studies=studies).gone] == ["first"], "its checkpoints are not what they name"
