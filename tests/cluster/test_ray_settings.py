"""Ray's settings: what the user has set wins, and the interpreter's folder is on PATH."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster import ray_settings

FOLDER = str(Path(sys.executable).parent)


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "99")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    before = dict(os.environ)
    try:
        ray_settings.apply(ray_settings.driver_environment())
        assert os.environ["RAY_JOB_STOP_WAIT_TIME_S"] == "99"
        assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_merging_adds_and_never_replaces_but_path() -> None:
    merged = ray_settings.merged({"A": "1", "PATH": "/bin"}, {"A": "2", "B": "3", "PATH": "/env:/bin"})
    assert merged == {"A": "1", "B": "3", "PATH": "/env:/bin"}


def test_path_holds_the_environment_s_folder_once() -> None:
    once = ray_settings.path_with_environment("/usr/bin")
    assert once == f"{FOLDER}{os.pathsep}/usr/bin"
    assert ray_settings.path_with_environment(once) == once


def test_a_stopped_job_has_time_to_end_and_replicas_report_each_second() -> None:
    settings = ray_settings.node_environment()
    assert float(settings["RAY_JOB_STOP_WAIT_TIME_S"]) > 10
    assert settings["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] == "1"
    assert settings["RAY_USAGE_STATS_ENABLED"] == "0"


def test_without_a_gpu_deepspeed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_settings, "has_gpu", lambda: False)
    assert ray_settings.node_environment()["DS_ACCELERATOR"] == "cpu"
    monkeypatch.setattr(ray_settings, "has_gpu", lambda: True)
    assert "DS_ACCELERATOR" not in ray_settings.node_environment()


@pytest.mark.slow
def test_every_setting_is_one_that_ray_reads() -> None:
    import ray

    names = {name for name in ray_settings.node_environment() if name.startswith(("RAY_", "TUNE_"))}
    root = Path(ray.__file__).parent
    unseen = set(names)
    for folder in ("_private", "train", "tune", "serve", "data", "dashboard", "_common"):
        for path in (root / folder).rglob("*.py"):
            if not unseen:
                break
            text = path.read_text(encoding="utf-8", errors="ignore")
            unseen = {name for name in unseen if name not in text and name.removeprefix("RAY_") not in text}
    assert unseen == set()


def test_a_node_that_does_not_answer_is_given_up_within_the_time_that_is_asked_for() -> None:
    found = ray_settings.failure_detection(4.0)
    period, patience = int(found["RAY_health_check_period_ms"]), int(found["RAY_health_check_timeout_ms"])
    assert int(found["RAY_health_check_failure_threshold"]) * period + patience == 4000
