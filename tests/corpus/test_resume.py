"""A build that was cut goes on where it was, and ends in the same bytes; a changed file redoes only what depends on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.build import apply
from corpus.config import DataConfig
from corpus.manifest import BuildManifest
from corpus.planning import plan
from corpus.stages import map_here
from tests.support.cutting import Cut, Mapper

Recipe = Callable[..., DataConfig]


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "in" / f"{name}.txt" for name in "abc"]
    files[0].parent.mkdir()
    for number, file in enumerate(files):
        file.write_text("".join(f"text {row} of file {number}\n" for row in range(40)))
    return files


@pytest.fixture
def build(recipe_for: Recipe, texts: list[Path], tmp_path: Path) -> Callable[..., BuildManifest]:
    def run(mapper: Mapper, out: str = "built", *, replace: bool = False) -> BuildManifest:
        config = recipe_for(sources={"texts": {"path": str(texts[0].parent)}}, out=str(tmp_path / out), batch_documents=10)
        return apply(plan(config, Path(config.tokenizer)), mapper, store=tmp_path / "store", replace=replace)

    return run


@pytest.mark.parametrize("fail_at", [0, 1, 5, 11, 12, 17, 23])
def test_a_cut_build_goes_on_and_ends_in_the_same_bytes(
    build: Callable[..., BuildManifest], recipe_for: Recipe, texts: list[Path], tmp_path: Path, fail_at: int
) -> None:
    undisturbed = recipe_for(sources={"texts": {"path": str(texts[0].parent)}}, out=str(tmp_path / "undisturbed"), batch_documents=7)
    wanted = apply(plan(undisturbed, Path(undisturbed.tokenizer)), map_here).files
    with pytest.raises(Cut):
        build(Mapper(fail_at))
    assert not (tmp_path / "built").exists()
    second = Mapper()
    assert build(second).files == wanted
    assert sum(second.done.values()) == 24 - fail_at


def test_a_changed_file_redoes_its_own_pieces_only(build: Callable[..., BuildManifest], texts: list[Path]) -> None:
    first = build(Mapper())
    texts[1].write_text(texts[1].read_text().replace("text 3 ", "text three "))
    second = Mapper()
    changed = build(second, replace=True)
    assert changed.files != first.files
    # Which rows are held back for validation is drawn anew from all rows, so other files' ids may be made again; their texts are not.
    assert second.done["Prepare"] == 4
    third = Mapper()
    assert build(third, "elsewhere").files == changed.files
    assert not third.done


def test_a_store_that_was_thrown_away_changes_nothing(build: Callable[..., BuildManifest], tmp_path: Path) -> None:
    first = build(Mapper())
    for file in (tmp_path / "store").rglob("*.arrow"):
        file.unlink()
    assert build(Mapper(), "elsewhere").files == first.files
