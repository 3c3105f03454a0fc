"""Parts that are gathered in place are what torch's own all-gather makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import distributed

from training.gloo import gather_in_place

WORLD_SIZE = 3


def gathers(rank: int, rendezvous: str, numel: int) -> dict[str, bool]:
    """What one of three ranks finds: case to whether it has what torch's own gives."""
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=WORLD_SIZE)
    part = torch.arange(numel, dtype=torch.float32).add(1000 * rank).reshape(numel, 1)
    expected = torch.empty(WORLD_SIZE * numel)
    distributed.all_gather_single(expected, part.view(-1))

    apart = torch.full((WORLD_SIZE * numel,), -1.0)
    gather_in_place(apart, part)

    within = torch.full((WORLD_SIZE * numel,), -1.0)
    view = within.narrow(0, rank * numel, numel)
    view.copy_(part.view(-1))
    gather_in_place(within, view)

    later = [torch.full((WORLD_SIZE * numel,), -1.0, dtype=torch.float64) for _ in range(3)]
    works = [gather_in_place(one, part.double() + index, async_op=True) for index, one in enumerate(later)]
    for work in reversed(works):
        assert work is not None
        work.wait()

    pair = distributed.new_group([0, 2])
    among_two = torch.full((2 * numel,), -1.0)
    if rank != 1:
        gather_in_place(among_two, part, pair)
    distributed.barrier()
    distributed.destroy_process_group()
    return {
        "a part of its own": torch.equal(apart, expected),
        "a view of where it belongs": torch.equal(within, expected),
        "several at once": all(torch.equal(one, expected.double() + index) for index, one in enumerate(later)),
        "a group of some": rank == 1 or torch.equal(among_two, torch.cat([expected[:numel], expected[2 * numel :]])),
    }


def test_each_rank_holds_the_parts_of_all_in_the_order_of_ranks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.test_gloo", str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(WORLD_SIZE)]
    answers = [rank.communicate(timeout=120)[0] for rank in ranks]
    differing = [case for answer in answers for case, is_same in json.loads(answer).items() if not is_same]
    assert differing == []


if __name__ == "__main__":
    print(json.dumps(gathers(int(sys.argv[2]), f"file://{sys.argv[1]}/rendezvous", numel=1031)))
