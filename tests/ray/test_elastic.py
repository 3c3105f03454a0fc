"""An elastic run on real Ray nodes, beside something that holds one of them: a node is lost, the run goes on without it; a node comes, the
run takes it in without doing a step twice; a worker is slow and is told, then stuck: the gang is ended and says where it stood; a node is
about to go, the gang leaves it, again without doing a step twice. No row is skipped or counted twice."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from corpus.config import LabelledDataConfig
from corpus.labelled import load_labelled
from foundation.records import read_rows
from tests.conftest import Cli, assert_no_processes, end_group, wait_for
from tests.support.history import attempts, expected_rows, surviving_rows, workers
from tests.support.nodes import nodes
from tests.support.tiny import make_encoder, write_reviews
from training.runs import METRICS_FILE
from training.watchdog import STACKS_FOLDER

pytestmark = pytest.mark.ray
ROWS_PER_STEP, SEED = 7, 3


@pytest.mark.timeout(500)
def test_a_run_survives_a_lost_node_a_new_one_a_stuck_worker_and_a_node_that_is_about_to_go_with_every_row_once(tmp_path: Path) -> None:
    encoder, data, home = make_encoder(tmp_path / "encoder", layers=1), write_reviews(tmp_path / "reviews.csv", 100), tmp_path / "home"
    folder = home / "runs" / "elastic"

    def done() -> int:
        return sum(row["event"] == "step" for row in read_rows(folder / METRICS_FILE))

    def are_done(more: int) -> None:
        wanted = done() + more
        wait_for(lambda: done() >= wanted, 60, f"{wanted} steps")

    with nodes(home) as cluster:
        cli = Cli(cluster.env, tmp_path)
        cluster.add()
        cluster.occupy()
        cluster.add()
        lost = cluster.add()
        process = cli.start(
            *("finetune", "--name", "elastic", "--address", cluster.address, f"encoder={encoder}", f"data.train={data}"),
            *("workers.min=1", "workers.max=3", "workers.resize_interval_s=5", "workers.stall_timeout_s=20"),
            *("checkpoint.every_s=2", "checkpoint.every_steps=100000", "epochs=2000", f"rows_per_step={ROWS_PER_STEP}"),
            *("rows_per_microbatch=2", "max_length=32", "dropout=0", f"seed={SEED}", "record_rows=true"),
        )
        try:
            wait_for(lambda: any(row["event"] == "checkpoint" for row in read_rows(folder / METRICS_FILE)), 200, "a checkpoint")
            are_done(20)
            cluster.lose(lost)
            wait_for(lambda: len(attempts(folder)) == 2, 120, "an attempt without the lost node")
            are_done(20)
            going = cluster.start()
            wait_for(lambda: len(attempts(folder)) == 3, 120, "an attempt with the new node")
            are_done(20)
            stuck = workers(folder)[1]
            slow_down(stuck, until=lambda: any(row["event"] == "straggler" for row in read_rows(folder / METRICS_FILE)))
            os.kill(stuck, signal.SIGSTOP)
            wait_for(lambda: len(attempts(folder)) == 4, 120, "an attempt without the stuck worker")
            are_done(20)
            assert not psutil.pid_exists(stuck)
            os.kill(going, signal.SIGTERM)
            wait_for(lambda: len(attempts(folder)) == 5, 50, "an attempt without the node that is about to go")
            are_done(20)
            ran = cli.interrupt(process)
        finally:
            if process.poll() is None:
                end_group(process)
        assert ran.exit_code == 130, ran.err
        assert "to go on from the last checkpoint: raybert finetune --resume elastic" in ran.err
    assert_no_processes(home)
    assert [attempt["world_size"] for attempt in attempts(folder)] == [2, 1, 2, 2, 1]
    assert re.search(r"warning: no progress, so the workers were ended: rank 0 in \w+ for 2\d.* at step \d+; nothing from rank 1", ran.err)
    rows = read_rows(folder / METRICS_FILE)
    made = attempts(folder)
    to_grow, before_its_end = [row["step"] for row in rows if row["event"] == "leaving"]
    assert f"room for another number of workers; these leave with a checkpoint at step {to_grow}\n" in ran.err
    assert re.search(rf"the node of rank \d goes in \d+ s; the workers leave it with a checkpoint at step {before_its_end}\n", ran.err)
    assert (made[2]["step"], made[4]["step"]) == (to_grow, before_its_end)
    for attempt in (made[2], made[4]):
        before = [row["step"] for row in rows[: rows.index(attempt)] if row["event"] == "step"]
        assert before[-1] + 1 == attempt["step"], "no step is lost"
    assert re.search(r"warning: rank 1 on \S+ takes \d+\.\d times as long as the others, \d+ ms against \d+ ms", ran.err)
    (stack,) = (folder / STACKS_FOLDER).iterdir()
    assert "training/loop.py" in stack.read_text(encoding="utf-8")
    found = surviving_rows(folder)
    # Rank 1 may not have come to write down the last step.
    whole = max(found) if sum(found[max(found)].values()) == ROWS_PER_STEP else max(found) - 1
    ids = load_labelled(LabelledDataConfig(train=str(data))).train.ids
    expected = expected_rows(ids, whole + 1, rows_per_step=ROWS_PER_STEP, seed=SEED)
    assert {step: found[step] for step in expected} == expected
    assert attempts(folder)[2]["step"] > attempts(folder)[1]["step"] > 0


def slow_down(process: int, until: Callable[[], bool]) -> None:
    """Let a process run for a tenth of the time only, as on a host that others use."""
    deadline = time.monotonic() + 90
    while not until():
        assert time.monotonic() < deadline, "nobody told of the slow worker"
        for _ in range(20):
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.045)
            os.kill(process, signal.SIGCONT)
            time.sleep(0.005)


@pytest.mark.timeout(300)
def test_a_run_whose_folder_a_node_does_not_see_is_refused_before_its_first_step(tmp_path: Path) -> None:
    encoder, data, home = make_encoder(tmp_path / "encoder", layers=1), write_reviews(tmp_path / "reviews.csv", 40), tmp_path / "home"
    with nodes(home) as cluster:
        cluster.add()
        try:
            cluster.hide(home / "runs")
        except PermissionError as error:
            pytest.skip(str(error))
        cluster.add()
        arguments = [f"encoder={encoder}", f"data.train={data}", "workers.count=2", "workers.cpus_each=1", "max_length=32"]
        ran = Cli(cluster.env, tmp_path)("finetune", "--name", "apart", "--address", cluster.address, *arguments, timeout_s=150)
    assert ran.exit_code == 2, ran.err
    assert re.search(r"runs/apart: cannot be seen by rank \d on \S+; all nodes have to share it: point RAYBERT_HOME to", ran.error)
    assert not [row for row in read_rows(home / "runs" / "apart" / METRICS_FILE) if row["event"] == "step"]
