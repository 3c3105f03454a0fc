"""Jobs without a cluster: where to, with which token, as what; what is refused before anything is sent."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import jobs
from cluster.dashboard import Target, check, find_target, find_token
from cluster.ports import free_port
from foundation.errors import ClusterError, ConfigError
from raybert.verbs.jobs import check_verb

NOWHERE = Target("http://127.0.0.1:1")


@pytest.fixture
def guarded_dashboard() -> Iterator[str]:
    """Answers as Ray does to a token it does not know: the version to all, the jobs to nobody."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_open = self.path == "/api/version"
            self.send_response(200 if is_open else 403)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.60.0"}' if is_open else b"Forbidden: Invalid authentication token")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def token_file(path: Path, token: str) -> Path:
    path.write_text(token + "\n", encoding="utf-8")
    return path


def test_the_token_is_looked_for_where_ray_looks_with_the_recorded_cluster_before_the_default(tmp_path: Path) -> None:
    named, recorded, default = (token_file(tmp_path / name, name) for name in ("named", "recorded", "default"))
    path = {"RAY_AUTH_TOKEN_PATH": str(named)}
    assert find_token({"RAY_AUTH_TOKEN": "direct", **path}, recorded, default)[0] == "direct"
    assert find_token(path, recorded, default) == ("named", str(named))
    assert find_token({}, recorded, default) == ("recorded", str(recorded))
    assert find_token({}, None, default) == ("default", str(default))
    assert find_token({}, None, tmp_path / "none") == (None, "no token")


def test_a_token_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no token can be read"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, None, tmp_path / "default")


def test_a_token_is_never_shown() -> None:
    assert "secret" not in repr(Target("http://localhost:8265", "secret"))


def test_without_a_cluster_the_message_says_how_to_start_one(raybert_home: Path) -> None:
    with pytest.raises(ClusterError, match="raybert cluster up"):
        find_target()


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://host:10001", "auto"])
def test_an_address_that_is_no_dashboard_is_refused(raybert_home: Path, address: str) -> None:
    with pytest.raises(ClusterError, match="expected http://HOST:PORT"):
        find_target(address)


def test_a_closed_port_is_told_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError, match="no cluster answers there"):
        check(Target(f"http://127.0.0.1:{free_port()}"))
    assert time.monotonic() - started < 30


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("cluster.dashboard.REACH_S", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ClusterError, match="no cluster answers there"):
        check(Target(f"http://127.0.0.1:{silent.getsockname()[1]}"))


def test_a_refused_token_is_told_with_the_place_it_was_read_from(guarded_dashboard: str) -> None:
    with pytest.raises(ClusterError, match=r"refuses the token .*/home/me/token"):
        check(Target(guarded_dashboard, "wrong", "/home/me/token"))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("RUNNING", None, None),
        ("PENDING", None, None),
        ("SUCCEEDED", 0, 0),
        ("SUCCEEDED", None, 0),
        ("FAILED", 3, 3),
        ("FAILED", None, 1),
        ("FAILED", -9, 137),
        ("STOPPED", None, 1),
    ],
)
def test_the_exit_code_is_the_one_a_shell_would_give(status: str, code: int | None, expected: int | None) -> None:
    assert jobs.exit_code_of(status, code) == expected


@given(code=st.none() | st.integers(-64, 255))
def test_a_job_that_did_not_succeed_never_returns_zero(code: int | None) -> None:
    for status in ("FAILED", "STOPPED"):
        assert jobs.exit_code_of(status, code) in range(1, 256)


@given(text=st.text(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_a_log_is_written_once_however_often_the_connection_breaks(text: str, cuts: list[int]) -> None:
    written: list[str] = []
    log = jobs._Log(written.append)
    for cut in cuts:  # each connection sends the log from its beginning, in pieces, until it breaks
        for start in range(0, min(cut, len(text)), 7):
            log.take(text[start : min(start + 7, cut, len(text))], start)
    log.take(text)
    assert "".join(written) == text


def test_a_job_knows_where_paths_start_and_where_things_are_kept(raybert_home: Path, tmp_path: Path) -> None:
    found = jobs.job_environment(
        Target("http://x", tracking_uri="http://127.0.0.1:5000"),
        tmp_path,
        {"RAYBERT_CACHE": "/cache", "HF_HUB_OFFLINE": "1", "HOME": "/me"},
    )
    assert found == {
        "RAYBERT_BASE_DIR": str(tmp_path),
        "RAYBERT_HOME": str(raybert_home),
        "RAYBERT_CACHE": "/cache",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "RAY_JOB_STOP_WAIT_TIME_S": "12",
    }
    assert "MLFLOW_TRACKING_URI" not in jobs.job_environment(NOWHERE, tmp_path, {})


def test_arguments_reach_the_job_as_they_were_typed() -> None:
    import shlex

    arguments = ["query", "it's $HOME; rm -rf", "a  b"]
    assert shlex.split(jobs.plan(arguments, NOWHERE).entrypoint) == ["exec", "python", "-m", "raybert", *arguments]


@pytest.mark.parametrize("verb", ["jobs", "cluster", "quickstart", "fintune"])
def test_verbs_that_cannot_run_as_a_job_are_refused(verb: str) -> None:
    with pytest.raises(ConfigError, match=f"{verb}.*finetune"):
        check_verb([verb])


@pytest.mark.parametrize(
    "before",
    [
        "",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "interrupt_for_sure()",
    ],
    ids=["alone", "sigint blocked", "sigint ignored", "in a verb"],
)
def test_sigterm_runs_the_clean_up_and_a_second_one_does_not_cut_it_short(before: str) -> None:
    code = (
        "import os, signal, time\n"
        "from cluster.signals import interrupt_for_sure, terminate_as_interrupt\n"
        f"{before}\n"
        "assert terminate_as_interrupt()\n"
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('cleaned', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "cleaned\n"
    assert process.returncode == 0
