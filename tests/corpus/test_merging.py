"""Builds joined into one hold every row of each, say where it came from, and read like any build; what does not fit is refused by name."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from corpus import merging
from corpus.build import apply as apply_build
from corpus.config import DataConfig, LabelledDataConfig
from corpus.labelled import load_labelled
from corpus.manifest import MANIFEST, BuildManifest, StageCount, files_in, read_manifest, verify
from corpus.merge_planning import plan
from corpus.merging import apply, merged_stages
from corpus.mixture import quotas
from corpus.planning import plan as plan_build
from corpus.shards import PackedRows
from corpus.stages import map_here
from foundation.errors import ConfigError, DataError, RunError
from raybert.main import main

Recipe = Callable[..., DataConfig]


@pytest.fixture
def build(recipe_for: Recipe, tmp_path: Path) -> Callable[..., Path]:
    """Build ``rows`` labelled texts of its own (or unlabelled ones, without ``labels``) into ``tmp_path/NAME``; returns the folder."""

    def run(name: str, rows: int = 30, *, labels: str = "good bad", source: str = "reviews", **values: Any) -> Path:
        classes = labels.split() or [""]
        file = tmp_path / f"{name.replace('/', '-')}.csv"
        lines = [f"text {row} of the build {name},{classes[row % len(classes)]}" for row in range(rows)]
        file.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
        given = {"path": str(file), **({"label_column": "label"} if labels else {})}
        weight = values.pop("weight", None)
        sources = values.pop("sources", {source: given | ({} if weight is None else {"weight": weight})})
        config = recipe_for(sources=sources, out=str(tmp_path / name), rows_per_shard=4, **values)
        apply_build(plan_build(config, Path(str(config.tokenizer))), map_here)
        return tmp_path / name

    return run


def merge(*folders: Path, out: str = "merged", replace: bool = False) -> BuildManifest:
    return apply(plan(folders, folders[0].parent / out), replace=replace)


def rows_of(folder: Path, split: Any = "train") -> list[tuple[list[int], list[int], list[int], list[int]]]:
    packed = PackedRows.open(folder, split)
    found = []
    for number in range(len(packed)):
        row, origins = packed.row(number), packed.origins(number)
        found.append((row.ids.tolist(), row.starts.tolist(), origins.documents.tolist(), origins.offsets.tolist()))
        assert packed.maskable_counts(np.array([number])) == int(packed.maskable(row.ids).sum())
    return found


def test_every_row_of_every_build_is_there_in_order_with_its_document_numbered_on(build: Callable[..., Path], tmp_path: Path) -> None:
    folders = [build("one"), build("two", 20, source="notes"), build("three", 10, labels="", source="texts")]
    manifest = merge(*folders)
    out = tmp_path / "merged"
    verify(out, manifest)
    for split in ("train", "validation"):
        wanted = [
            (ids, starts, [number + first for number in documents], offsets)
            for folder, first in zip(folders, (0, 30, 50), strict=True)
            for ids, starts, documents, offsets in rows_of(folder, split)
        ]
        assert rows_of(out, split) == wanted
        record, records = manifest.packed[split], [read_manifest(folder).packed[split] for folder in folders]
        assert (record.rows, record.tokens) == (sum(one.rows for one in records), sum(one.tokens for one in records))
        assert record.documents == sum(one.documents for one in records)
        assert record.fill == pytest.approx(record.tokens / record.rows / 64, abs=1e-6)
        assert len(record.shards) == sum(len(one.shards) for one in records) > 1
    order = PackedRows.open(out).order(seed=3)
    assert sorted(order.rows_at(np.arange(order.epoch_rows)).rows.tolist()) == list(range(manifest.packed["train"].rows))


def test_labelled_rows_counters_and_figures_are_those_of_all_builds(build: Callable[..., Path], tmp_path: Path) -> None:
    one, two, three = build("one"), build("two", 20, source="notes"), build("three", 10, labels="", source="texts")
    manifest = merge(one, two, three)
    assert manifest.labelled == {"train": 44, "validation": 6, "test": 0}
    parts = [load_labelled(LabelledDataConfig(train=str(folder))) for folder in (one, two)]
    whole = load_labelled(LabelledDataConfig(train=str(tmp_path / "merged")))
    for split in ("train", "validation"):
        assert getattr(whole, split).texts == [text for part in parts for text in getattr(part, split).texts]
        assert getattr(whole, split).labels.tolist() == [label for part in parts for label in getattr(part, split).labels]
    assert (whole.labels, set(manifest.sources)) == (("bad", "good"), {"reviews", "notes", "texts"})
    assert {stage.stage: (stage.rows_in, stage.rows_out) for stage in manifest.stages}["read"] == (60, 60)
    assert manifest.tokenised["texts"] == read_manifest(three).tokenised["texts"]
    assert [found["fingerprint"] for found in manifest.recipe["merge"]] == [
        read_manifest(folder).fingerprint for folder in (one, two, three)
    ]
    assert manifest.recipe["merge"][1]["recipe"] == read_manifest(two).recipe


def test_sources_of_one_name_are_kept_apart_by_their_builds_names(build: Callable[..., Path], tmp_path: Path) -> None:
    manifest = merge(build("january"), build("february"))
    assert set(manifest.sources) == set(manifest.tokenised) == {"january/reviews", "february/reviews"}
    with pa.memory_map(str(tmp_path / "merged" / "labelled" / "train.arrow")) as source:
        found = pa.ipc.open_file(source).read_all().column("source").to_pylist()
    assert found == ["january/reviews"] * 26 + ["february/reviews"] * 26
    assert set(merge(build("a/data"), build("b/data"), out="../named").sources) == {"data-1/reviews", "data-2/reviews"}


def test_weighted_sources_keep_their_weights(build: Callable[..., Path], tmp_path: Path) -> None:
    one, two = build("one", weight=3.0, source="much"), build("two", weight=1.0, source="little")
    manifest = merge(one, two)
    rows = PackedRows.open(tmp_path / "merged")
    assert manifest.packed["train"].sources == {"much": len(PackedRows.open(one)), "little": len(PackedRows.open(two))}
    order = rows.order(seed=1)
    seen = order.rows_at(np.arange(order.epoch_rows)).rows
    assert np.count_nonzero(seen < len(PackedRows.open(one))) == quotas([3.0, 1.0], len(rows))[0]
    plain = build("plain")
    for folders in ([one, plain], [plain, one]):
        with pytest.raises(DataError, match=r"plain: its sources have no weights, those of .*/one have some"):
            merge(*folders, out="refused")


def test_merges_can_be_merged(build: Callable[..., Path], tmp_path: Path) -> None:
    one, two, three = build("one"), build("two"), build("three")
    merge(one, two, out="early")
    merge(tmp_path / "early", three, out="late")
    merge(one, two, three, out="at_once")
    assert rows_of(tmp_path / "late") == rows_of(tmp_path / "at_once")
    assert set(read_manifest(tmp_path / "late").sources) == {"one/reviews", "two/reviews", "reviews"}


def test_the_same_merge_is_recognised_and_another_replaced_only_when_asked(build: Callable[..., Path], tmp_path: Path) -> None:
    one, two, three = build("one"), build("two"), build("three")
    first = merge(one, two)
    assert plan([one, two], tmp_path / "merged").state == "up to date"
    assert merge(one, two) == first
    assert merge(one, two, out="elsewhere").files == first.files
    with pytest.raises(DataError, match=r"merged: holds another build.*pass --replace"):
        merge(one, three)
    assert merge(one, three, replace=True).fingerprint != first.fingerprint


def test_a_merge_that_is_cut_leaves_the_old_result(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchanged_tree: Any
) -> None:
    one, two, three = build("one"), build("two"), build("three")
    merge(one, two)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(merging, "sha256_of", full)
    with unchanged_tree(tmp_path), pytest.raises(RunError, match="no room on the disk"):
        merge(one, three, replace=True)


def test_a_tokenizer_taken_from_another_build_is_the_same(build: Callable[..., Path], tmp_path: Path) -> None:
    one = build("one")
    two = build("two", tokenizer=str(one / "tokenizer"))
    assert read_manifest(one).tokenizer.sha256 != read_manifest(two).tokenizer.sha256
    assert merge(one, two).tokenizer == read_manifest(one).tokenizer


def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(
    build: Callable[..., Path], tmp_path: Path, tokenizer_folder: Path, unchanged_tree: Any
) -> None:
    other = tmp_path / "other_tokenizer"
    other.mkdir()
    words = (tokenizer_folder / "vocab.txt").read_text().splitlines()
    (other / "vocab.txt").write_text("\n".join([*words, "word"]) + "\n")
    swapped = tmp_path / "swapped_tokenizer"
    swapped.mkdir()
    (swapped / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]) + "\n")
    one = build("one")
    cases = [
        (build("longer", sequence_length=32), "longer: has rows of 32 tokens, .*/one of 64; build it with sequence_length=64"),
        (
            build("words", tokenizer=str(other)),
            "words: was tokenised otherwise than .*/one: its vocabulary is 93, not 92; build it with tok",
        ),
        (build("swapped", tokenizer=str(swapped)), "swapped: was tokenised otherwise than .*/one: its tokenizer/tokenizer.json is another"),
        (build("bare", cleaning={"pii": None}), "bare: was tokenised otherwise than .*/one: its "),
        (build("classes", labels="good odd"), "classes: its labels .* of .*/one: .*/one alone has 'bad'; .*/classes alone has 'odd'"),
        (build("more", labels="good bad odd"), "more: its labels are not those of .*/one: .*/more alone has 'odd'; give both"),
        (one, "one: holds the same as .*/one; a merge would repeat every row"),
        (tmp_path / "none", "none: no manifest.json; expected a folder that `raybert data build` made"),
    ]
    damaged = build("damaged")
    shard = damaged / "packed" / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    cases.append((damaged, "damaged/packed/shard-00000.arrow: altered"))
    with unchanged_tree(tmp_path):
        for folder, message in cases:
            with pytest.raises(DataError, match=message):
                merge(one, folder)
        with pytest.raises(ConfigError, match="1 build given; give two or more"):
            merge(one)
        for out in ("one", "one/in", "."):
            with pytest.raises(ConfigError, match="lie in one another; choose another folder"):
                merge(one, cases[0][0], out=out)


def test_numbers_and_pairs_are_joined_and_read_as_what_they_are(build: Callable[..., Path], tmp_path: Path) -> None:
    def rated(name: str, kind: str = "number") -> Path:
        file = tmp_path / f"{name}.rows.csv"
        file.write_text("text,pair,stars\n" + "".join(f"{name} text {row},its pair {row},{row % 5}\n" for row in range(20)))
        source = {"path": str(file), "label_column": "stars", "label_kind": kind, "pair_column": "pair"}
        return build(name, sources={"rated": source})

    merged = merge(rated("one"), rated("two"))
    assert (merged.label_kind, merged.has_pairs, merged.labels) == ("number", True, ())
    data = load_labelled(LabelledDataConfig(train=str(tmp_path / "merged")))
    assert (len(data.train) + len(data.validation), data.kind, data.has_pairs) == (40, "number", True)
    with pytest.raises(DataError, match=r"classes: its label_kind is single, that of .*one is number; build both alike"):
        merge(tmp_path / "one", rated("classes", "single"), out="refused")


def test_rows_that_lie_by_length_are_not_mixed(build: Callable[..., Path], tmp_path: Path) -> None:
    plain, bucketed = build("plain"), build("bucketed", length_buckets=(16,), sequence_length=64)
    with pytest.raises(DataError, match=r"bucketed: its rows lie by length, and a merge would mix them"):
        merge(bucketed, plain, out="refused")
    assert not (tmp_path / "refused").exists()


def test_through_a_stage_that_a_build_did_not_have_its_rows_pass() -> None:
    def stage(name: str, rows_in: int, rows_out: int, **more: Any) -> StageCount:
        return StageCount(stage=name, rows_in=rows_in, rows_out=rows_out, **more)

    one = [stage("read", 10, 10), stage("filter", 10, 7, dropped={"empty": 3}, examples={"empty": ("a", "b")}), stage("pack", 7, 7)]
    near = stage("near", 4, 3, dropped={"near-duplicate": 1}, changed=2, counts={"x": 1})
    two = [stage("read", 5, 5), stage("filter", 5, 4, dropped={"empty": 1}, examples={"empty": ("c", "d")}), near, stage("pack", 3, 3)]
    for builds in ([one, two], [two, one]):
        found = merged_stages(builds)
        assert [(item.stage, item.rows_in, item.rows_out) for item in found] == [
            ("read", 15, 15),
            ("filter", 15, 11),
            ("near", 11, 10),
            ("pack", 10, 10),
        ]
        assert (found[1].dropped, found[2].changed, found[2].counts) == ({"empty": 4}, 2, {"x": 1})
    assert merged_stages([one, two])[1].examples == {"empty": ("a", "b", "c")}


def test_the_verb_joins_says_what_it_did_not_look_for_and_verifies(
    build: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], unchanged_tree: Any
) -> None:
    one, two, out = build("one"), build("two"), tmp_path / "merged"
    command = ["data", "merge", str(one), str(two), "--out", str(out)]
    with unchanged_tree(tmp_path):
        assert main([*command, "--dry-run", "--json"]) == 0
        planned = json.loads(capsys.readouterr().out)
    assert (planned["dry_run"], planned["state"], [part["sources"] for part in planned["builds"]]) == (
        True,
        "new",
        [{"reviews": "one/reviews"}, {"reviews": "two/reviews"}],
    )
    assert main(command) == 0
    assert "note: duplicates between the builds were not looked for" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["skipped"], answer["packed"]["train"]["documents"]) == (True, 52)
    assert "not looked for" in answer["note"]
    assert main(["data", "verify", str(out)]) == 0
    assert main(["data", "report", str(out)]) == 0
    assert "one/reviews" in capsys.readouterr().out
    assert main(["data", "merge", str(one), str(one), "--out", str(out)]) == 2
    assert main(["data", "merge", "--help"]) == 0
    assert "Duplicates between the builds are not looked for" in " ".join(capsys.readouterr().out.split())
    assert set(read_manifest(out).files) == set(files_in(out))
    assert (out / MANIFEST).is_file()
