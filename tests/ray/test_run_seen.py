"""A run under way, as others see it: Prometheus, MLflow, and the report that it leaves when it is stopped."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from foundation.home import Home
from foundation.records import read_rows
from foundation.registry import Registry
from tests.conftest import Cli, end_group, processes_of, wait_for
from tests.support.tiny import make_encoder, write_reviews
from training.runs import METRICS_FILE
from training.telemetry import FIGURES

pytestmark = pytest.mark.ray


def metrics_pages(home: Path) -> str:
    """What the metrics endpoints of all nodes that were started for ``home`` say."""
    commands = [" ".join(process.cmdline()) for process in processes_of(home)]
    ports = {found[1] for command in commands if (found := re.search(r"--metrics[-_]export[-_]port=(\d+)", command))}
    return "\n".join(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text for port in ports)


def told_by(page: str, name: str) -> set[str]:
    """Ranks that told a figure; a histogram and a counter go by longer names."""
    return set(re.findall(rf'^ray_{name}(?:_total|_count)?{{[^}}]*rank="(\w+)"', page, flags=re.MULTILINE))


def test_a_run_is_seen_by_prometheus_and_mlflow_while_it_goes_on_and_leaves_a_report_when_it_is_stopped(
    cli: Cli, raybert_home: Path, tmp_path: Path
) -> None:
    encoder = make_encoder(tmp_path / "encoder", layers=1)
    data = write_reviews(tmp_path / "reviews.csv", 200)
    size = ["rows_per_step=4", "rows_per_microbatch=2", "epochs=2000", "max_length=32", "checkpoint.every_steps=20"]
    process = cli.start(
        "finetune", f"encoder={encoder}", f"data.train={data}", *size, "workers.count=2", "workers.cpus_each=0.5", "--profile"
    )
    expected = {name: {"0", "1"} if figure.is_per_rank else {"0"} for name, figure in FIGURES.items()}
    expected["raybert_train_goodput"] = {"driver"}
    del expected["raybert_train_skipped_steps"]  # none is skipped, and a counter of nothing is not told
    missing: list[str] = []

    def all_told() -> bool:
        page = metrics_pages(raybert_home)
        missing[:] = [name for name, ranks in expected.items() if not ranks <= told_by(page, name)]
        return not missing

    registry = Registry(f"sqlite:///{raybert_home / 'mlflow.db'}", Home(raybert_home))

    def curves() -> int:
        (run,) = registry.client.search_runs([registry.client.get_experiment_by_name("raybert").experiment_id])
        return len(registry.client.get_metric_history(run.info.run_id, "loss"))

    try:
        wait_for(lambda: list(raybert_home.glob(f"runs/*/{METRICS_FILE}")), 90, "a record")
        try:
            wait_for(all_told, 90, "all figures on the nodes' metrics pages")
        except AssertionError as error:
            raise AssertionError(f"{error}; missing: {', '.join(missing)}") from None
        wait_for(curves, 60, "curves in MLflow")
        ran = cli.interrupt(process)
    finally:
        if process.poll() is None:
            end_group(process)
    assert ran.exit_code == 130, ran.err
    (folder,) = raybert_home.glob("runs/*")
    steps = [row for row in read_rows(folder / METRICS_FILE) if row["event"] == "step"]
    assert all(row["tokens_per_s"] > 0 and 0 < row["mfu"] < 1 and row["memory_bytes"] > 1e7 for row in steps)
    assert "Where a step went" in (folder / "report.html").read_text(encoding="utf-8")
    shown = cli("runs", "show", folder.name, "--json").json
    assert (shown["state"], shown["workers"]) == ("interrupted", 2)
    seconds = {row["phase"]: row["seconds"] for row in shown["phases"]}
    assert all(seconds[phase] > 0 for phase in ("forward", "backward", "communication", "optimiser", "evaluation", "checkpoint"))
    assert re.search(r"finetune: step \d+/\d+  loss ", ran.err)
