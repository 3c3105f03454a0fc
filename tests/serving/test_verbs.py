"""The verbs of serving, as typed: what they refuse starts nothing, what they plan touches nothing."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foundation.bundle import Bundle
from raybert.main import main

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], raybert_home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def command(*arguments: str, exit_code: int = 0) -> dict[str, Any]:
        assert main([*arguments, "--json"]) == exit_code
        found: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        return found

    return command


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def test_serve_up_plans_without_touching_anything(run: Run, bundle: Bundle, raybert_home: Path) -> None:
    planned = run("serve", "up", f"model={bundle.path}", "port=18431", "--dry-run")
    assert (planned["url"], planned["model"]["digest"]) == ("http://127.0.0.1:18431", bundle.digest)
    assert planned["autoscaling"]["max_replicas"] == 2
    assert "a new local cluster" in planned["cluster"]
    assert files_in(raybert_home) == []


def test_serve_up_refuses_a_port_in_use_before_it_starts_anything(run: Run, bundle: Bundle, raybert_home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run("serve", "up", f"model={bundle.path}", f"port={port}", exit_code=2)
    assert f"{port}: in use" in refused["error"]
    assert "port=" in refused["error"]
    assert files_in(raybert_home) == []


def test_serve_up_refuses_a_model_that_is_not_there_altered_or_not_named(run: Run, altered_bundle: Bundle, tmp_path: Path) -> None:
    assert "no such model in the registry" in run("serve", "up", "model=nothing@champion", exit_code=2)["error"]
    assert "config.json: altered" in run("serve", "up", f"model={altered_bundle.path}", exit_code=2)["error"]
    assert "no such folder" in run("serve", "up", f"model={tmp_path / 'nowhere'}", exit_code=2)["error"]
    assert "model: missing" in run("serve", "up", exit_code=2)["error"]
    assert "did you mean port?" in run("serve", "up", "model=x@champion", "prot=1", exit_code=2)["error"]


def test_serve_up_refuses_a_cluster_that_does_not_answer(run: Run, bundle: Bundle) -> None:
    refused = run("serve", "up", f"model={bundle.path}", "port=18432", "--address", "127.0.0.1:9", exit_code=2)
    assert "no cluster answers there" in refused["error"]


def test_serve_up_refuses_more_cpus_than_there_are_and_says_how_many(run: Run, bundle: Bundle, raybert_home: Path) -> None:
    refused = run("serve", "up", f"model={bundle.path}", "port=18433", "cpus_per_replica=4096", exit_code=2)
    assert "4096" in refused["error"]
    assert str(os.cpu_count()) in refused["error"]
    assert files_in(raybert_home) == []


def test_serve_down_and_status_of_an_unknown_service_say_so(run: Run) -> None:
    assert "no such service" in run("serve", "down", "ghost", exit_code=1)["error"]
    assert "no such service" in run("serve", "status", "ghost", exit_code=1)["error"]
    assert run("serve", "status")["services"] == []


def test_query_reads_texts_from_arguments_a_file_or_stdin(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one\n\ntwo\n", encoding="utf-8")
    assert run("query", "one", "--dry-run")["texts"] == 1
    assert run("query", "--file", str(file), "--dry-run")["texts"] == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\nthree\n")))
    assert run("query", "-", "--dry-run")["texts"] == 3
    assert run("query", "--dry-run", exit_code=2)["error"].startswith("no text")
    file.write_bytes(b"\xff")
    assert "not UTF-8" in run("query", "--file", str(file), exit_code=2)["error"]
    assert "no such file" in run("query", "--file", str(tmp_path / "none"), exit_code=2)["error"]


def test_query_without_a_service_is_one_message(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "no service answers here" in run("query", "one", "--url", url, exit_code=1)["error"]


def test_classify_plans_and_refuses_without_writing(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\ngood\n", encoding="utf-8")
    planned = run("classify", str(source), str(target), "--model", str(bundle.path), "--dry-run")
    assert (planned["plan"]["rows"], planned["plan"]["format"]) == (1, "csv")
    wrong = run("classify", str(source), str(target), "--model", str(bundle.path), "--text-column", "review", exit_code=2)
    assert "no column 'review'" in wrong["error"]
    assert "no such model" in run("classify", str(source), str(target), "--model", "nothing@champion", exit_code=2)["error"]
    assert not target.exists()
