from __future__ import annotations

from pathlib import Path

from foundation.records import Recorder, Tail, read_rows


def test_rows_come_back_in_order_with_event_and_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run" / "metrics.jsonl")
    recorder.write("step", step=1, loss=0.5)
    recorder.write("eval", accuracy=0.75)
    recorder.close()
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["event"] for row in rows] == ["step", "eval"]
    assert rows[0]["loss"] == 0.5
    assert rows[0]["time"] <= rows[1]["time"]


def test_a_tail_yields_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert list(tail.rows()) == []  # the file is not there yet
    recorder = Recorder(path)
    recorder.write("step", step=1)
    assert [row["step"] for row in tail.rows()] == [1]
    assert list(tail.rows()) == []
    recorder.write("step", step=2)
    recorder.write("step", step=3)
    assert [row["step"] for row in tail.rows()] == [2, 3]


def test_a_line_still_being_written_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    tail = Tail(path)
    assert list(tail.rows()) == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert list(tail.rows()) == [{"step": 2}]


def test_a_line_cut_off_by_a_crash_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "step", "step": 1}\n{"event": "ste')
    recorder = Recorder(path)  # the next attempt appends
    recorder.write("step", step=2)
    recorder.write("step", step=3)
    recorder.close()
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]
