"""Pieces go when they are old, or when no build rests on them; never those of a build that a run was trained on, nor under a build."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.build import apply
from corpus.config import DataConfig
from corpus.manifest import BuildManifest
from corpus.planning import plan
from corpus.pruning import prune, referred_folders
from corpus.stages import map_here
from corpus.store import PieceStore, piece_store
from foundation.errors import RunError
from raybert.main import main

Recipe = Callable[..., DataConfig]
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def build(recipe_for: Recipe, tmp_path: Path, store: Path) -> Callable[..., BuildManifest]:
    """Build into ``tmp_path/NAME``; other values of ``min_characters`` share no piece."""

    def run(name: str, min_characters: int = 1, *, replace: bool = False) -> BuildManifest:
        config = recipe_for(out=str(tmp_path / name), cleaning={"min_characters": min_characters})
        return apply(plan(config, Path(str(config.tokenizer))), map_here, store=store, replace=replace)

    return run


def pieces(store: Path) -> set[str]:
    return {file.name for file in store.glob("??/*")}


def make_old(store: Path, days: float) -> None:
    for file in store.rglob("*.*"):
        os.utime(file, (time.time() - days * DAY_S,) * 2)


def write_run(runs: Path, name: str, text: str, file: str = "recipe.yaml") -> None:
    (runs / name).mkdir(parents=True)
    (runs / name / file).write_text(text)


def test_what_was_not_used_goes_and_a_build_makes_it_again(build: Callable[..., BuildManifest], store: Path, runs: Path) -> None:
    first, held = build("built"), pieces(store)
    assert prune(store, runs, older_than_s=3_600).files == 0
    make_old(store, 1)
    assert prune(store, runs, older_than_s=3_600, dry_run=True).files == len(held)
    assert pieces(store) == held
    assert prune(store, runs, older_than_s=3_600).files == len(held)
    assert pieces(store) == set()
    assert build("again").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("recipe.yaml", "data: {built}\nsteps: 3\n"),
        ("recipe.yaml", "data: {{train: {built}}}\n"),
        ("study.yaml", "recipe: {{data: {{train: {built}}}}}\n"),
    ],
    ids=["pretrain", "finetune", "tune"],
)
def test_pieces_of_a_build_that_a_run_refers_to_stay_however_old(
    build: Callable[..., BuildManifest], store: Path, runs: Path, tmp_path: Path, file: str, text: str
) -> None:
    build("built")
    of_run = pieces(store)
    build("other", 2)
    (tmp_path / "link").symlink_to(tmp_path / "built")
    write_run(runs, "run-1", text.format(built=tmp_path / "link"), file)
    write_run(runs, "run-2", "data: [")
    make_old(store, 90)
    found = prune(store, runs, older_than_s=DAY_S)
    assert pieces(store) == of_run
    assert (found.kept_files, found.builds, found.builds_of_runs) == (len(of_run), 2, 1)
    # A run whose data are gone, or were built anew, holds nothing.
    build("built", 3, replace=True)
    make_old(store, 90)
    prune(store, runs, older_than_s=DAY_S)
    assert not pieces(store) & of_run
    shutil.rmtree(tmp_path / "built")
    prune(store, runs, older_than_s=DAY_S)
    assert pieces(store) == set()


def test_unreferenced_pieces_go_whatever_their_age_and_those_of_existing_builds_stay(
    build: Callable[..., BuildManifest], store: Path, runs: Path, tmp_path: Path
) -> None:
    build("built")
    kept = pieces(store)
    build("gone", 2)
    with piece_store(store) as cut:
        cut.put_note("ab" * 32, {"of": "a build that was cut"})
    shutil.rmtree(tmp_path / "gone")
    make_old(store, 90)
    found = prune(store, runs, unreferenced=True)
    assert (pieces(store), found.builds) == (kept, 1)
    assert found.files > 1
    assert prune(store, runs, unreferenced=True).files == 0
    # What they have in common with a build that exists stays: the second build made nothing anew.
    build("again")
    shutil.rmtree(tmp_path / "built")
    prune(store, runs, unreferenced=True)
    assert pieces(store) == kept
    shutil.rmtree(tmp_path / "again")
    prune(store, runs, unreferenced=True)
    assert [file for file in store.rglob("*") if file.is_file()] == []


def test_nothing_is_taken_from_under_a_build(build: Callable[..., BuildManifest], store: Path, runs: Path, tmp_path: Path) -> None:
    build("built")
    shutil.rmtree(tmp_path / "built")
    held = pieces(store)
    with (
        piece_store(store),
        pytest.raises(RunError, match=r"a build is using it now, so nothing was removed; run `raybert data prune` again"),
    ):
        prune(store, runs, unreferenced=True)
    assert pieces(store) == held
    with piece_store(store), piece_store(store):  # builds do not keep each other out
        assert prune(store, runs, unreferenced=True, dry_run=True).files == len(held) + 1
    assert prune(store, runs, unreferenced=True).files == len(held) + 1


def test_a_store_that_is_not_there_is_empty_and_stays_so(store: Path, runs: Path) -> None:
    assert prune(store, runs, older_than_s=0).files == 0
    PieceStore(store).close()
    assert not store.exists()
    assert referred_folders(runs) == set()


def test_the_verb_tells_what_it_removes_and_takes_an_age_with_either_rule(
    recipe_for: Recipe, raybert_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*arguments: str) -> dict[str, object]:
        assert main(["data", "prune", *arguments, "--json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    config, store = recipe_for(), raybert_home / "cache" / "data"
    apply(plan(config, Path(str(config.tokenizer))), map_here, store=store)
    assert answer()["files"] == 0
    assert answer("--unreferenced")["files"] == 0
    held = len(pieces(store))
    assert (answer("--older-than-days", "0", "--dry-run")["files"], len(pieces(store))) == (held, held)
    shutil.rmtree(config.out)
    assert answer("--unreferenced", "--older-than-days", "1")["files"] == 0
    assert main(["data", "prune", "--unreferenced", "--dry-run"]) == 0
    assert f"would remove {held + 1} files" in capsys.readouterr().out
    assert answer("--unreferenced")["files"] == held + 1
