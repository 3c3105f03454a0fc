"""What batch inference refuses before it starts Ray: one message, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.errors import DataError
from serving.bulk import examine


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", "id,review\n1,good\n", "no column 'text'; found id, review"),
        ("in.csv", "text,label\ngood,1\n", "column label already"),
        ("in.csv", "text\n", "holds no rows"),
        ("in.csv", "", "is empty; expected a header with text"),
        ("in.csv", b"text\n\xff\xfe good\n", "line 2: byte 0xff is not UTF-8"),
        ("in.csv", "text,id\ngood\n", "not a readable CSV file"),
        ("in.jsonl", '{"text": "good"}\n{"txt": "bad"}\n', "line 2: no column 'text'; found txt"),
        ("in.jsonl", '{"text": "good"}\nnot json\n', "line 2: not JSON"),
        ("in.jsonl", '["good"]\n', "line 1: found a list, expected an object"),
        ("in.jsonl", '{"text": 3}\n', "line 1: text is 3, expected text"),
        ("in.jsonl", b'{"text": "\xff"}\n', "line 1: byte 10 is not UTF-8"),
        ("in.jsonl", "\n\n", "holds no rows"),
        ("in.parquet", "PAR1 but not really PAR1", "not a readable Parquet file"),
        ("in.txt", "good\n", "unknown kind of file '.txt'"),
    ],
)
def test_bad_input_is_one_message_that_names_file_and_place(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    source = write(tmp_path / name, content)
    with pytest.raises(DataError) as refused:
        examine(source, tmp_path / f"out{source.suffix}")
    assert message in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parquet_is_checked_for_type_and_missing_texts(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    source = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"text": ["good", None]}), source)
    with pytest.raises(DataError, match="row 1: text is empty"):
        examine(source, tmp_path / "out.parquet")
    parquet.write_table(pa.table({"text": [1, 2]}), source)
    with pytest.raises(DataError, match="column text holds int64, expected text"):
        examine(source, tmp_path / "out.parquet")


def test_a_target_that_exists_is_another_kind_or_has_no_folder_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", "text\ngood\n")
    target = write(tmp_path / "out.csv", "mine")
    with pytest.raises(DataError, match="exists already"):
        examine(source, target)
    assert examine(source, target, overwrite=True).rows == 1
    with pytest.raises(DataError, match="the output is of the same kind"):
        examine(source, tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="does not exist"):
        examine(source, tmp_path / "nowhere" / "out.csv")
    with pytest.raises(DataError, match="is the input"):
        examine(source, source, overwrite=True)
    with pytest.raises(DataError, match="no such file"):
        examine(tmp_path / "none.csv", tmp_path / "new.csv")
    assert target.read_text() == "mine"


def test_prefix_and_counts_are_in_the_plan(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", 'text,label\n"good, very\ngood",1\nbad,0\n')
    plan = examine(source, tmp_path / "out.csv", prefix="predicted_")
    assert (plan.rows, plan.columns, plan.label_column, plan.score_column) == (2, ("text", "label"), "predicted_label", "predicted_score")
