"""What is recorded of local clusters, and when it is believed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import state
from cluster.state import ClusterState


@pytest.fixture
def record(raybert_home: Path) -> Callable[..., ClusterState]:
    """Records a cluster whose supervisor is this process, unless told otherwise."""

    def save(**changes: Any) -> ClusterState:
        values: dict[str, Any] = {
            "name": "local",
            "cluster_id": "0123456789abcdef",
            "pid": os.getpid(),
            "pid_started": state.created_at(),
            "is_ready": True,
            "address": "127.0.0.1:6379",
            "dashboard_url": "http://127.0.0.1:8265",
            "token_file": raybert_home / "clusters" / "local.token",
            "ray_folder": raybert_home / "ray",
            "log_file": raybert_home / "clusters" / "local.log",
            "nodes": 1,
            "cpus_per_node": 2,
            "started": "2026-01-01T00:00:00+00:00",
        }
        saved = ClusterState.model_validate(values | changes)
        state.save(saved)
        return saved

    return save


def test_a_home_without_clusters_has_none(raybert_home: Path) -> None:
    assert (state.recorded(), state.running(), state.find("local")) == ([], [], None)
    assert not raybert_home.exists()


def test_what_is_saved_is_found_again_and_forgotten(record: Callable[..., ClusterState]) -> None:
    saved = record()
    assert state.find("local") == saved
    assert state.running() == [saved]
    state.forget("local")
    state.forget("local")
    assert state.recorded() == []


def test_a_supervisor_that_ended_is_not_running_but_still_recorded(record: Callable[..., ClusterState]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        created = state.created_at(ended.pid)
    saved = record(pid=ended.pid, pid_started=created)
    assert not saved.is_alive
    assert state.running() == []
    assert state.recorded() == [saved]


def test_a_pid_that_was_used_again_is_not_taken_for_the_supervisor(record: Callable[..., ClusterState]) -> None:
    assert not record(pid_started=state.created_at() - 60).is_alive


def test_a_zombie_is_not_alive(record: Callable[..., ClusterState]) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    created = state.created_at(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    assert not record(pid=process.pid, pid_started=created).is_alive
    process.wait()


def test_a_cluster_that_starts_is_not_running_yet(record: Callable[..., ClusterState]) -> None:
    saved = record(is_ready=False)
    assert saved.is_alive
    assert state.running() == []


def test_the_default_cluster_comes_first(record: Callable[..., ClusterState]) -> None:
    record(name="earlier", started="2025-01-01T00:00:00+00:00")
    record()
    assert [item.name for item in state.running()] == ["local", "earlier"]
    assert [item.name for item in state.recorded()] == ["earlier", "local"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "local"}'])
def test_a_file_that_is_no_state_is_passed_over(raybert_home: Path, content: str) -> None:
    path = state.file_of("local")
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="utf-8")
    assert state.find("local") is None
    assert state.recorded() == []
