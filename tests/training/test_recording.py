"""Curves go to the store while a run goes on; a store that fails or hangs costs the run nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from foundation.home import Home
from tests.support.record import attempt, evaluation, step
from training.recording import Curves, Recording

Rows = Sequence[Mapping[str, Any]]


def test_rows_are_logged_while_the_run_goes_on_each_once_and_in_order() -> None:
    logged: list[Mapping[str, Any]] = []
    is_there = threading.Event()

    def log(rows: Rows) -> None:
        logged.extend(rows)
        if logged:
            is_there.set()

    with Curves(log, every_s=0.01) as curves:
        curves.add([step(1.0, 0), step(2.0, 1)])
        assert is_there.wait(20)
        curves.add([step(3.0, 2)])
    assert [row["step"] for row in logged] == [0, 1, 2]


def test_a_store_that_fails_is_told_of_once_and_gets_its_rows_when_it_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[Mapping[str, Any]] = []
    tries = threading.Semaphore(0)
    is_down = True

    def log(rows: Rows) -> None:
        tries.release()
        if is_down:
            raise ConnectionError("no route to the store\nand a long trace")
        logged.extend(rows)

    with Curves(log, every_s=0.01) as curves:
        curves.add([step(1.0, 0)])
        for _ in range(3):
            assert tries.acquire(timeout=20)
        curves.add([step(2.0, 1)])
        is_down = False
    assert [row["step"] for row in logged] == [0, 1]
    assert capsys.readouterr().err == "MLflow: curves could not be logged, the run goes on without: no route to the store\n"


def test_a_store_that_hangs_does_not_hold_the_run_up(capsys: pytest.CaptureFixture[str]) -> None:
    answered = threading.Event()
    with Curves(lambda rows: answered.wait(60) and None, every_s=60, wait_s=0.05) as curves:
        curves.add([step(1.0, 0)])
    answered.set()
    assert capsys.readouterr().err == "MLflow: curves could not be logged, the run goes on without: it does not answer\n"


def test_mlflow_gets_the_numbers_of_steps_and_evaluations_as_curves(raybert_home: Path) -> None:
    recording = Recording("finetune-1", {"rows_per_step": 8}, {}, Home(raybert_home))
    with Curves(recording.log_rows) as curves:
        curves.add([attempt(1.0), step(2.0, 0), step(3.0, 1), evaluation(4.0, 2)])
    recording.finish("FINISHED")
    client = recording.registry.client
    for name, steps in {"loss": [0, 1], "mfu": [0, 1], "tokens_per_s": [0, 1], "accuracy": [2]}.items():
        assert [metric.step for metric in client.get_metric_history(recording.mlflow_id, name)] == steps


def test_a_run_that_is_gone_on_with_stays_one_mlflow_run_with_each_step_once(raybert_home: Path) -> None:
    first = Recording("finetune-1", {"seed": 1}, {}, Home(raybert_home))
    first.log_rows([attempt(1.0), step(2.0, 0)])
    rows = [attempt(1.0), step(2.0, 0), step(3.0, 1), evaluation(4.0, 2), {"event": "resumed", "time": 9.0}]
    again = Recording("finetune-1", {"seed": 2}, {}, Home(raybert_home), resumes=first.mlflow_id)
    assert again.mlflow_id == first.mlflow_id
    client = again.registry.client
    assert client.get_run(first.mlflow_id).info.status == "RUNNING"
    again.log_missing(rows)
    again.finish("FINISHED")
    assert [metric.step for metric in client.get_metric_history(first.mlflow_id, "loss")] == [0, 1]
    assert [metric.step for metric in client.get_metric_history(first.mlflow_id, "accuracy")] == [2]
    assert client.get_run(first.mlflow_id).info.status == "FINISHED"


def test_a_run_that_the_store_does_not_have_any_more_is_recorded_anew(raybert_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Recording("finetune-1", {"seed": 2}, {}, Home(raybert_home), resumes="0" * 32)
    assert found.mlflow_id != "0" * 32
    assert "so the run is recorded anew" in capsys.readouterr().err
