"""A build is whole, recognised, guarded, and leaves nothing behind when it fails."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from corpus.build import apply
from corpus.config import DataConfig, LabelledDataConfig
from corpus.labelled import load_labelled
from corpus.manifest import BuildManifest, files_in, read_manifest, verify
from corpus.planning import plan
from corpus.shards import PackedRows
from corpus.stages import Stage, map_here
from corpus.tokenizer import encode, open_tokenizer
from foundation import folders
from foundation.errors import DataError, InputError, RunError

Recipe = Callable[..., DataConfig]


def build(config: DataConfig, *, replace: bool = False) -> BuildManifest:
    return apply(plan(config, Path(config.tokenizer)), map_here, replace=replace)


def everything_under(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def test_labelled_rows_are_all_kept_and_duplicates_leave_the_packed_corpus(recipe_for: Recipe) -> None:
    manifest = build(recipe_for())
    assert manifest.labels == ("bad", "good")
    assert manifest.labelled == {"train": 36, "validation": 4, "test": 0}
    counts = {stage.stage: stage for stage in manifest.stages}
    assert counts["repair"].changed == 1  # the line break
    assert counts["deduplicate"].dropped == {"exact duplicate": 1}
    assert sum(record.documents for record in manifest.packed.values()) == 39
    data = load_labelled(LabelledDataConfig(train=str(recipe_for().out)))
    assert "text number 3 is here" in [*data.train.texts, *data.validation.texts]
    assert sorted([*data.train.ids, *data.validation.ids]) == sorted(f"reviews.csv#{row}" for row in range(1, 41))


def test_packed_rows_hold_the_tokens_of_every_kept_text(recipe_for: Recipe) -> None:
    config = recipe_for(rows_per_shard=3, validation_fraction=0)
    manifest = build(config)
    rows = PackedRows.open(Path(config.out))
    assert len(manifest.packed["train"].shards) > 2
    assert len(rows) == manifest.packed["train"].rows
    record = manifest.tokenizer
    # Asked for together, in any order and from several shards.
    asked = np.random.default_rng(0).integers(0, len(rows), 40)
    assert rows.lengths(asked).tolist() == [len(rows.row(number).ids) for number in asked]
    assert rows.maskable_counts(asked).tolist() == [int(rows.maskable(rows.row(number).ids).sum()) for number in asked]
    with pytest.raises(IndexError, match=f"{len(rows)} rows"):
        rows.lengths(np.array([0, len(rows)]))
    found = []
    for row in rows:
        assert len(row.ids) <= 64
        assert int(rows.maskable(row.ids).sum()) == int((row.ids >= 5).sum())
        for document in np.split(row.ids, row.starts[1:]):
            assert (document[0], document[-1]) == (record.cls_id, record.sep_id)
            found.append(document[1:-1].tolist())
    texts = {f"text number {i} is here" for i in range(39)}
    assert sorted(found) == sorted(encode(open_tokenizer(Path(config.tokenizer)).serialised, sorted(texts)))
    assert rows[-1].ids.tolist() == rows.row(len(rows) - 1).ids.tolist()
    with pytest.raises(IndexError, match="row"):
        rows.row(len(rows))


def test_test_rows_are_neither_packed_nor_dropped(recipe_for: Recipe, tmp_path: Path) -> None:
    test = tmp_path / "held_out.csv"
    test.write_text("text,label\n" + "zzz held out,good\n" * 3)
    sources = recipe_for().model_dump()["sources"] | {"held_out": {"path": str(test), "label_column": "label", "split": "test"}}
    config = recipe_for(sources=sources)
    manifest = build(config)
    assert manifest.labelled["test"] == 3
    special = open_tokenizer(Path(config.tokenizer))
    z = encode(special.serialised, ["z"])[0][0]
    assert not any((row.ids == z).any() for row in PackedRows.open(Path(config.out)))


def test_unlabelled_text_is_packed_alone(recipe_for: Recipe, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"line {i} of it\n\n" for i in range(50)))
    config = recipe_for(sources={"corpus": {"path": str(corpus)}}, cleaning={"min_characters": 13})
    manifest = build(config)
    assert (manifest.labels, manifest.labelled) == ((), {})
    assert {stage.stage: stage.dropped for stage in manifest.stages}["filter"] == {"empty": 50, "too short": 10}
    assert manifest.packed["validation"].documents > 0
    with pytest.raises(DataError, match="was built from unlabelled text only"):
        load_labelled(LabelledDataConfig(train=config.out))


def test_equal_recipes_give_equal_bytes_and_the_second_is_skipped(recipe_for: Recipe, tmp_path: Path) -> None:
    config = recipe_for()
    first = build(config)
    assert plan(config, Path(config.tokenizer)).state == "up to date"
    before = everything_under(Path(config.out))
    assert build(config) == first
    assert everything_under(Path(config.out)) == before
    elsewhere = recipe_for(out=str(tmp_path / "elsewhere"), batch_documents=7, workers=1)
    assert build(elsewhere).fingerprint == first.fingerprint


def test_another_build_is_replaced_only_when_asked(recipe_for: Recipe, reviews: Path) -> None:
    config = recipe_for()
    first = build(config)
    before = everything_under(Path(config.out))
    reviews.write_text(reviews.read_text().replace("number 7", "number seven"))
    with pytest.raises(DataError, match=r"holds another build.*pass --replace"):
        build(config)
    assert everything_under(Path(config.out)) == before
    assert build(config, replace=True).fingerprint != first.fingerprint
    assert [path.name for path in Path(config.out).parent.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_is_no_build_is_never_touched(recipe_for: Recipe) -> None:
    config = recipe_for()
    out = Path(config.out)
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="exists and is not a data build"):
        build(config, replace=True)
    assert (out / "thesis.tex").read_text() == "years of work"


class Damage(NamedTuple):
    name: str
    do: Callable[[Path], object]
    message: str


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = [
    Damage("packed/shard-00000.arrow", _flip, "packed/shard-00000.arrow: altered"),
    Damage("packed/shard-00000.arrow", Path.unlink, "packed/shard-00000.arrow: missing"),
    Damage("packed/shard-00000.arrow", lambda file: os.truncate(file, 100), "packed/shard-00000.arrow: altered"),
    Damage("tokenizer/vocab.txt", _flip, "tokenizer/vocab.txt: altered"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.message)
def test_damage_is_found_before_a_row_is_read(recipe_for: Recipe, damage: Damage) -> None:
    config = recipe_for()
    build(config)
    out = Path(config.out)
    damage.do(out / damage.name)
    with pytest.raises(DataError, match=damage.message):
        PackedRows.open(out)
    with pytest.raises(DataError, match=f"holds a damaged build .*{damage.message}"):
        build(config)
    build(config, replace=True)
    verify(out, read_manifest(out))


def test_surplus_files_and_altered_labels_and_manifests_are_found(recipe_for: Recipe) -> None:
    config = recipe_for()
    out = Path(config.out)
    manifest = build(config)
    assert set(manifest.files) == set(files_in(out))
    (out / "packed" / "more.arrow").write_bytes(b"")
    with pytest.raises(DataError, match=r"more\.arrow: not listed"):
        verify(out, manifest)
    _flip(out / "labelled" / "train.arrow")
    with pytest.raises(DataError, match=r"labelled/train\.arrow: altered"):
        load_labelled(LabelledDataConfig(train=str(out)))
    (out / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(DataError, match="format version 99; this raybert reads up to 1"):
        PackedRows.open(out)
    (out / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        PackedRows.open(out)


def test_bad_data_is_refused_before_any_work_and_leaves_no_trace(recipe_for: Recipe, reviews: Path, tmp_path: Path) -> None:
    def never(tables: Iterable[pa.Table], stage: Stage) -> Generator[pa.Table, None, None]:
        raise AssertionError("the per-row work was begun")

    for content, message in [
        ("text,label\na,x\nb,x\n", "every row has the label 'x'"),
        ("text,label\na,x\nb,\n", "no label in 1 of 2 rows"),
        ("text,label\n ,x\nb,y\n", "no text in 1 of 2 rows"),
    ]:
        reviews.write_text(content)
        config = recipe_for(out=str(tmp_path / "deep" / "er" / "built"))
        before = everything_under(tmp_path)
        planned = plan(config, Path(config.tokenizer))
        with pytest.raises(InputError, match=message):
            apply(planned, never)
        assert everything_under(tmp_path) == before


def test_text_that_repair_empties_is_refused_where_it_is_labelled(recipe_for: Recipe, reviews: Path) -> None:
    reviews.write_text("text,label\na,x\n\u200b,y\n")
    with pytest.raises(DataError, match=r"reviews.csv#2: nothing is left of this labelled text"):
        build(recipe_for())


def test_nothing_left_to_pack_is_refused(recipe_for: Recipe) -> None:
    config = recipe_for(cleaning={"min_characters": 1_000})
    with pytest.raises(DataError, match=r"no text is left to pack.*too short: 40.*relax `cleaning`"):
        build(config)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(errno.ENOSPC, "No space left on device"), RunError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["disk full", "Ctrl-C"],
)
def test_a_build_that_is_cut_leaves_the_old_result(
    recipe_for: Recipe, monkeypatch: pytest.MonkeyPatch, error: BaseException, seen: type[BaseException]
) -> None:
    config = recipe_for()
    build(config)
    before = everything_under(Path(config.out).parent)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("corpus.windows.write_shard", fail)
    with pytest.raises(seen):
        build(recipe_for(seed=1), replace=True)
    assert everything_under(Path(config.out).parent) == before


def test_a_disk_without_room_is_refused_before_the_work(recipe_for: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    before = everything_under(tmp_path)
    with pytest.raises(InputError, match=r"built: no room on the disk: needs about .* MB, 0 MB are free; nothing was written"):
        build(recipe_for())
    assert everything_under(tmp_path) == before


def test_what_a_killed_build_left_is_cleared_away(recipe_for: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe_for()
    out = Path(config.out)
    first = build(config)
    stem = f".{out.name}.building-{folders.socket.gethostname()}-4242"
    (out.parent / stem / "packed").mkdir(parents=True)
    os.rename(out, out.parent / f"{stem}-old")  # killed between the two renames
    monkeypatch.setattr(folders, "_is_alive", lambda _: False)
    with folders.new_folder(out, 0) as part:
        assert read_manifest(out) == first
        (part / "new").write_text("build")
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    assert files_in(out) == ["new"]
