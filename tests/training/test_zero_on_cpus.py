"""Parts that are gathered in place are what torch's own all-gather makes of them; a norm is that of all ranks' parts in fp64."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import distributed

from training.zero_on_cpus import gather_in_place, norm_over_ranks, square_sum

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

    gradient = torch.randn(WORLD_SIZE * numel, generator=torch.Generator().manual_seed(1)) * 1e-3
    padding = torch.full((5,), 7.0)
    padding._zero_padding = True  # type: ignore[attr-defined]
    one_part = [gradient.narrow(0, rank * numel, numel).view(-1, 1), padding]
    whole = float(torch.linalg.vector_norm(gradient.double()))
    found, of_two = float(norm_over_ranks(one_part, [], 2)), float(norm_over_ranks([torch.ones(4)] if rank else [], []))
    broken = norm_over_ranks([torch.full((3,), float("inf") if rank == 1 else 1.0)], [])

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
        "a norm": abs(found / whole - 1) < 1e-6,
        "of ranks of which one has nothing": abs(of_two - 8**0.5) < 1e-6,
        "one that is not finite": float(broken) == -1.0,
        "a group of some": rank == 1 or torch.equal(among_two, torch.cat([expected[:numel], expected[2 * numel :]])),
    }


def test_each_rank_holds_the_parts_of_all_in_the_order_of_ranks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.test_zero_on_cpus", str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(WORLD_SIZE)]
    answers = [rank.communicate(timeout=120)[0] for rank in ranks]
    differing = [case for answer in answers for case, is_same in json.loads(answer).items() if not is_same]
    assert differing == []


def test_squares_of_millions_are_summed_as_in_fp64() -> None:
    tensor = torch.randn(3_000_001, generator=torch.Generator().manual_seed(2))
    assert abs(float(square_sum(tensor) / tensor.double().square().sum()) - 1) < 1e-7
    assert [float(square_sum(torch.tensor(values))) for values in ([], [3.0, 4.0])] == [0.0, 25.0]


if __name__ == "__main__":
    print(json.dumps(gathers(int(sys.argv[2]), f"file://{sys.argv[1]}/rendezvous", numel=1031)))
