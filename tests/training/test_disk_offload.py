"""Folders of states on a disk: one for each rank, gone with its worker; a disk that cannot be used is told by all ranks alike."""

from __future__ import annotations

from pathlib import Path

import torch

from training.disk_offload import in_memory, own_folder, unusable


def test_a_rank_has_a_folder_of_its_own_that_goes_with_it(tmp_path: Path) -> None:
    with own_folder(str(tmp_path), "run-1", 0) as first, own_folder(str(tmp_path), "run-1", 1) as second:
        assert first is not None
        assert second is not None
        for folder in (first, second):
            folder.mkdir(parents=True)
            (folder / "states").write_bytes(b"1")
        assert first != second
    assert list(tmp_path.iterdir()) == []


def test_what_a_rank_left_is_removed_though_another_is_still_there(tmp_path: Path) -> None:
    with own_folder(str(tmp_path), "run-1", 0) as mine:
        assert mine is not None
        mine.mkdir(parents=True)
        with own_folder(str(tmp_path), "run-1", 1) as other:
            assert other is not None
            other.mkdir(parents=True)
        assert list((tmp_path / "run-1").iterdir()) == [mine]


def test_without_a_disk_there_is_no_folder() -> None:
    with own_folder(None, "run-1", 0) as folder:
        assert folder is None
        assert unusable(folder, 0, 1) is None


def test_a_disk_that_cannot_be_written_is_told_with_the_rank_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = unusable(tmp_path / "file" / "run-1" / "rank-0", 0, 1)
    assert told is not None
    assert told.startswith(f"sharding.offload_folder: {tmp_path / 'file'}: rank 0 on ")
    assert "name a folder on a local disk that every node has" in told


def test_what_lies_in_memory_is_left_as_it_is() -> None:
    stepped = torch.ones(3)
    stepped.grad = torch.ones(3)
    with in_memory(object(), stepped):
        assert stepped.numel() == 3
    assert stepped.grad is not None
