"""What a cluster's dashboard says, read; and a cluster that is not there, told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.ports import free_port
from cluster.state import ClusterState, created_at
from cluster.usage import read_answers, usage_of


def nodes(*states: tuple[str, float]) -> dict[str, Any]:
    return {"data": {"result": {"result": [{"state": state, "resources_total": {"CPU": cpus}} for state, cpus in states]}}}


def recorded(folder: Path, **values: Any) -> ClusterState:
    (folder / "token").write_text("f" * 64)
    tree = {
        "name": "local",
        "cluster_id": "0" * 16,
        "pid": 1,
        "pid_started": created_at(1),
        "is_ready": True,
        "address": "127.0.0.1:1",
        "dashboard_url": f"http://127.0.0.1:{free_port()}",
        "token_file": str(folder / "token"),
        "ray_folder": str(folder),
        "log_file": str(folder / "log"),
        "nodes": 2,
        "cpus_per_node": 2,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return ClusterState.model_validate(tree | values)


def test_living_nodes_and_claimed_cpus_are_counted() -> None:
    status = {"data": {"clusterStatus": {"loadMetricsReport": {"usage": {"CPU": [1.5, 4.0]}}}}}
    used = read_answers(nodes(("ALIVE", 2), ("DEAD", 8), ("ALIVE", 2)), status)
    assert (used.status, used.nodes_alive, used.cpus_total, used.cpus_used) == ("up", 2, 4, 1.5)


def test_before_the_first_report_no_cpu_is_in_use() -> None:
    assert read_answers(nodes(("ALIVE", 2)), {"data": {"clusterStatus": None}}).cpus_used == 0


def test_a_cluster_whose_supervisor_is_gone_says_how_to_clear_up(tmp_path: Path) -> None:
    used = usage_of(recorded(tmp_path, pid_started=1.0))
    assert used.status == "gone"
    assert "raybert cluster down local" in used.message


def test_a_cluster_that_starts_names_its_log(tmp_path: Path) -> None:
    used = usage_of(recorded(tmp_path, is_ready=False))
    assert (used.status, str(tmp_path / "log") in used.message) == ("starting", True)


def test_a_supervisor_without_a_dashboard_is_ill(tmp_path: Path) -> None:
    used = usage_of(recorded(tmp_path))
    assert used.status == "ill"
    assert "no cluster answers there" in used.message
