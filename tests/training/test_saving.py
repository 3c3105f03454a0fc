"""Checkpoints that are written behind the steps' back: of the moment at which they were begun, whole or not at all."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.errors import RunError
from training.checkpoint import Checkpoint, Fragment, Progress
from training.saving import Saving

CPU = torch.device("cpu")
ELEMENTS = 200_000


class Ranks:
    """A gang in one process: the engine, and the collective, of one rank after the other."""

    def __init__(self, world_size: int, folder: Path) -> None:
        self.values = [torch.full((ELEMENTS,), float(rank)) for rank in range(world_size)]
        self.reported: list[tuple[dict[str, float], Path]] = []
        self._barrier = threading.Barrier(world_size)
        self._shares: list[Any] = [None] * world_size
        self.savings = [
            Saving(
                _Engine(rank, self.values),  # type: ignore[arg-type]
                CPU,
                folder,
                {"attempt": "abc123"},
                everyone=lambda value, rank=rank: self._gathered(rank, value),  # type: ignore[misc]
                report=lambda figures, path: self.reported.append((dict(figures), path)),
            )
            for rank in range(world_size)
        ]

    def all(self, call: Callable[[Saving], Any]) -> list[Any]:
        """What ``call`` gives of every rank, at once."""
        found: list[Any] = [None] * len(self.savings)

        def one(rank: int) -> None:
            found[rank] = call(self.savings[rank])

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(found))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def _gathered(self, rank: int, value: dict[str, Any]) -> list[dict[str, Any]]:
        self._barrier.wait()
        self._shares[rank] = value
        self._barrier.wait()
        return [*self._shares]


class _Engine:
    def __init__(self, rank: int, values: list[torch.Tensor]) -> None:
        self.rank, self.world_size, self._values = rank, len(values), values

    def fragments(self) -> Iterator[Fragment]:
        yield Fragment("weight", self.rank * ELEMENTS, {"param": self._values[self.rank]})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.world_size * ELEMENTS,)}


@contextmanager
def files_of_at_most(limit: int) -> Iterator[None]:
    """Within the block no file can grow beyond so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_written_is_of_the_moment_at_which_it_was_begun(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    assert ranks.all(lambda saving: saving.begin(Progress(4, 4), {"loss": 1.5})) == [None, None]
    for value in ranks.values:
        value += 100.0
    sealed = ranks.all(Saving.finish)
    assert [one.step for one in sealed] == [4, 4]
    assert [one.error for one in sealed] == [None, None]
    ((figures, folder), (_, same)) = ranks.reported
    assert folder == same == tmp_path / "step-0000004-abc123"
    assert figures == {"loss": 1.5, "step": 4}
    found = Checkpoint.open(folder)
    assert torch.equal(found.read("param", "weight"), torch.cat([torch.zeros(ELEMENTS), torch.ones(ELEMENTS)]))
    assert found.progress.step == 4


def test_it_is_sealed_once_every_rank_has_written(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    assert [saving.signal() for saving in ranks.savings] == [0.0, 0.0]
    ranks.all(lambda saving: saving.begin(Progress(1, 1), {}))
    assert [saving.seal(1.0) for saving in ranks.savings] == [None, None]
    assert not (tmp_path / "step-0000001-abc123" / "checkpoint.json").exists()
    while sum(saving.signal() for saving in ranks.savings) < 2:
        pass
    assert all(ranks.all(lambda saving: saving.seal(2.0)))
    assert Checkpoint.open(tmp_path / "step-0000001-abc123").progress.step == 1
    assert [saving.signal() for saving in ranks.savings] == [0.0, 0.0]
    assert ranks.all(Saving.finish) == [None, None]


def test_the_next_one_waits_for_the_one_before(tmp_path: Path) -> None:
    ranks = Ranks(1, tmp_path)
    (saving,) = ranks.savings
    saving.begin(Progress(1, 1), {})
    ranks.values[0] += 1.0
    before = saving.begin(Progress(2, 2), {})
    assert before is not None
    assert before.step == 1
    assert Checkpoint.open(tmp_path / "step-0000001-abc123").read("param", "weight").sum() == 0
    saving.finish()
    assert Checkpoint.open(tmp_path / "step-0000002-abc123").read("param", "weight").sum() == ELEMENTS


def test_one_that_a_full_disk_does_not_hold_leaves_nothing_and_the_one_before_stays_whole(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    ranks.all(lambda saving: saving.begin(Progress(1, 1), {}))
    ranks.all(Saving.finish)
    with files_of_at_most(ELEMENTS):
        ranks.all(lambda saving: saving.begin(Progress(2, 2), {}))
        sealed = ranks.all(Saving.finish)
    assert all("rank 0: " in one.error and "rank 1: " in one.error for one in sealed)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001-abc123"]
    assert [figures["step"] for figures, _ in ranks.reported] == [1, 1]
    assert Checkpoint.open(tmp_path / "step-0000001-abc123").progress.step == 1


def test_one_whose_manifest_cannot_be_written_is_given_up_by_every_rank(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    (tmp_path / "step-0000002-abc123" / "checkpoint.json").mkdir(parents=True)
    ranks.all(lambda saving: saving.begin(Progress(2, 2), {}))
    sealed = ranks.all(Saving.finish)
    assert all(one.error.startswith("rank 0: ") for one in sealed)
    assert ranks.reported == []


def test_a_process_that_ends_in_between_leaves_what_is_no_checkpoint(tmp_path: Path) -> None:
    ranks = Ranks(1, tmp_path)
    ranks.savings[0].begin(Progress(3, 3), {})
    while not ranks.savings[0].signal():
        pass
    with pytest.raises(RunError, match="not a checkpoint, or one whose writing was cut off"):
        Checkpoint.open(tmp_path / "step-0000003-abc123")
