"""The whole road with a tiny encoder: it ends with answers, goes on where it was cut, and leaves nothing running."""

from __future__ import annotations

import json
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.ports import free_port, is_free
from tests.conftest import Cli, assert_no_processes, environment_of, left_running, wait_for
from tests.support.tiny import make_encoder

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One quickstart, cut off in its second stage, then run again with ``--keep-serving``."""
    folder = tmp_path_factory.mktemp("quickstart")
    home, port = folder / "home", free_port()
    cli = Cli(environment_of(home), folder)
    encoder = make_encoder(folder / "encoder", positions=128)
    arguments = ["quickstart", "--encoder", encoder, "--gate", 0.3, "--port", port, "--keep-serving", "--json"]
    cut = cli.start(*arguments)
    state = home / "runs" / "quickstart" / "state.json"
    wait_for(lambda: state.is_file() and "data build" in state.read_text(), 120, "the first stage")
    cut.send_signal(signal.SIGINT)
    first = cli.finish(cut, 60)
    try:
        yield {
            "first": first,
            "left": left_running(home),
            "done": cli(*arguments, timeout_s=600),
            "cli": cli,
            "home": home,
            "port": port,
        }
    finally:
        cli("serve", "down", "quickstart", timeout_s=60)


def test_a_cut_quickstart_ends_with_130_and_leaves_nothing(walked: dict[str, Any]) -> None:
    assert walked["first"].exit_code == 130
    assert walked["left"] == []


def test_it_goes_on_at_the_stage_that_was_cut_and_ends_with_a_summary(walked: dict[str, Any]) -> None:
    done = walked["done"]
    assert done.exit_code == 0, done.err[-5000:]
    assert "data build: done earlier" in done.err
    summary = done.json
    stages = ["data build", "pretrain", "tune", "finetune", "evaluate", "models", "serve", "query"]
    assert list(summary["stages"]) == stages
    assert {"accuracy", "macro_f1", "baseline_accuracy", "stages", "answers", "artifacts"} <= set(summary)
    assert summary["baseline_accuracy"] > 0.75
    assert [answer["text"] for answer in summary["answers"][:2]] == ["This is a good product", "This is a bad product"]
    assert all(answer["expected"] in ("negative", "positive") for answer in summary["answers"][2:])
    assert len(summary["answers"]) == 5
    assert json.loads(Path(summary["artifacts"]["summary"]).read_text()) == summary
    for name, path in summary["artifacts"].items():
        assert name == "registry" or Path(path).exists(), name


def test_kept_serving_answers_and_serve_down_ends_it(walked: dict[str, Any]) -> None:
    url = f"http://127.0.0.1:{walked['port']}/v1/classify"
    request = urllib.request.Request(url, json.dumps({"inputs": "This is a good product"}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert {label["label"] for label in json.load(answer)["results"][0]["labels"]} == {"negative", "positive"}
    down = walked["cli"]("serve", "down", "quickstart", timeout_s=60)
    assert down.exit_code == 0, down.err
    assert_no_processes(walked["home"])
    assert is_free(walked["port"])


def test_a_port_in_use_is_told_before_the_first_stage(cli: Cli, tmp_path: Path) -> None:
    import socket

    encoder = make_encoder(tmp_path / "encoder")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli("quickstart", "--encoder", encoder, "--port", taken.getsockname()[1])
    assert done.exit_code == 2
    assert "--port" in done.error
    assert not (tmp_path / "home" / "runs").exists()
    shutil.rmtree(encoder)
