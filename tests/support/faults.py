"""Faults inside workers: a module that Python imports by itself makes one rank fail, once at each of some points of a run.

``planted(folder, points)`` gives environment variables for the command; the workers of its cluster inherit them. A point is used up when a
file with its name, and the time, is in ``folder``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RANK = 1
"""That fails."""
BEFORE_LEAVING = "before the decision to leave"
POINTS = (
    "before the sum of a step",
    "in evaluation",
    "in the copy for a checkpoint",
    "in the writing of a checkpoint",
    "before the report of a checkpoint",
    "in the report of a checkpoint",
    "after the report of a checkpoint",
    BEFORE_LEAVING,
)
_CUSTOMIZE = """\
import importlib.abc, importlib.util, sys

class Planting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "training.worker":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            from tests.support.faults import plant
            plant(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Planting())
"""


def planted(folder: Path, points: Iterable[str], root: Path) -> dict[str, str]:
    """Environment variables; ``root``: of this repository."""
    (folder / "site").mkdir(parents=True)
    (folder / "site" / "sitecustomize.py").write_text(_CUSTOMIZE, encoding="utf-8")
    return {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{root}", "FAULTS_IN": str(folder), "FAULTS_AT": ",".join(points)}


def used(folder: Path) -> dict[str, float]:
    """Points at which the rank has failed, and when, in Unix seconds."""
    return {point: file.stat().st_mtime for point in POINTS if (file := folder / point).exists()}


def plant(worker: Any) -> None:
    """Make the functions of ``training.worker`` fail."""
    run, saving = worker._Run, worker.Saving
    _fail_before(run, "signals", "before the sum of a step", lambda self: self.engine.rank)
    _fail_before(run, "_begin_checkpoint", "in the copy for a checkpoint", lambda self: self.engine.rank)
    _fail_before(saving, "finish", "in the writing of a checkpoint", lambda self: self._engine.rank if self._begun else None)
    _fail_before(run, "_reported", "before the report of a checkpoint", lambda self: self.engine.rank)
    _fail_before(run, "leave", BEFORE_LEAVING, lambda self: self.engine.rank if self.notice else None)
    _fail_before(worker, "evaluate", "in evaluation", lambda: _rank())
    from ray import train

    report = train.report

    def failing(*given: Any, **named: Any) -> None:
        _fail_at("in the report of a checkpoint", _rank())
        report(*given, **named)
        _fail_at("after the report of a checkpoint", _rank())

    train.report = failing


def _rank() -> int:
    from ray import train

    return int(train.get_context().get_world_rank())


def _fail_before(owner: Any, name: str, point: str, rank: Callable[..., int | None]) -> None:
    call = getattr(owner, name)
    is_method = isinstance(owner, type)

    def failing(*given: Any, **named: Any) -> Any:
        _fail_at(point, rank(*given[:1]) if is_method else rank())
        return call(*given, **named)

    setattr(owner, name, failing)


def _fail_at(point: str, rank: int | None) -> None:
    file = Path(os.environ["FAULTS_IN"]) / point
    if rank == RANK and point in os.environ["FAULTS_AT"].split(",") and not file.exists():
        file.touch()
        raise RuntimeError(f"a fault {point}")
