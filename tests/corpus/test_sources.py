"""Files are read as they are, or refused with one message that says where and what."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from corpus.files import files_of
from corpus.findings import labelled_rows
from corpus.sources import BYTES_PER_TABLE, BadLines, read_file, read_files
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


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_files_give_the_same_rows(tmp_path: Path, suffix: str, compression: str) -> None:
    plain = write(tmp_path, suffix)
    packed = tmp_path / f"packed{suffix}{'.gz' if compression == 'gzip' else '.zst'}"
    with pa.output_stream(str(packed), compression=compression) as sink:
        sink.write(plain.read_bytes())
    wanted = read_files(str(plain), text_column="text", label_column="label").drop_columns("id")
    assert read_files(str(packed), text_column="text", label_column="label").drop_columns("id") == wanted
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{packed.name}: (cannot be read to its end|not a readable CSV file)"):
        read_files(str(packed), text_column="text", label_column="label")


def test_a_uri_is_read_like_a_path(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub/b.txt", "a.txt", "c.bin"):
        (tmp_path / name).write_text(f"{name}\n")
    base = tmp_path.as_uri()
    for path, wanted in [
        (base, ["a.txt", "sub/b.txt"]),
        (f"{base}/a.txt", ["a.txt"]),
        (f"{base}/*.txt", ["a.txt", "sub/b.txt"]),
        (f"{base}/sub/*.txt", ["sub/b.txt"]),
    ]:
        assert read_files(path, text_column="text")["text"].to_pylist() == wanted
    with pytest.raises(DataError, match="none: no such file"):
        read_files(f"{base}/none", text_column="text")
    with pytest.raises(DataError, match="what://x: no file system for it"):
        read_files("what://x", text_column="text")


def test_a_saved_data_set_is_read_in_its_own_order(tmp_path: Path) -> None:
    # What ``datasets.Dataset.save_to_disk`` leaves: Arrow streams, named in order by state.json.
    table = pa.table({"text": ["one", "two"], "label": [0, 1]})
    for name in ("data-00001-of-00002.arrow", "data-00000-of-00002.arrow", "cache-1234.arrow"):
        with pa.OSFile(str(tmp_path / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table if "cache" in name else table.slice(int(name[9]), 1))
    state = {"_data_files": [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    found = read_files(str(tmp_path), text_column="text", label_column="label")
    assert found["text"].to_pylist() == ["one", "two"]
    assert found["label"].to_pylist() == ["0", "1"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match="holds the splits train, test; name one of them"):
        read_files(str(tmp_path), text_column="text")


def test_a_line_longer_than_any_block_is_one_text(tmp_path: Path) -> None:
    long = "wörd " * 2_000_000
    (tmp_path / "a.txt").write_text(f"first\n{long}\nlast", encoding="utf-8")
    assert read_files(str(tmp_path / "a.txt"), text_column="text")["text"].to_pylist() == ["first", long, "last"]
    (tmp_path / "a.csv").write_text(f'text,label\nfirst,a\n"{long}",b\n', encoding="utf-8")
    assert read_files(str(tmp_path / "a.csv"), text_column="text", label_column="label")["text"].to_pylist() == ["first", long]


def test_tables_are_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(["x" * 3_000_000] * 5 + ["y"] * 25))
    (file,) = files_of(str(tmp_path / "a.txt"))
    tables = list(read_file(file, text_column="text", rows=10))
    assert max(len(table) for table in tables) <= 10
    assert max(table.column("text").nbytes for table in tables) <= BYTES_PER_TABLE
    assert [row for table in tables for row in table["id"].to_pylist()] == [f"a.txt#{row}" for row in range(1, 31)]


def test_bad_lines_are_counted_up_to_the_share_that_is_allowed(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}"}) if i % 10 else "{cut" for i in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (file,) = files_of(str(tmp_path / "a.jsonl"))
    bad = BadLines(share=0.1)
    assert sum(len(table) for table in read_file(file, text_column="text", bad=bad)) == 90
    assert (bad.lines, bad.bad, len(bad.examples)) == (100, 10, 5)
    assert "a.jsonl: line 1: not valid JSON" in bad.examples[0]
    with pytest.raises(DataError, match=r"a.jsonl: line 1: not valid JSON.*10 of 100 lines are bad, more than max_bad_share=0.09"):
        list(read_file(file, text_column="text", bad=BadLines(share=0.09)))


def test_a_long_value_in_a_second_csv_file_costs_no_rows_of_it(tmp_path: Path) -> None:
    bad = BadLines()
    names = {"a.csv": [f"a {i}" for i in range(300)], "b.csv": [*(f"b {i}" for i in range(40)), "x" * 3_000_000, "last"]}
    for name, texts in names.items():
        (tmp_path / name).write_text("text,label\n" + "".join(f"{text},y\n" for text in texts))
    for name, texts in names.items():
        tables = read_file(files_of(str(tmp_path / name))[0], text_column="text", label_column="label", bad=bad)
        assert [text for table in tables for text in table["text"].to_pylist()] == texts
    assert bad.lines == 342
