"""Judgements of the doctor, as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import measurements
from cluster.measurements import measure_ray_processes, measure_token, measure_tracking, measure_versions
from cluster.preflight import (
    DeepSpeed,
    Finding,
    Installed,
    Port,
    RayProcess,
    Token,
    Torch,
    failed,
    judge_constraints,
    judge_deepspeed,
    judge_disk,
    judge_gpus,
    judge_open_files,
    judge_ports,
    judge_python,
    judge_ray_processes,
    judge_shared_memory,
    judge_token,
    judge_torch,
    judge_tracking,
    judge_versions,
)

CPU_TORCH = Torch("2.13.0+cpu", threads=2, cpus=2)
CUDA_TORCH = Torch("2.13.0+cu130", threads=2, cpus=2, cuda="13.0", gpus=2, nccl="2.27.7")
DEEPSPEED = DeepSpeed("0.19.8", "cpu", is_op_built=True, compiler="/usr/bin/g++", ninja="/usr/bin/ninja")
MET = Installed("ray", "==2.60.0", "2.60.0", is_met=True, extra="cluster")
CASES: list[tuple[str, Finding, str]] = [
    ("a supported Python", judge_python((3, 11, 7)), "ok"),
    ("an old Python", judge_python((3, 10, 1)), "blocker"),
    ("a Python nobody tested", judge_python((3, 14, 0)), "warning"),
    ("met versions", judge_versions([MET]), "ok"),
    ("a wrong version", judge_versions([MET, Installed("torch", "==2.13.0", "2.9.0", is_met=False, extra="train")]), "blocker"),
    ("an extra that is not installed", judge_versions([MET, Installed("torch", "==2.13.0", None, is_met=False, extra="train")]), "warning"),
    ("a missing base requirement", judge_versions([Installed("httpx", ">=0.27", None, is_met=False)]), "blocker"),
    ("a raybert that is no package", judge_versions([]), "warning"),
    ("no checkout", judge_constraints(None), "ok"),
    ("tested versions", judge_constraints([]), "ok"),
    ("other versions", judge_constraints([Installed("rich", "13.0", "14.0", is_met=False)]), "warning"),
    ("a torch", judge_torch(CPU_TORCH), "ok"),
    ("a torch that does not import", judge_torch(Torch(error="does not import: libgomp")), "blocker"),
    ("no torch", judge_torch(Torch()), "warning"),
    ("more threads than CPUs", judge_torch(Torch("2.13.0", threads=8, cpus=2)), "warning"),
    ("a DeepSpeed", judge_deepspeed(DEEPSPEED), "ok"),
    ("a DeepSpeed without compiler", judge_deepspeed(DeepSpeed("0.19.8", "cpu", ninja="/usr/bin/ninja")), "blocker"),
    ("a DeepSpeed on GPUs without compiler", judge_deepspeed(DeepSpeed("0.19.8", "cuda")), "ok"),
    ("no DeepSpeed", judge_deepspeed(DeepSpeed()), "warning"),
    ("a DeepSpeed that does not import", judge_deepspeed(DeepSpeed(error="does not import")), "blocker"),
    ("shared memory", judge_shared_memory(2_000_000_000), "ok"),
    ("Docker's shared memory", judge_shared_memory(64_000_000), "blocker"),
    ("little shared memory", judge_shared_memory(500_000_000), "warning"),
    ("no shared memory", judge_shared_memory(None), "blocker"),
    ("files", judge_open_files(1024, 65536), "ok"),
    ("few files", judge_open_files(1024, 2048), "warning"),
    ("hardly any files", judge_open_files(256, 256), "blocker"),
    ("free ports", judge_ports([Port(8000, "serve up", "http.port=8001", is_free=True)]), "ok"),
    ("our port", judge_ports([Port(8000, "serve up", "http.port=8001", is_free=False, is_ours=True)]), "ok"),
    ("a stranger's port", judge_ports([Port(8000, "serve up", "http.port=8001", is_free=False)]), "warning"),
    ("no Ray", judge_ray_processes([]), "ok"),
    ("Ray of a cluster", judge_ray_processes([RayProcess(7, "raylet", "cluster local")]), "ok"),
    ("Ray left behind", judge_ray_processes([RayProcess(7, "raylet", None)]), "warning"),
    ("no psutil", judge_ray_processes(None), "warning"),
    ("a private token", judge_token(Token("/t", exists=True)), "ok"),
    ("a token for all to read", judge_token(Token("/t", exists=True, is_private=False)), "warning"),
    ("no token yet", judge_token(Token("/t", exists=False)), "ok"),
    ("a named token that is missing", judge_token(Token("/t", exists=False, is_named=True)), "blocker"),
    ("a store", judge_tracking("sqlite:////h/mlflow.db", ""), "ok"),
    ("a broken store", judge_tracking("sqlite:////h/mlflow.db", "not a database"), "blocker"),
    ("a server that is down", judge_tracking("http://h:5000", "does not answer"), "blocker"),
    ("room", judge_disk("/h", 50_000_000_000), "ok"),
    ("little room", judge_disk("/h", 3_000_000_000), "warning"),
    ("no room", judge_disk("/h", 100_000_000), "blocker"),
    ("no GPUs", judge_gpus([], CPU_TORCH), "ok"),
    ("GPUs", judge_gpus(["A100", "A100"], CUDA_TORCH), "ok"),
    ("GPUs that torch cannot use", judge_gpus(["A100"], CPU_TORCH), "warning"),
    ("GPUs without NCCL", judge_gpus(["A100", "A100"], Torch("2.13.0", 2, 2, "13.0", gpus=2)), "blocker"),
    ("a broken driver", judge_gpus([], CPU_TORCH, "nvidia-smi: no devices"), "warning"),
]


@pytest.mark.parametrize(("finding", "status"), [pytest.param(finding, status, id=name) for name, finding, status in CASES])
def test_each_fact_is_judged(finding: Finding, status: str) -> None:
    assert finding.status == status, finding


@pytest.mark.parametrize("finding", [pytest.param(finding, id=name) for name, finding, _ in CASES])
def test_every_finding_says_what_was_found_and_what_is_wrong_has_a_remedy(finding: Finding) -> None:
    assert finding.found
    assert bool(finding.remedy) == (finding.status != "ok")


def test_only_a_blocker_fails() -> None:
    ok, warning, blocker = (Finding("x", status, "y") for status in ("ok", "warning", "blocker"))
    assert not failed([ok, warning])
    assert failed([ok, blocker])


def test_what_was_left_behind_is_named_with_its_pids_and_how_to_end_it() -> None:
    finding = judge_ray_processes([RayProcess(7, "raylet", None), RayProcess(9, "gcs_server", None), RayProcess(8, "raylet", "pid 5")])
    assert "raylet (pid 7)" in finding.found
    assert finding.remedy.endswith("kill 7 9")


def test_the_requirements_are_raybert_s_own_without_those_of_development() -> None:
    names = {item.name for item in measure_versions()}
    assert {"httpx", "ray", "torch", "deepspeed"} <= names
    assert not names & {"raybert", "ruff", "pytest"}


def test_a_store_that_is_not_there_yet_is_not_made_by_looking(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/home/mlflow.db"
    assert measure_tracking(uri) == (uri, "", True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but long enough to be read as a header of one" * 20)
    _, problem, _ = measure_tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert "not a database" in problem


def test_a_tracking_server_that_is_down_is_found_out() -> None:
    from cluster.ports import free_port

    _, problem, _ = measure_tracking(f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in problem


def test_a_token_file_open_to_others_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("x", encoding="utf-8")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    file.chmod(0o600)
    assert measure_token() == Token(str(file), exists=True, is_named=True)
    file.chmod(0o644)
    assert not measure_token().is_private


def test_an_interpreter_that_fails_tells_its_last_line() -> None:
    assert measurements._ask("import nothing_of_this_name") == {
        "error": "does not import: ModuleNotFoundError: No module named 'nothing_of_this_name'"
    }


def test_looking_for_ray_processes_ends_none() -> None:
    assert measure_ray_processes([]) is not None
