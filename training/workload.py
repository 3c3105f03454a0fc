"""What a step of a recipe is, from rows sampled from its training data: tokens, micro-batches, how much of them is read. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.checks import TokenCounter
from corpus.labelled import LabelledSplit
from corpus.positions import BatchSchedule, constant, linear_ramp, position
from corpus.shards import PackedRows
from encoder.config import AttentionKind
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.division import Limits, microbatches_of_ranks
from training.flops import attended_length

_SAMPLED_ROWS = 512
_SAMPLED_STEPS = 8


@dataclass(frozen=True)
class Workload:
    """A step, in the mean over some that were drawn from the sampled rows."""

    tokens: float
    """Real ones, of all workers, in the mean over the run's steps."""
    attended: float
    """Tokens that one attends to in the mean; padding included, where rows are padded."""
    asked_share: float
    """Of tokens, whose last hidden state is read; in the mean over the run."""
    mask_share: float
    """Of tokens, whose vocabulary logits are computed; 0 in fine-tuning."""
    microbatches: int
    """Of each worker; the most of any step drawn."""
    microbatch_tokens: int
    """Of the largest of a worker, padding included where rows are padded."""
    microbatch_asked: int


def batches(recipe: RunConfig) -> BatchSchedule:
    """Rows of each step."""
    ramp = recipe.batch_ramp if isinstance(recipe, PretrainConfig) else None
    if ramp is None:
        return constant(recipe.rows_per_step)
    return linear_ramp(ramp.first_rows, recipe.rows_per_step, increment=ramp.increment, over_rows=ramp.over_rows)


def limits_of(recipe: RunConfig, attention: AttentionKind) -> Limits:
    """What one worker computes at once."""
    return Limits(recipe.tokens_per_microbatch, recipe.rows_per_microbatch, is_padded=attention == "padded")


def workload(recipe: RunConfig, steps: int, rows: Sequence[int], documents: Sequence[int], attention: AttentionKind) -> Workload:
    """Draw steps from sampled rows, and divide them as the loop does.

    Args:
        recipe: The recipe.
        steps: Of the run.
        rows: Tokens of each sampled row.
        documents: Tokens of each document in them; of labelled rows they are the same.
        attention: How documents are kept apart.
    """
    noise = np.random.default_rng(0)
    limits = limits_of(recipe, attention)
    workers, counts, largest = recipe.workers.most, [], 0
    for _ in range(_SAMPLED_STEPS):
        lengths = noise.choice(np.asarray(rows), size=recipe.rows_per_step).tolist()
        dealt = microbatches_of_ranks(lengths, workers, limits)
        counts.append(len(dealt[0]))
        for micro in (micro for rank in dealt for micro in rank):
            of_each = [lengths[member] for member in micro.members]
            largest = max(largest, max(of_each) * len(of_each) if limits.is_padded else sum(of_each))
    first, last = _mask_shares(recipe)
    share = (first + last) / 2
    one_a_document = len(documents) / sum(documents)
    return Workload(
        tokens=float(np.mean(rows)) * position(steps, batches(recipe)) / steps,
        attended=max(documents) if limits.is_padded else attended_length(documents),
        asked_share=share or one_a_document,
        mask_share=share,
        microbatches=max(counts),
        microbatch_tokens=largest,
        microbatch_asked=max(1, round((max(first, last) or one_a_document) * largest)),
    )


def _mask_shares(recipe: RunConfig) -> tuple[float, float]:
    """At the first step and at the last."""
    if not isinstance(recipe, PretrainConfig):
        return 0.0, 0.0
    return recipe.mask_share, recipe.masking.final_share or recipe.mask_share


def packed_lengths(packed: PackedRows) -> tuple[list[int], list[int]]:
    """Tokens of each row and of each document in a sample of packed rows, spread evenly over them."""
    rows = [packed.row(number) for number in spread(len(packed)).tolist()]
    return [len(row.ids) for row in rows], [int(size) for row in rows for size in np.diff(np.append(row.starts, len(row.ids)))]


def labelled_lengths(recipe: FinetuneConfig, split: LabelledSplit, count: TokenCounter) -> list[int]:
    """Tokens of a sample of labelled rows, as the model gets them."""
    sampled = spread(len(split)).tolist()
    texts = [split.texts[row] for row in sampled]
    pairs = None if split.pairs is None else [split.pairs[row] for row in sampled]
    return np.minimum(count(texts, pairs), recipe.max_length).tolist()  # type: ignore[no-any-return]


def spread(rows: int) -> npt.NDArray[np.int64]:
    """Numbers of a sample of so many rows, evenly over them."""
    return np.unique(np.linspace(0, rows - 1, _SAMPLED_ROWS).astype(np.int64))
