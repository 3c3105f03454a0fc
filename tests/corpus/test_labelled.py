"""Labelled rows are split the same way every time, checked, and named by a fingerprint of their content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from corpus.build import apply
from corpus.config import DataConfig, LabelledDataConfig, SourceConfig
from corpus.labelled import LabelledData, LabelledSplit, load_labelled
from corpus.manifest import MANIFEST, BuildManifest, read_manifest
from corpus.planning import plan
from corpus.stages import map_here
from foundation.config import parse
from foundation.errors import ConfigError, DataError

Recipe = Callable[..., DataConfig]
TAGS = [["b", "a"], ["a"], [], ["c", "b"], ["a", "c"]]


def write(file: Path, *rows: str) -> Path:
    file.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return file


def config(train: Path, **values: object) -> LabelledDataConfig:
    return LabelledDataConfig.model_validate(
        {"train": str(train), **{key: str(value) if isinstance(value, Path) else value for key, value in values.items()}}
    )


def parquet(file: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), file)
    return file


def rows_of(data: LabelledData) -> dict[str, tuple[str, list[str], str | None]]:
    """Of every row of every split: its id to its text, what it is labelled and its pair."""

    def label(split: LabelledSplit, row: int) -> list[str]:
        found = split.labels[row]
        if data.kind == "number":
            return [repr(float(found))]
        return [data.labels[i] for i in (np.flatnonzero(found) if data.kind == "list" else [int(found)])]

    splits = [data.train, data.test, *([] if data.validation is data.train else [data.validation])]
    return {
        split.ids[row]: (split.texts[row], label(split, row), None if split.pairs is None else split.pairs[row])
        for split in splits
        for row in range(len(split))
    }


def test_a_file_is_split_by_class_and_seed(reviews: Path) -> None:
    data = load_labelled(config(reviews, validation_fraction=0.25))
    assert data.labels == ("bad", "good")
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 0)
    assert np.bincount(data.validation.labels).tolist() == [5, 5]
    assert sorted([*data.train.ids, *data.validation.ids]) == sorted(f"reviews.csv#{row}" for row in range(1, 41))
    again = load_labelled(config(reviews, validation_fraction=0.25))
    assert (again.fingerprint, again.validation.ids) == (data.fingerprint, data.validation.ids)
    other = load_labelled(config(reviews, validation_fraction=0.25, split_seed=1))
    assert other.validation.ids != data.validation.ids
    assert other.fingerprint != data.fingerprint


def test_two_texts_are_enough_to_start_and_the_reader_is_warned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "two.csv", "This is a good product,positive", "This is a bad product,negative")
    data = load_labelled(config(file))
    assert data.train.texts == data.validation.texts == ["This is a good product", "This is a bad product"]
    assert data.train.labels.tolist() == [1, 0]
    assert "no rows to hold back for validation" in capsys.readouterr().err


def test_numbers_as_classes_are_ordered_by_value(tmp_path: Path) -> None:
    file = write(tmp_path / "stars.csv", *(f"text {stars},{stars}" for stars in (10, 9, -1, 2)))
    assert load_labelled(config(file)).labels == ("-1", "2", "9", "10")


def test_a_test_file_uses_the_classes_of_train(reviews: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.csv", "one,good", "two,good")
    assert load_labelled(config(reviews, test=test)).test.labels.tolist() == [1, 1]
    bad = write(tmp_path / "bad.csv", "one,good", "two,superb", "three,superb")
    with pytest.raises(DataError, match=r"bad.csv: 'superb': not a label in train \(2 rows: bad.csv#2, bad.csv#3\); train has bad, good"):
        load_labelled(config(reviews, test=bad))


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every row has the label 'good'; a classifier needs at least two classes"):
        load_labelled(config(write(tmp_path / "one.csv", "a,good", "b,good")))


def test_a_row_without_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label in 1 of 2 rows \(gap.csv#2\)"):
        load_labelled(config(write(tmp_path / "gap.csv", "a,good", "b,")))


def test_the_fingerprint_names_content_not_files(reviews: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes(reviews.read_bytes())
    first, second = load_labelled(config(reviews)), load_labelled(config(copy))
    assert first.fingerprint == second.fingerprint
    copy.write_text(reviews.read_text().replace("number 7", "number seven"))
    assert load_labelled(config(copy)).fingerprint != first.fingerprint


def write_tags(folder: Path, form: str) -> tuple[Path, dict[str, object]]:
    """Five rows with ``TAGS``, in one of the forms that lists come in; the file, and what the recipe says about it."""
    texts = [f"text {i}" for i in range(len(TAGS))]
    if form == "arrow":
        return parquet(folder / "tags.parquet", text=texts, label=pa.array(TAGS, pa.large_list(pa.string()))), {}
    if form == "jsonl":
        lines = [json.dumps({"text": text, "label": tags}) for text, tags in zip(texts, TAGS, strict=True)]
        (folder / "tags.jsonl").write_text("\n".join(lines))
        return folder / "tags.jsonl", {}
    cells = {
        "json": [json.dumps(tags) for tags in TAGS],
        "python": [repr(tags) for tags in TAGS],
        "separated": ["b; a", "a", ";", "c;b", "a;c;a"],
    }[form]
    return parquet(folder / "tags.parquet", text=texts, label=cells), {"label_separator": ";"} if form == "separated" else {}


@pytest.mark.parametrize("form", ["arrow", "jsonl", "json", "python", "separated"])
def test_lists_of_classes_are_read_from_every_form(tmp_path: Path, form: str) -> None:
    file, more = write_tags(tmp_path, form)
    data = load_labelled(config(file, label_kind="list", validation_fraction=0, **more))
    assert (data.kind, data.labels) == ("list", ("a", "b", "c"))
    assert data.train.labels.dtype == np.bool_
    assert data.train.labels.astype(int).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1]]


def test_numbers_are_read_as_numbers(tmp_path: Path) -> None:
    numbers = [0.1, -3.0, 2.26666666667, 1e-7]
    text = write(tmp_path / "n.csv", *(f"text {i},{number}" for i, number in enumerate(numbers)))
    lines = tmp_path / "n.jsonl"
    lines.write_text("".join(json.dumps({"text": f"text {i}", "label": number}) + "\n" for i, number in enumerate(numbers)))
    stored = parquet(tmp_path / "n.parquet", text=[f"text {i}" for i in range(4)], label=numbers)
    found = [load_labelled(config(file, label_kind="number", validation_fraction=0)) for file in (text, lines, stored)]
    assert all(data.train.labels.tolist() == numbers and data.labels == () for data in found)
    assert len({data.fingerprint for data in found}) == 1


@pytest.mark.parametrize(
    ("kind", "cells", "message"),
    [
        ("list", ["['a']", "a, b"], r"x\.parquet: row 2: label: found 'a, b', expected a list of class names.*label_separator"),
        ("list", ["['a']", "['a', 1.5]"], r"row 2: label: found \"\['a', 1.5\]\", expected a list"),
        ("list", ["[]", "[]"], "every list of classes is empty"),
        ("list", [1, 2], "column 'label' holds int64, expected lists of class names"),
        ("number", ["1", "abc"], "row 2: label: found 'abc', expected a finite number"),
        ("number", [1.0, float("nan")], "row 2: label: found nan, expected a finite number"),
        ("number", [2.0, 2.0], "every row has the number 2; there is nothing to learn"),
        ("single", [["a"], ["b"]], "column 'label' holds list<.*>, expected class names or whole numbers; set label_kind to list"),
        ("single", [0.5, 1.5], "column 'label' holds double, .*; set label_kind to number"),
    ],
)
def test_labels_of_another_kind_are_refused_by_row(tmp_path: Path, kind: str, cells: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_labelled(config(parquet(tmp_path / "x.parquet", text=["one", "two"], label=cells), label_kind=kind))


def test_a_list_in_a_json_line_that_is_none_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a", "label": ["x"]}\n{"text": "b", "label": {"x": 1}}\n')
    with pytest.raises(DataError, match=r"x\.jsonl: line 2: label: found \{'x': 1\}, expected a list of class names"):
        load_labelled(config(tmp_path / "x.jsonl", label_kind="list"))


def test_pairs_come_with_their_texts_and_belong_to_the_fingerprint(tmp_path: Path) -> None:
    columns = {"text": [f"text {i}" for i in range(8)], "label": ["x", "y"] * 4, "other": [f"pair {i}" for i in range(8)]}
    file = parquet(tmp_path / "p.parquet", **columns)
    data = load_labelled(config(file, pair_column="other", validation_fraction=0.25))
    assert all(pair == text.replace("text", "pair") for text, _, pair in rows_of(data).values())
    changed = parquet(tmp_path / "q.parquet", **(columns | {"other": ["pair 9", *columns["other"][1:]]}))
    assert load_labelled(config(changed, pair_column="other", validation_fraction=0.25)).fingerprint != data.fingerprint
    gap = parquet(tmp_path / "g.parquet", **(columns | {"other": ["", *columns["other"][1:]]}))
    with pytest.raises(DataError, match=r"no pair in 1 of 8 rows \(g\.parquet#1\)"):
        load_labelled(config(gap, pair_column="other"))


def test_a_column_says_the_split_and_only_what_it_leaves_out_is_drawn(tmp_path: Path) -> None:
    texts, labels = [f"text {i}" for i in range(40)], ["x", "y"] * 20
    file = parquet(tmp_path / "s.parquet", text=texts, label=labels, where=["train"] * 32 + ["Test"] * 8)
    data = load_labelled(config(file, split_column="where", validation_fraction=0.25, test_fraction=0.5))
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 8, 8)
    assert data.test.ids == [f"s.parquet#{row}" for row in range(33, 41)]
    told = parquet(tmp_path / "t.parquet", text=texts, label=labels, where=["train"] * 30 + ["dev"] * 2 + ["test"] * 8)
    data = load_labelled(config(told, split_column="where", validation_fraction=0.25))
    assert data.validation.ids == ["t.parquet#31", "t.parquet#32"]
    with pytest.raises(DataError, match=r"split_column marks test rows, and data\.test names a file"):
        load_labelled(config(told, split_column="where", test=file))


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    keys = [f"group {i // 4}" for i in range(80)]
    file = parquet(tmp_path / "g.parquet", text=[f"text {i}" for i in range(80)], label=["x", "y"] * 40, key=keys)
    data = load_labelled(config(file, group_column="key", validation_fraction=0.1, test_fraction=0.2))
    assert (len(data.train), len(data.validation), len(data.test)) == (56, 8, 16)
    groups = [{keys[int(row.partition("#")[2]) - 1] for row in split.ids} for split in (data.train, data.validation, data.test)]
    assert sum(map(len, groups)) == len(set(keys))


def test_a_label_that_only_held_out_rows_have_is_refused_or_becomes_a_class(tmp_path: Path) -> None:
    columns = {"text": list("abcdef"), "label": ["x", "y", "x", "y", "z", "z"], "split": ["train"] * 4 + ["val", "test"]}
    file = parquet(tmp_path / "u.parquet", **columns)
    with pytest.raises(DataError, match=r"u.parquet: 'z': not a label in train \(2 rows: u.parquet#5, u.parquet#6\); train has x, y"):
        load_labelled(config(file, split_column="split"))
    data = load_labelled(config(file, split_column="split", checks={"unseen_labels": "warn"}))
    assert data.labels == ("x", "y", "z")
    assert [finding.rows for finding in data.findings if finding.kind == "unseen_labels"] == [("u.parquet#5",), ("u.parquet#6",)]


def test_empty_texts_are_let_in_when_the_recipe_says_so(tmp_path: Path) -> None:
    file = write(tmp_path / "e.csv", "a,x", " ,y", "b,y", "c,x")
    with pytest.raises(DataError, match=r"no text in 1 of 4 rows \(e.csv#2\)"):
        load_labelled(config(file))
    data = load_labelled(config(file, checks={"empty_texts": "warn", "small_classes": "ignore"}))
    assert len(data.train) == 4
    assert [(finding.kind, finding.rows) for finding in data.findings] == [("empty_texts", ("e.csv#2",))]


def test_rows_validated_on_themselves_are_no_leak(tmp_path: Path) -> None:
    data = load_labelled(config(write(tmp_path / "two.csv", "a,x", "b,y")))
    assert data.validation is data.train
    assert data.trains_on_validation
    assert {finding.kind for finding in data.findings} == {"small_classes"}


@pytest.mark.parametrize("more", [{}, {"pair_column": "other"}, {"label_kind": "number", "label_column": "number"}])
def test_validation_rows_are_trained_on_as_well_when_the_recipe_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any]
) -> None:
    numbers = [*range(40)]
    columns = {"text": [f"text {i}" for i in numbers], "other": [f"other {i}" for i in numbers], "label": ["x", "y"] * 20}
    file = parquet(tmp_path / "r.parquet", **columns, number=[float(i) for i in numbers])
    asked = {"validation_fraction": 0.25, "test_fraction": 0.25, **more}
    apart = load_labelled(config(file, **asked))
    together = load_labelled(config(file, train_on="train_and_validation", **asked))
    assert (together.validation.ids, together.test.ids) == (apart.validation.ids, apart.test.ids)
    assert together.train.ids == apart.train.ids + apart.validation.ids
    assert rows_of(together) == rows_of(apart), "each id has its own text, label and pair"
    assert (apart.trains_on_validation, together.trains_on_validation) == (False, True)
    assert together.fingerprint != apart.fingerprint
    assert {finding.kind for finding in together.findings} == {finding.kind for finding in apart.findings}, (
        "no row is a leak or a duplicate"
    )
    assert "trains on the 10 validation rows as well, which flatters every figure but of test rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test": "t.csv", "test_fraction": 0.1}, "test names a file and test_fraction asks for rows"),
        ({"validation_fraction": 0.6, "test_fraction": 0.4}, "together they must leave rows to train on"),
        ({"label_separator": ";"}, "it stands between the classes of label_kind: list"),
        ({"checks": {"leaks": "stop"}}, r"checks\.leaks: found 'stop'; input should be 'refuse', 'warn' or 'ignore'"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(LabelledDataConfig, {"train": "a.csv", **values}, where="recipe")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": {"path": "a", "pair_column": "p"}}, "pair_column and label_kind are for labelled rows"),
        ({"a": {"path": "a", "split": "test", "split_column": "s"}}, "give one of them"),
        ({"a": {"builtin": "movie_reviews", "group_column": "g"}}, "a builtin source brings its own labels and splits"),
        (
            {"a": {"path": "a", "label_column": "l"}, "b": {"path": "b", "label_column": "l", "label_kind": "list"}},
            r"several label kinds \(a has single, b has list\)",
        ),
        (
            {"a": {"path": "a", "label_column": "l", "pair_column": "p"}, "b": {"path": "b", "label_column": "l"}},
            r"sources\.b has no pair_column and others have one",
        ),
    ],
)
def test_sources_that_do_not_fit_together_are_refused(sources: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(DataConfig, {"sources": sources, "tokenizer": "t", "out": "o"}, where="recipe")


def build(recipe_for: Recipe, source: dict[str, Any], **values: Any) -> BuildManifest:
    recipe = recipe_for(sources={"rows": {"label_column": "label", **source}}, **values)
    return apply(plan(recipe, Path(recipe.tokenizer)), map_here)


@pytest.mark.parametrize("kind", ["list", "number"])
def test_a_build_carries_kinds_pairs_and_splits_as_the_files_have_them(recipe_for: Recipe, tmp_path: Path, kind: str) -> None:
    count = 60
    labels = {"list": [TAGS[i % 5] for i in range(count)], "number": [i / 7 for i in range(count)]}[kind]
    columns = {
        "text": [f"text {i}" for i in range(count)],
        "other": [f"pair {i}" for i in range(count)],
        "key": [i // 3 for i in range(count)],
    }
    file = parquet(tmp_path / "rows.parquet", label=labels, **columns)
    asked = {"label_kind": kind, "pair_column": "other", "group_column": "key"}
    manifest = build(recipe_for, {"path": str(file), **asked}, test_fraction=0.2, batch_documents=7)
    assert (manifest.label_kind, manifest.has_pairs, manifest.labels) == (kind, True, ("a", "b", "c") if kind == "list" else ())
    assert manifest.labelled == {"train": 42, "validation": 6, "test": 12}
    built = load_labelled(LabelledDataConfig(train=str(tmp_path / "built")))
    assert rows_of(built) == rows_of(load_labelled(config(file, validation_fraction=0, **asked)))
    keys = [{(int(row.partition("#")[2]) - 1) // 3 for row in split.ids} for split in (built.train, built.validation, built.test)]
    assert sum(map(len, keys)) == count // 3


def test_a_build_keeps_to_a_split_column_and_draws_what_other_sources_lack(recipe_for: Recipe, reviews: Path, tmp_path: Path) -> None:
    where = ["train"] * 20 + ["validation"] * 6 + ["test"] * 4
    told = parquet(tmp_path / "told.parquet", text=[f"told {i}" for i in range(30)], label=["good", "bad"] * 15, split=where)
    sources = {
        "told": {"path": str(told), "label_column": "label", "split_column": "split"},
        "reviews": {"path": str(reviews), "label_column": "label"},
    }
    recipe = recipe_for(sources=sources, test_fraction=0.2)
    manifest = apply(plan(recipe, Path(recipe.tokenizer)), map_here)
    data = load_labelled(LabelledDataConfig(train=recipe.out))
    assert [row for row in data.validation.ids if row.startswith("told")] == [f"told.parquet#{row}" for row in range(21, 27)]
    assert [row for row in data.test.ids if row.startswith("told")] == [f"told.parquet#{row}" for row in range(27, 31)]
    assert manifest.labelled == {"train": 20 + 28, "validation": 6 + 4, "test": 4 + 8}
    packed = {stage.stage: stage for stage in manifest.stages}["hold out"]
    assert packed.dropped == {"test split": 12}


def test_a_build_records_what_the_checks_warn_of_and_refuses_what_it_is_told_to(recipe_for: Recipe, reviews: Path) -> None:
    source = {"path": str(reviews)}
    with pytest.raises(DataError, match=r"labelled rows: 1 text stands more than once in train \(2 rows: reviews.csv#39, reviews.csv#40\)"):
        build(recipe_for, source, checks={"duplicates": "refuse"}, validation_fraction=0)
    assert not Path(recipe_for().out).exists()
    manifest = build(recipe_for, source, validation_fraction=0)
    (finding,) = manifest.findings
    assert (finding.kind, finding.severity, finding.rows) == ("duplicates", "warn", ("reviews.csv#39", "reviews.csv#40"))


def test_a_build_of_an_earlier_version_is_recognised_and_read(recipe_for: Recipe, reviews: Path) -> None:
    recipe = recipe_for()
    apply(plan(recipe, Path(recipe.tokenizer)), map_here)
    file = Path(recipe.out) / MANIFEST
    tree = json.loads(file.read_text())
    for key in ("label_kind", "has_pairs", "findings"):
        del tree[key]
    file.write_text(json.dumps(tree))
    assert read_manifest(Path(recipe.out)).label_kind == "single"
    assert plan(recipe, Path(recipe.tokenizer)).state == "up to date"
    # Of the recipe before labels had kinds: what was added since must not change it.
    assert load_labelled(LabelledDataConfig(train=recipe.out)).kind == "single"
    other = recipe_for(checks={"leaks": "refuse"})
    assert plan(other, Path(recipe.tokenizer)).state == "different"


def test_a_test_file_is_read_as_the_build_is(recipe_for: Recipe, tmp_path: Path) -> None:
    file, more = write_tags(tmp_path, "separated")
    build(recipe_for, {"path": str(file), "label_kind": "list", **more}, validation_fraction=0)
    test = tmp_path / "test.jsonl"
    test.write_text('{"text": "held out", "label": ["c"]}\n')
    data = load_labelled(config(tmp_path / "built", test=test))
    assert (data.test.texts, data.test.labels.tolist()) == (["held out"], [[False, False, True]])
    test.write_text('{"text": "held out", "label": ["c", "d"]}\n')
    with pytest.raises(DataError, match=r"test.jsonl: 'd': not a label in train \(1 rows: test.jsonl#1\); train has a, b, c"):
        load_labelled(config(tmp_path / "built", test=test))


def test_a_source_reads_what_a_labelled_file_reads(tmp_path: Path) -> None:
    from corpus.fields import fields_of

    keys = {"label_kind": "list", "label_separator": "|", "pair_column": "p", "split_column": "s", "group_column": "g"}
    assert fields_of(SourceConfig(path="a", label_column="label", **keys)) == fields_of(LabelledDataConfig(train="a", **keys))
    assert fields_of(SourceConfig(path="a")) == ()
