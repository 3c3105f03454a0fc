from __future__ import annotations

import pytest

from foundation.progress import duration, progress, say


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (41.6, "42 s"), (59.7, "1 m 00 s"), (185, "3 m 05 s"), (3599, "59 m 59 s"), (7800, "2 h 10 m")],
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_progress_is_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("pretrain", 3, unit="step", every_s=0.0) as bar:
        for step in range(1, 4):
            bar.update(step, loss=0.123456, phase="warm")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "pretrain: step 1/3  loss 0.1235  phase warm"
    assert lines[-1].startswith("pretrain: step 3/3")
    assert "step/s" in lines[-1]


def test_lines_keep_their_distance_but_the_last_one_always_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("tokenise", 1000, unit="row", every_s=3600) as bar:
        for row in range(1, 1001):
            bar.update(row)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["1/1000", "1000/1000"]


def test_what_is_said_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("listening")
    assert capsys.readouterr() == ("", "listening\n")
