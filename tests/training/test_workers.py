"""How many workers a recipe asks for: one size, or elastic."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.topology import Node, Topology, check_fits
from foundation.errors import ClusterError
from tests.support.tiny import make_encoder, write_reviews
from training.config import FinetuneConfig, PretrainConfig, WorkersConfig
from training.planning import plan


@pytest.mark.parametrize(
    ("given", "least", "most", "told"),
    [
        ({}, 1, 1, "1 worker"),
        ({"count": 3}, 3, 3, "3 workers"),
        ({"min": 1, "max": 3}, 1, 3, "1 to 3 workers"),
        ({"min": 2, "max": 2}, 2, 2, "2 workers"),
    ],
)
def test_a_gang_has_a_least_and_a_most_size(given: dict[str, int], least: int, most: int, told: str) -> None:
    workers = WorkersConfig.model_validate(given)
    assert (workers.least, workers.most, workers.told, workers.is_elastic) == (least, most, told, least != most)
    assert WorkersConfig.model_validate(workers.model_dump(mode="json")) == workers


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"min": 1}, "min is 1 and max None; an elastic gang has both"),
        ({"max": 4}, "min is None and max 4"),
        ({"min": 3, "max": 2}, "min is 3, more than max, 2"),
        ({"count": 2, "min": 1, "max": 2}, "leave it out, or set workers.count=null"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(given: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        WorkersConfig.model_validate(given)


def test_an_elastic_gang_is_sharded_at_every_size_and_needs_an_engine_that_can() -> None:
    elastic = PretrainConfig.model_validate({"data": "built", "workers": {"min": 1, "max": 2}})
    assert elastic.engine == "deepspeed"
    with pytest.raises(ValueError, match="workers asks for 1 to 2 workers"):
        PretrainConfig.model_validate({"data": "built", "workers": {"min": 1, "max": 2}, "sharding": {"engine": "torch"}})


def test_a_plan_tells_what_an_elastic_run_takes_at_most_and_needs_at_least(tmp_path: Path, raybert_home: Path) -> None:
    tree = {"encoder": str(make_encoder(tmp_path / "encoder", layers=1)), "data": {"train": str(write_reviews(tmp_path / "r.csv", 40))}}
    workers = {"min": 1, "max": 3, "cpus_each": 2}
    planned = plan("finetune", FinetuneConfig.model_validate(tree | {"max_length": 32, "workers": workers}))
    assert (planned.cpus, planned.cpus_at_least) == (6, 2)
    assert planned.state_bytes_per_worker == 20 * (planned.parameters or 0), "one worker may have to hold all of ZeRO 2"


def test_a_cluster_without_room_for_the_fewest_workers_says_what_to_lower() -> None:
    cluster = Topology((Node("a", 1.0, 0.0), Node("b", 1.0, 0.0)))
    with pytest.raises(ClusterError, match=r"3 CPUs wanted, the cluster has 2 on 2 node\(s\); lower workers.min"):
        check_fits(cluster, cpus=3, cpus_each=1, lower="workers.min or workers.cpus_each")
