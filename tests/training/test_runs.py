"""Runs as their folders tell them, and their reports."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import DataError
from foundation.home import home
from foundation.records import Recorder
from raybert.main import main
from tests.support.record import attempt, evaluation, step
from training import runs
from training.charts import curves, number, thinned, ticks
from training.report import page, write_report

FINDING = {"kind": "conflicts", "severity": "warn", "message": "1 text has different labels: <b>", "count": 1, "rows": ["r#1"]}


@pytest.fixture(autouse=True)
def _own_home(raybert_home: Path) -> None:
    assert home().root == raybert_home


def make_run(run_id: str, rows: Iterable[dict[str, Any]], *, state: str | None = "finished", result: bool = False) -> Path:
    folder = home().runs / run_id
    folder.mkdir(parents=True)
    recipe = {"encoder": "tiny", "rows_per_step": 8}
    plan = {"verb": "finetune", "steps": 6, "recipe": recipe, "location": "tiny", "findings": [FINDING]}
    runs.begin(folder, plan, score="accuracy", score_order="max")
    recorder = Recorder(folder / runs.METRICS_FILE)
    for row in rows:
        recorder.write(**{name: value for name, value in row.items() if name != "time"})
    recorder.close()
    if result:
        (folder / runs.RESULT_FILE).write_text(json.dumps({"metrics": {"accuracy": 0.9}, "data_fingerprint": "f" * 64}))
    if state is not None:
        runs.end(folder, state)
    return folder


RESTARTED = [
    attempt(0.0, steps=6),
    *(step(0.0, number) for number in range(3)),
    evaluation(0.0, 2, validation_loss=0.6, accuracy=0.7),
    step(0.0, 2, loss=9.0),
    attempt(0.0, 2, steps=6, world_size=1),
    *(step(0.0, number) for number in range(2, 6)),
    evaluation(0.0, 4, validation_loss=0.5, accuracy=0.9),
    evaluation(0.0, 6, validation_loss=0.4, accuracy=0.9),
    {"event": "profile", "time": 0.0, "step": 3, "steps": 2, "seconds": 1.0, "phases": {"forward": 0.3, "backward": 0.5}},
]


def test_the_figures_of_a_run_are_those_of_the_history_that_survived() -> None:
    make_run("finetune-1", RESTARTED, result=True)
    figures = runs.open_run("finetune-1").figures()
    assert (figures["steps_done"], figures["steps"], figures["restarts"], figures["workers"]) == (6, 6, 1, 1)
    assert figures["score"] == {"metric": "accuracy", "best": 0.9, "step": 4}
    assert figures["loss"] == pytest.approx(2.0 / 6)
    assert figures["tokens_per_s"] == 1000.0
    assert figures["goodput"]["lost"] > 0
    assert [row["phase"] for row in figures["phases"]][:3] == ["data", "forward", "backward"]
    assert figures["data_fingerprint"] == "f" * 64


def test_a_run_is_found_by_a_part_of_its_id_and_by_its_folder_and_an_unclear_name_is_refused() -> None:
    folder = make_run("finetune-1-abc", [])
    make_run("finetune-2-abd", [])
    assert runs.open_run("abc").folder == folder
    assert runs.open_run(str(folder)).run_id == "finetune-1-abc"
    with pytest.raises(DataError, match="names 2 runs: finetune-1-abc, finetune-2-abd"):
        runs.open_run("finetune")
    with pytest.raises(DataError, match="nobody: no such run"):
        runs.open_run("nobody")


def test_a_run_whose_process_is_gone_without_a_word_is_lost() -> None:
    folder = make_run("finetune-1", [attempt(0.0)], state=None)
    assert runs.open_run("finetune-1").state == "running"
    about = json.loads((folder / runs.RUN_FILE).read_text())
    (folder / runs.RUN_FILE).write_text(json.dumps(about | {"pid": 2**22 + 1}))
    assert runs.open_run("finetune-1").state == "lost"
    (folder / runs.RUN_FILE).write_text(json.dumps(about | {"pid": 2**22 + 1, "host": "elsewhere"}))
    assert runs.open_run("finetune-1").state == "running"


def test_the_command_line_lists_shows_and_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def answer(*arguments: str) -> dict[str, Any]:
        assert main(["runs", *arguments, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert answer("list") == {"runs": []}
    make_run("finetune-1", RESTARTED, result=True)
    make_run("finetune-2", RESTARTED[:3], state="failed")
    latest, first = answer("list")["runs"]
    assert (latest["run_id"], latest["state"], latest["steps_done"], latest["score"]) == ("finetune-2", "failed", 2, None)
    assert (first["run_id"], first["state"], first["steps_done"], first["score"]) == ("finetune-1", "finished", 6, 0.9)
    assert answer("show", "finetune-1")["score"]["best"] == 0.9
    assert main(["runs", "show", "finetune-2"]) == 0
    assert "raybert finetune --resume finetune-2" in capsys.readouterr().out
    target = tmp_path / "here.html"
    assert answer("report", "finetune-1", "--out", str(target))["report"] == str(target)
    assert "<title>finetune-1</title>" in target.read_text()
    assert main(["runs", "show", "finetune-1"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy      0.9000 at step 4" in shown
    assert "backward" in shown
    assert main(["runs", "list"]) == 0
    assert "failed            2/6" in capsys.readouterr().out
    assert main(["runs", "show", "finetune-3"]) == 2


class Parsed(HTMLParser):
    """What a page asks for from elsewhere, and its open tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {name}" for name, _ in attributes if name in ("src", "href")]
        self.fetched += [tag] if tag in ("script", "link", "iframe") else []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_report_needs_nothing_beside_itself_and_tells_all_parts() -> None:
    folder = make_run("finetune-1", RESTARTED, result=True)
    written = write_report(runs.open_run("finetune-1"))
    assert written == folder / "report.html"
    text = written.read_text()
    parsed = Parsed(text)
    assert parsed.fetched == []
    assert not re.search(r"url\(|@import|https?://", text)
    told = " ".join(parsed.texts)
    for expected in (
        "Loss",
        "Learning rate",
        "Tokens a second",
        "Held-out scores",
        "Where the time went",
        "lost",
        "Where a step went",
        "rows_per_step: 8",
        "1 text has different labels: <b>",
        "A dashed line marks a restart",
        "f" * 12,
    ):
        assert expected in told, expected
    assert text.count("class=restart") == text.count("<figure>")


def test_a_run_that_never_began_a_step_and_one_without_finite_losses_have_reports_too() -> None:
    make_run("finetune-1", [], state="failed")
    assert "<svg" not in page(runs.open_run("finetune-1"))
    make_run("finetune-2", [attempt(0.0, steps=2), step(0.0, 0, loss=math.nan, grad_norm=math.inf)], state="interrupted")
    text = page(runs.open_run("finetune-2"))
    assert "interrupted" in text
    assert "polyline" in text


def test_a_long_curve_is_thinned_to_means_with_its_ends_kept() -> None:
    points = [(float(i), float(i % 10)) for i in range(10_000)]
    found = thinned(points, most=100)
    assert len(found) <= 100
    assert (found[0], found[-1]) == (points[0], points[-1])
    assert all(abs(value - 4.5) < 1 for _, value in found[1:-1])
    assert thinned([(0.0, math.nan), (1.0, 2.0)]) == [(1.0, 2.0)]


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 100, [0, 20, 40, 60, 80, 100]), (0.2, 0.9, [0.2, 0.4, 0.6, 0.8]), (5.0, 5.0, [5.0])]
)
def test_axes_have_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (2000, "2,000"), (12_000, "12k"), (3.5e6, "3.5M"), (0.05, "0.05"), (2e-5, "2e-05"), (1.5, "1.5")]
)
def test_axis_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_a_curve_of_one_point_and_of_equal_values_can_be_drawn() -> None:
    assert "<circle" in curves("Loss", {"a": [(3.0, 1.0)]})
    assert "polyline" in curves("Loss", {"a": [(0.0, 1.0), (1.0, 1.0)]})
    assert curves("Loss", {"a": []}) == ""
