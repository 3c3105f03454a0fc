"""Files are read as they are, or refused with one message that says where and what."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from corpus.sources import labelled_rows, read_files
from foundation.errors import DataError

ROWS = [('naïve, "quoted"\nand broken', "a"), ("NA", "2"), ("plain", "a")]


def write(folder: Path, suffix: str) -> Path:
    file = folder / f"rows{suffix}"
    texts, labels = zip(*ROWS, strict=True)
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"label": labels, "text": texts, "more": [1, 2, 3]}), file)
    elif suffix == ".jsonl":
        file.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS) + "\n\n")
    else:
        tab = "\t" if suffix == ".tsv" else ","
        lines = [tab.join('"' + value.replace('"', '""') + '"' for value in row) for row in ROWS]
        file.write_text("\ufeff" + "\n".join([f"text{tab}label", *lines]) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    table = read_files(str(write(tmp_path, suffix)), text_column="text", label_column="label")
    assert list(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True)) == ROWS
    assert table["id"].to_pylist() == [f"rows{suffix}#{row}" for row in (1, 2, 3)]


def test_a_text_file_holds_one_document_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("one\r\n\ntwo\x0cstill two\u2028and still\n".encode())
    assert read_files(str(file), text_column="text")["text"].to_pylist() == ["one", "", "two\x0cstill two\u2028and still"]


def test_folders_and_globs_are_read_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "ignored.bin"):
        (tmp_path / name).write_text(f"{name}\n")
    for path in (tmp_path, tmp_path / "*.txt"):
        assert read_files(str(path), text_column="text")["text"].to_pylist() == ["a.txt", "b.txt"]


def test_numbers_and_booleans_are_class_names(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": true}\n')
    assert read_files(str(file), text_column="text", label_column="label")["label"].to_pylist() == ["1", "true"]
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"], "label": pa.array([1, None])}), file)
    assert read_files(str(file), text_column="text", label_column="label")["label"].to_pylist() == ["1", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv: is empty; expected a header with text, label"),
        ("a.csv", b"text,label\n", "a.csv: holds no rows"),
        ("a.csv", b"review,label\na,b\n", "a.csv: no column 'text'; it has review, label"),
        ("a.csv", b"text,text,label\na,b,c\n", "a.csv: 2 columns are called 'text'"),
        ("a.csv", b"text,label\nx,1\ny\xff,2\n", r"a.csv: line 3: byte 16 \(0xff\) is not UTF-8"),
        ("a.csv", b"text,label\na,1\nb,2,3\n", "a.csv: not a readable CSV file: .*Row #3: Expected 2 columns, got 3"),
        ("a.jsonl", b'{"text": "a", "label": "b"}\n{"text"}\n', "a.jsonl: line 2: not valid JSON"),
        ("a.jsonl", b'\n["a"]\n', "a.jsonl: line 2: found a JSON list"),
        ("a.jsonl", b'{"review": "a", "label": 1}\n', "a.jsonl: line 1: no key 'text'; it has review, label"),
        ("a.jsonl", b'{"text": 3, "label": 1}\n', "a.jsonl: line 1: text: found 3, expected text"),
        ("a.jsonl", b'{"text": "a", "label": 0.5}\n', "a.jsonl: line 1: label: found 0.5, expected a class name"),
        ("a.jsonl", b'{"text": "\xe9"}\n', "a.jsonl: line 1: byte 10 .0xe9. is not UTF-8"),
        ("a.parquet", b"PAR1 cut short", "a.parquet: not a readable Parquet file"),
        ("a.txt", b"text\n", "a.txt: a text file has no columns, so no label column 'label'"),
        ("a.doc", b"text\n", "a.doc: cannot tell its format from '.doc'"),
    ],
)
def test_bad_files_are_refused_by_name_and_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_files(str(tmp_path / name), text_column="text", label_column="label")


def test_places_without_data_are_refused(tmp_path: Path) -> None:
    for path, message in [
        (str(tmp_path / "none.csv"), "none.csv: no such file"),
        (str(tmp_path / "*.csv"), "no such file"),
        (str(tmp_path), "a folder without .txt"),
        ("s3://bucket/a.csv", "only files on this machine"),
    ]:
        with pytest.raises(DataError, match=message):
            read_files(path, text_column="text")


def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"text": [1, 2], "label": [0.5, 1.5]}), file)
    with pytest.raises(DataError, match="column 'text' holds int64, expected text"):
        read_files(str(file), text_column="text")
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"], "label": [0.5, 1.5]}), file)
    with pytest.raises(DataError, match="column 'label' holds double, expected class names or whole numbers"):
        read_files(str(file), text_column="text", label_column="label")


def test_rows_without_text_or_label_are_named() -> None:
    table = pa.table({"id": [f"a#{i}" for i in range(9)], "text": ["t"] * 9, "label": ["x", None, "", *["y"] * 6]})
    with pytest.raises(DataError, match=r"a.csv: no label in 2 of 9 rows \(a#1, a#2\)"):
        labelled_rows(table, "a.csv")
    table = table.set_column(1, "text", pa.array([" "] * 9))
    with pytest.raises(DataError, match=r"no text in 9 of 9 rows \(a#0, a#1, a#2, a#3, a#4, …\)"):
        labelled_rows(table, "a.csv")
