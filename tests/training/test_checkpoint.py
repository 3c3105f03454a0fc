"""A checkpoint gives back what was written, however it was split, and refuses everything else."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import RunError
from tests.support.fragments import SHAPES, tensors, whole, write
from training.checkpoint import MANIFEST, Checkpoint, Progress
from training.guard import Memory


@st.composite
def splits(draw: st.DrawFn) -> list[list[tuple[str, int, int]]]:
    """Every tensor cut once per rank at any place, as ZeRO does: stretches may be empty."""
    world_size = draw(st.integers(1, 5))
    ranks: list[list[tuple[str, int, int]]] = [[] for _ in range(world_size)]
    for name, shape in SHAPES.items():
        size = torch.Size(shape).numel()
        cuts = sorted(draw(st.lists(st.integers(0, size), min_size=world_size - 1, max_size=world_size - 1)))
        for rank, (start, end) in enumerate(zip([0, *cuts], [*cuts, size], strict=True)):
            ranks[rank].append((name, start, end))
    return ranks


@settings(max_examples=40, deadline=None)
@given(splits(), st.data())
def test_any_split_reads_back_as_any_slice(ranks: list[list[tuple[str, int, int]]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.open(write(Path(folder) / "checkpoint", ranks))
        for name, kinds in tensors().items():
            for kind, tensor in kinds.items():
                assert torch.equal(checkpoint.read(kind, name), tensor.reshape(-1))
                start = data.draw(st.integers(0, tensor.numel()))
                length = data.draw(st.integers(0, tensor.numel() - start))
                assert torch.equal(checkpoint.read(kind, name, start, length), tensor.reshape(-1)[start : start + length])


def test_progress_comes_back(tmp_path: Path) -> None:
    progress = Progress(40, 38, ((20, 0.25), (40, 0.75)), Memory((0.1, 1 / 3), 2))
    checkpoint = Checkpoint.open(write(tmp_path / "c", whole(), progress=progress))
    assert checkpoint.progress == progress
    assert checkpoint.has_moments()
    assert not Checkpoint.open(write(tmp_path / "d", whole(), progress=Progress(1, 0))).has_moments()


def test_a_checkpoint_from_before_the_guard_is_read_with_nothing_remembered(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", whole())
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["guard"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert Checkpoint.open(folder).progress == Progress(4, 3, ((2, 0.5),))


def test_what_is_not_kept_of_a_tensor_is_told_and_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write(tmp_path / "c", whole()))
    assert checkpoint.holds("exp_avg", "scale")
    assert not checkpoint.holds("momentum_buffer", "scale")
    with pytest.raises(RunError, match="holds no momentum_buffer of scale: it was written with another optimiser"):
        checkpoint.read("momentum_buffer", "scale")


def test_parameters_are_copied_into_a_model_and_another_model_is_refused(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = torch.nn.Linear(width, 5, bias=False)
            self.body.bias = torch.nn.Parameter(torch.zeros(7))
            self.scale = torch.nn.Parameter(torch.tensor(0.0))

    checkpoint = Checkpoint.open(write(tmp_path / "c", whole()))
    model = Model(7)
    checkpoint.load_parameters(model)
    assert torch.equal(model.body.weight, tensors()["body.weight"]["param"])
    assert torch.equal(model.scale, tensors()["scale"]["param"])
    with pytest.raises(RunError, match=r"another model's checkpoint: body\.weight is \(5, 7\) in it and \(5, 8\) in the model"):
        checkpoint.load_parameters(Model(8))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def copy(file: Path) -> None:
    shutil.copy(file, file.with_name("rank-00009.safetensors"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"rank-00001\.safetensors: missing"),
        (cut, r"rank-00001\.safetensors: altered or cut off"),
        (alter, r"rank-00001\.safetensors: altered or cut off"),
        (copy, r"rank-00009\.safetensors: not part of the checkpoint"),
    ],
)
def test_a_missing_altered_cut_or_surplus_file_is_refused_by_name(damage: Any, message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "c", whole())
    damage(folder / "rank-00001.safetensors")
    with pytest.raises(RunError, match=message):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, rf"no {MANIFEST}"),
        ("{", "not JSON"),
        ("{}", "lacks keys"),
        ("[]", "lacks keys"),
    ],
)
def test_a_missing_or_damaged_manifest_is_refused(manifest: str | None, message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "c", whole())
    (folder / MANIFEST).unlink() if manifest is None else (folder / MANIFEST).write_text(manifest)
    with pytest.raises(RunError, match=message):
        Checkpoint.open(folder)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", whole())
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(RunError, match="format_version is 99"):
        Checkpoint.open(folder)


def test_a_stretch_that_no_file_holds_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write(tmp_path / "c", [[("body.weight", 0, 10)], [("body.weight", 20, 35)]]))
    assert checkpoint.read("param", "body.weight", 2, 8).numel() == 8
    with pytest.raises(RunError, match=r"param of body\.weight: elements 10 to 35 are in no file"):
        checkpoint.read("param", "body.weight")
