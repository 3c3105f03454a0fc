"""A run on a cluster whose nodes are yet to be started by Ray's autoscaler."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli, assert_no_processes
from tests.support.autoscaled import autoscaled
from tests.support.tiny import make_encoder, write_reviews

pytestmark = pytest.mark.ray


@pytest.mark.timeout(280)
def test_a_run_waits_for_nodes_that_the_autoscaler_starts_and_what_it_never_can_is_refused(
    cli: Cli, raybert_home: Path, tmp_path: Path
) -> None:
    encoder, data = make_encoder(tmp_path / "encoder"), write_reviews(tmp_path / "reviews.csv")
    recipe = ("finetune", f"encoder={encoder}", f"data.train={data}", "rows_per_step=8", "epochs=1", "max_length=32", "workers.cpus_each=2")
    with autoscaled(tmp_path, raybert_home, cpus=2, most=2) as address:
        there = ("--address", address, "--json")
        refused = cli(*recipe, "workers.count=3", *there, RAY_AUTH_MODE="disabled", timeout_s=60)
        assert refused.exit_code == 2, refused.err
        assert refused.error.startswith("6 CPUs wanted, the cluster has 0 on 1 node(s); lower workers.count or workers.cpus_each")
        assert refused.error.endswith("; its autoscaler has no nodes to start that would be enough")

        ran = cli(*recipe, "workers.count=2", *there, RAY_AUTH_MODE="disabled", timeout_s=180)
        assert ran.exit_code == 0, ran.err
        assert "for 2 × 2 CPUs: for nodes that are starting: " in ran.err
        assert "× worker" in ran.err
        assert ran.json["steps"] == 9  # 72 rows, 8 a step
    assert_no_processes(raybert_home)
