"""What of the store of pieces can go: what was not used for some time, or what no build rests on any more.

A build notes on which pieces it rests (``store.py``). By age, the pieces of a build that still exists and that a run was trained on are
never taken: whoever goes on with that run may want the build again with one source more, and soon. Builds themselves are never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from corpus.manifest import read_manifest
from corpus.store import BUILDS
from foundation.config import read_yaml
from foundation.errors import InputError, RunError
from foundation.home import has_lock

# What a training run and a study write into their folders.
_RECIPES = ("recipe.yaml", "study.yaml")


@dataclass(frozen=True)
class Pruned:
    """What went, or would go."""

    files: int
    bytes: int
    kept_files: int
    kept_bytes: int
    builds: int
    """Builds that exist and rest on pieces of the store."""
    builds_of_runs: int
    """Those among them that a run refers to."""


class _Build(NamedTuple):
    note: Path
    out: str
    keys: frozenset[str]
    exists: bool


def prune(store: Path, runs: Path, *, older_than_s: float | None = None, unreferenced: bool = False, dry_run: bool = False) -> Pruned:
    """Remove pieces.

    Args:
        store: The folder of a ``PieceStore``; need not exist.
        runs: The folder of runs and studies, each with its recipe.
        older_than_s: Only what was not used for so long; None is any age.
        unreferenced: Only what no existing build rests on. Otherwise what rests under a build that a run refers to stays.
        dry_run: Remove nothing.

    Raises:
        RunError: A build is using the store now.
    """
    limit = None if older_than_s is None else time.time() - older_than_s
    files = size = kept_files = kept_size = 0
    with contextlib.nullcontext() if dry_run else _alone(store):
        builds = list(_builds(store))
        there = [build for build in builds if build.exists]
        wanted = referred_folders(runs)
        of_runs = [build for build in there if os.path.realpath(build.out) in wanted]
        held = frozenset[str]().union(*(build.keys for build in (there if unreferenced else of_runs)))
        for file in sorted([*store.glob("??/*"), *(build.note for build in builds if not build.exists)]):
            with contextlib.suppress(FileNotFoundError):  # in a dry run a build may be moving files meanwhile
                found = file.stat()
                if file.stem in held or (limit is not None and found.st_mtime > limit):
                    kept_files, kept_size = kept_files + 1, kept_size + found.st_size
                    continue
                if not dry_run:
                    file.unlink()
                files, size = files + 1, size + found.st_size
    return Pruned(files, size, kept_files, kept_size, len(there), len(of_runs))


def referred_folders(runs: Path) -> set[str]:
    """Real paths of the data that the runs and studies under ``runs`` were started with; recipes that cannot be read name none."""
    found: set[str] = set()
    for name in _RECIPES:
        for file in runs.glob(f"*/{name}"):
            with contextlib.suppress(InputError, OSError):
                found.update(os.path.realpath(path) for path in _data_of(read_yaml(file)))
    return found


def _data_of(tree: dict[str, Any]) -> list[str]:
    recipe = tree.get("recipe", tree)
    data = recipe.get("data") if isinstance(recipe, dict) else None
    values = [data.get("train"), data.get("test")] if isinstance(data, dict) else [data]
    return [value for value in values if isinstance(value, str)]


def _builds(store: Path) -> Iterator[_Build]:
    for note in sorted(store.glob(f"{BUILDS}/*.json")):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            use = json.loads(note.read_text(encoding="utf-8"))
            exists = False
            with contextlib.suppress(InputError, OSError):
                exists = read_manifest(Path(use["out"])).fingerprint == use["fingerprint"]
            yield _Build(note, use["out"], frozenset(use["keys"]), exists)


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Keep builds out while pieces go; they take turns through a lock on the folder."""
    if not store.is_dir():
        yield
        return
    handle = os.open(store, os.O_RDONLY)
    try:
        if not has_lock(handle, fcntl.LOCK_EX):
            raise RunError(f"{store}: a build is using it now, so nothing was removed; run `raybert data prune` again when it has ended")
        yield
    finally:
        os.close(handle)
