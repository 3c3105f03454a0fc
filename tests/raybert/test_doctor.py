"""``raybert doctor`` as a user runs it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import Cli

CHECKS = {
    "Python",
    "versions",
    "constraints",
    "torch",
    "DeepSpeed",
    "GPUs",
    "shared memory",
    "open files",
    "ports",
    "Ray processes",
    "Ray token",
    "MLflow store",
    "disk",
}


@pytest.mark.slow
def test_a_healthy_machine_passes_in_time_and_nothing_is_created(cli: Cli, raybert_home: Path) -> None:
    started = time.monotonic()
    ran = cli("doctor", "--json")
    assert time.monotonic() - started < 60
    assert ran.exit_code == 0, ran.out
    assert ran.json["healthy"]
    assert {finding["name"] for finding in ran.json["findings"]} == CHECKS
    assert not raybert_home.exists()


@pytest.mark.slow
def test_a_blocker_fails_and_the_table_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    ran = cli("doctor", RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"), COLUMNS="200")
    assert ran.exit_code == 1
    (line,) = [line for line in ran.out.splitlines() if line.startswith("Ray token")]
    assert "blocker" in line
    assert "RAY_AUTH_TOKEN_PATH" in line
