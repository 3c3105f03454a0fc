"""Universal checkpoints: what goes out comes back, and what is none is refused; that DeepSpeed takes them is a contract of its own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from foundation.errors import DataError
from tests.conftest import Cli
from tests.support.fragments import SHAPES, tensors, whole, write
from training.checkpoint import KINDS, MANIFEST, Checkpoint, Fragment, Progress, write_fragments, write_manifest
from training.universal import LATEST, Universal, export_universal, import_universal


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Of a checkpoint that two ranks wrote, in two pieces."""
    ranks = [[("body.weight", 0, 12), ("scale", 0, 1)], [("body.weight", 12, 35), ("body.bias", 0, 7)]]
    return export_universal(Checkpoint.open(write(tmp_path / "ours", ranks)), tmp_path / "universal").folder


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_exported_comes_back(exported: Path, tmp_path: Path) -> None:
    found = import_universal(Universal(exported), tmp_path / "back")
    back = Checkpoint.open(tmp_path / "back")
    assert found.progress == back.progress == Progress(4, 3)
    assert back.shapes == SHAPES
    assert found.parameters == 43
    for name, kinds in tensors().items():
        for kind, tensor in kinds.items():
            assert torch.equal(back.read(kind, name), tensor.reshape(-1))


def test_the_folder_itself_is_taken_as_well_as_the_one_above_it(exported: Path) -> None:
    assert Universal(exported / "global_step4").shapes == Universal(exported).shapes


def test_names_lose_their_beginning_and_the_step_is_another(tmp_path: Path) -> None:
    values = {kind: torch.arange(3.0) for kind in KINDS}
    entry = write_fragments(tmp_path / "wrapped", 0, [Fragment("model.bias", 0, values)])
    write_manifest(tmp_path / "wrapped", Progress(4, 3), entry, {"model.bias": (3,)}, {})
    export_universal(Checkpoint.open(tmp_path / "wrapped"), tmp_path / "universal")
    import_universal(Universal(tmp_path / "universal"), tmp_path / "back", step=0, strip="model.")
    back = Checkpoint.open(tmp_path / "back")
    assert [*back.shapes] == ["bias"]
    assert back.progress == Progress(0, 3)
    with pytest.raises(DataError, match=r"model.bias does not begin with 'module.'"):
        import_universal(Universal(tmp_path / "universal"), tmp_path / "again", strip="module.")


def test_a_frozen_parameter_has_its_values_only_and_a_new_run_moments_of_zero(tmp_path: Path) -> None:
    half = [Fragment("frozen", 0, {"param": torch.ones(2)}), Fragment("moving", 0, {kind: torch.ones(2) for kind in KINDS})]
    shapes = {"frozen": (2,), "moving": (2,)}
    write_manifest(tmp_path / "half", Progress(1, 1), write_fragments(tmp_path / "half", 0, half), shapes, {})
    zero = export_universal(Checkpoint.open(tmp_path / "half"), tmp_path / "universal").folder / "global_step1" / "zero"
    assert files(zero / "frozen") == {"fp32.pt"}
    assert files(zero / "moving") == {"fp32.pt", "exp_avg.pt", "exp_avg_sq.pt", "step.pt"}
    new = [Fragment("moving", 0, {"param": torch.ones(2)})]
    write_manifest(tmp_path / "new", Progress(0, 0), write_fragments(tmp_path / "new", 0, new), {"moving": (2,)}, {})
    export_universal(Checkpoint.open(tmp_path / "new"), tmp_path / "universal-new")
    found = Universal(tmp_path / "universal-new").read("exp_avg", "moving")
    assert found is not None
    assert not found.any()


def test_other_state_than_adams_has_no_place_in_it(tmp_path: Path) -> None:
    fragment = Fragment("body", 0, {"param": torch.ones(2), "momentum_buffer": torch.ones(2)})
    write_manifest(tmp_path / "muon", Progress(1, 1), write_fragments(tmp_path / "muon", 0, [fragment]), {"body": (2,)}, {})
    with pytest.raises(DataError, match="holds momentum_buffer of body, for which the universal form has no place"):
        export_universal(Checkpoint.open(tmp_path / "muon"), tmp_path / "universal")
    assert not (tmp_path / "universal").exists()


class Trap:
    """What a pickle can do when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("caught"),)  # type: ignore[return-value]


def test_what_a_file_names_is_not_executed(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (exported / "global_step4" / "zero" / "scale" / "fp32.pt").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(DataError, match=r"scale/fp32.pt: cannot be read as tensors and plain values"):
        import_universal(Universal(exported), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "caught").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "zero" / "scale" / "fp32.pt").unlink(), r"scale/fp32.pt: missing"),
        (lambda folder: (folder / "zero" / "scale" / "exp_avg.pt").unlink(), r"scale/exp_avg.pt: missing"),
        (lambda folder: torch.save({"param": torch.ones(2)}, folder / "zero" / "scale" / "fp32.pt"), "expected a tensor of 1 elements"),
        (lambda folder: torch.save({}, folder / "mp_rank_00_model_states.pt"), "lacks what a DeepSpeed checkpoint has .*param_shapes"),
        (lambda folder: (folder / "zero").rename(folder / "nil"), "no universal checkpoint: expected latest_universal"),
    ],
)
def test_what_is_damaged_is_refused_by_name(damage: object, says: str, exported: Path, tmp_path: Path) -> None:
    damage(exported / "global_step4")  # type: ignore[operator]
    with pytest.raises(DataError, match=says):
        import_universal(Universal(exported), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    ours = write(tmp_path / "ours", whole())
    would = cli("runs", "export", ours, tmp_path / "universal", "--dry-run")
    assert "would export the checkpoint of step 4" in would.out
    assert not (tmp_path / "universal").exists()
    found = json.loads(cli("runs", "export", ours, tmp_path / "universal", "--json").out)
    assert (found["step"], found["parameters"]) == (4, 43)
    assert (tmp_path / "universal" / LATEST).read_text() == "global_step4"
    assert f"start_from={tmp_path / 'back'}" in cli("runs", "import", tmp_path / "universal", tmp_path / "back").out
    assert (tmp_path / "back" / MANIFEST).is_file()
    again = cli("runs", "import", tmp_path / "universal", tmp_path / "back")
    assert again.exit_code == 2
    assert "back: exists already" in again.err
