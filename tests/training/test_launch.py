"""What a run that failed says of it."""

from __future__ import annotations

import pytest

from training.launch import out_of_memory

RECIPE = {"tokens_per_microbatch": 4096, "workers": {"count": 2}}


def test_a_run_that_ray_ended_for_want_of_memory_names_the_node_and_what_to_lower() -> None:
    told = (
        "Training failed due to controller error:\n5 worker(s) were killed due to the node running low on memory. "
        "Memory on the node (IP: 10.0.0.7, ID: 95475) was 22.31GB used / 23.54GB limit (0.947807)\nOOM kill reason: more\n"
    )
    reason = out_of_memory(told, RECIPE)
    assert reason is not None
    assert reason.startswith("node 10.0.0.7 ran out of memory (22.31 of 23.54 GB were taken")
    assert reason.endswith("lower tokens_per_microbatch (4,096 now) or the number of workers")


@pytest.mark.parametrize("told", ["", "ValueError: no memory of it", "Memory on the node"])
def test_other_failures_are_not_taken_for_it(told: str) -> None:
    assert out_of_memory(told, RECIPE) is None
