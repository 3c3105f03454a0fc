"""Arithmetic of what fits on a cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.topology import Node, Topology, check_fits, topology_of
from foundation.errors import ClusterError

nodes = st.lists(
    st.builds(
        Node,
        node_id=st.text("abc", min_size=1),
        cpus=st.integers(0, 64).map(float),
        gpus=st.integers(0, 8).map(float),
        is_alive=st.booleans(),
    ),
    max_size=6,
).map(tuple)


@given(nodes)
def test_dead_nodes_give_nothing(entries: tuple[Node, ...]) -> None:
    topology = Topology(entries)
    assert topology.cpus == sum(node.cpus for node in entries if node.is_alive)
    assert topology.gpus == sum(node.gpus for node in entries if node.is_alive)


@given(nodes, st.integers(0, 400), st.integers(0, 60))
def test_what_fits_passes_and_nothing_else(entries: tuple[Node, ...], cpus: int, gpus: int) -> None:
    topology = Topology(entries)
    if cpus <= topology.cpus and gpus <= topology.gpus:
        check_fits(topology, cpus=cpus, gpus=gpus)
    else:
        with pytest.raises(ClusterError):
            check_fits(topology, cpus=cpus, gpus=gpus)


def test_a_refusal_says_what_there_is() -> None:
    topology = Topology((Node("a", 4.0), Node("b", 2.0), Node("c", 8.0, is_alive=False)))
    with pytest.raises(ClusterError, match=r"7 CPUs wanted, the cluster has 6 on 2 node\(s\)"):
        check_fits(topology, cpus=7)
    with pytest.raises(ClusterError, match="1 GPUs wanted, the cluster has 0"):
        check_fits(topology, gpus=1)


def test_ray_s_list_of_nodes_is_read() -> None:
    entries = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0, "memory": 1e9}},
        {"NodeID": "b", "Alive": False, "Resources": {}},
    ]
    assert topology_of(entries) == Topology((Node("a", 2.0, 1.0), Node("b", 0.0, is_alive=False)))
