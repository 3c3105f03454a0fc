"""One rank fails where the others wait for it: the run says which and why, and goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import ROOT, Cli, assert_no_processes, environment_of
from tests.support.faults import POINTS, RANK, planted, used
from tests.support.history import attempts
from tests.support.tiny import make_encoder, write_reviews

pytestmark = pytest.mark.ray


@pytest.mark.timeout(300)
def test_a_rank_that_fails_at_any_point_is_named_with_the_reason_and_the_run_goes_on(tmp_path: Path) -> None:
    """Two points of all, drawn; ``make prove-elastic`` has all of them, and how long each takes."""
    seed = random.randrange(2**32)
    print(f"points drawn with seed {seed}")
    points = random.Random(seed).sample([point for point in POINTS if point != "before the decision to leave"], 2)
    encoder, data, home = make_encoder(tmp_path / "encoder", layers=1), write_reviews(tmp_path / "reviews.csv", 60), tmp_path / "home"
    cli = Cli(environment_of(home, **planted(tmp_path / "faults", points, ROOT)), tmp_path)
    same = [f"encoder={encoder}", f"data.train={data}", "workers.count=2", "workers.cpus_each=0.5", "max_length=32"]
    ran = cli("finetune", "--name", "faulty", *same, "epochs=3", "rows_per_step=7", "checkpoint.every_steps=8", "--json", timeout_s=200)
    assert ran.exit_code == 0, ran.err
    assert used(tmp_path / "faults").keys() == set(points)
    for point in points:
        assert f"rank {RANK}: RuntimeError: a fault {point}" in ran.err
    assert len(attempts(home / "runs" / "faulty")) == 3
    assert_no_processes(home)
