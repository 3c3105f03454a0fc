"""From a recipe to the things that the loop runs: data, objective, model, engine. Used by Ray Train workers and by a study's trials.

Everything here happens in one process; communication, where there is any, is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpus.labelled import LabelledData, LabelledSplit
from corpus.masks import LinearShare, Masking, Spans
from corpus.order import RowOrder, StepRows
from corpus.shards import PackedRows
from encoder.config import AttentionKind
from encoder.loading import check_vocabulary, load_tokenizer, longest_input
from encoder.output_bias import answer_with_frequencies
from encoder.padding_free import check_same
from foundation.errors import ConfigError, EncoderError
from foundation.progress import say
from training.beginnings import first_classifier, first_masked_lm, output_names
from training.checkpoint import Checkpoint
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.division import Limits, microbatches_of_rank
from training.engine import TorchEngine
from training.hardware import Decisions
from training.kept_tokens import Keeper, tokenizer_digest
from training.loop import Engine
from training.objectives import LengthRamp, MaskedLanguageModel, Supervised
from training.optimisers import freeze
from training.planning import read_labelled, total_steps
from training.preparation import first_loss_scale, prepare
from training.schedule import learning_rate
from training.tasks import task_of
from training.vocabulary import check_vocabularies
from training.workload import batches, limits_of


@dataclass(frozen=True)
class Assembly:
    """One run's parts, before an engine is chosen."""

    objective: Any
    """Training rows; ``loader.Objective`` and ``objectives.ModelObjective`` in one."""
    validation: Any
    """The same kind of objective over held-out rows."""
    model: Any
    tokenizer: Any
    steps: int
    data_fingerprint: str
    attention: AttentionKind
    """How documents are kept apart."""
    labels: tuple[str, ...] = ()
    order: RowOrder | None = None
    """Of the training rows; None is every row once an epoch."""


def assemble(
    recipe: RunConfig,
    location: str,
    data: LabelledData | None = None,
    *,
    attention: AttentionKind = "runs",
    keeper: Keeper | None = None,
) -> Assembly:
    """Read data and build objective and model.

    Args:
        recipe: A pretrain or finetune recipe.
        location: The encoder's folder or hub id (the recipe's REF, resolved).
        data: Labelled rows, if the caller has read them already.
        attention: How documents are kept apart, as ``hardware.py`` decided.
        keeper: Where token ids of labelled rows may lie, and are left for the next time.

    Raises:
        EncoderError: The model cannot be computed so, and the recipe does not leave that open.
    """
    if isinstance(recipe, PretrainConfig):
        return _pretraining(recipe, location, attention)
    assert isinstance(recipe, FinetuneConfig)
    return _finetuning(recipe, location, data or read_labelled(recipe), attention, keeper)


def _finetuning(recipe: FinetuneConfig, location: str, data: LabelledData, attention: AttentionKind, keeper: Keeper | None) -> Assembly:
    tokenizer = load_tokenizer(location)
    model = first_classifier(recipe, location, data)
    freeze(model, recipe.freeze)
    check_vocabulary(model.config, tokenizer, location)
    longest_input(model.config, recipe.max_length, location)
    kind, task = _borne(recipe, model, attention, len(tokenizer)), task_of(recipe, data)

    # Before the first call, which leaves its limit in the tokenizer.
    follows_from = (data.fingerprint, tokenizer_digest(tokenizer), str(recipe.max_length)) if keeper else ()

    def objective(name: str, split: LabelledSplit) -> Supervised:
        make = partial(tokenised, tokenizer, split, recipe.max_length)
        ids, types = keeper.find(make, *follows_from, name) if keeper else make()
        return Supervised(ids, split.labels, split.ids, task=task, attention=kind, types=types)

    return Assembly(
        objective=objective("train", data.train),
        validation=objective("validation", data.validation),
        model=model,
        tokenizer=tokenizer,
        steps=total_steps(recipe, len(data.train)),
        data_fingerprint=data.fingerprint,
        attention=kind,
        labels=output_names(data),
    )


def tokenised(tokenizer: Any, split: LabelledSplit, max_length: int) -> tuple[list[Any], list[Any] | None]:
    """Token ids of each row, cut to ``max_length`` (of a pair the longer text first), and token types where there are pairs."""
    found = tokenizer(split.texts, split.pairs, truncation=True, max_length=max_length, return_attention_mask=False)
    ids = [np.asarray(row, dtype=np.int32) for row in found["input_ids"]]
    if split.pairs is None or "token_type_ids" not in found:
        return ids, None
    return ids, [np.asarray(row, dtype=np.int8) for row in found["token_type_ids"]]


def _borne(recipe: RunConfig, model: Any, attention: AttentionKind, vocabulary: int) -> AttentionKind:
    """``attention`` if the model can be computed so; padded rows, if it cannot and the recipe leaves that open.

    Raises:
        EncoderError: The model cannot be computed as the recipe asks, or in no way.
    """
    if attention == "varlen":
        return attention  # its kernels need the GPU, where the model is not yet
    check = partial(check_same, model, vocabulary=vocabulary, is_classifier=isinstance(recipe, FinetuneConfig))
    if attention != "padded":
        try:
            check(attention)
        except EncoderError as error:
            if recipe.attention != "auto":
                raise EncoderError(f"{error}; set attention=padded") from None
            say(f"{error}; rows are padded")
        else:
            return attention
    check("padded")
    return "padded"


def _pretraining(recipe: PretrainConfig, location: str, attention: AttentionKind) -> Assembly:
    packed = PackedRows.open(Path(recipe.data))
    tokenizer = load_tokenizer(str(packed.tokenizer_folder))
    vocabulary = packed.manifest.tokenizer.vocabulary
    if recipe.new_model is None:
        check_vocabularies(recipe, packed, load_tokenizer(location).get_vocab(), tokenizer.get_vocab())
    model = first_masked_lm(recipe, location, tokenizer, vocabulary, dropout=recipe.dropout)
    if recipe.new_model is not None and recipe.new_model.output_bias == "token_frequencies":
        answer_with_frequencies(model, packed.token_counts())
    longest_input(model.config, packed.sequence_length, location, f"sequence_length of {recipe.data}")
    kind = _borne(recipe, model, attention, vocabulary)

    continues = _continuing(tokenizer, vocabulary, recipe.data) if recipe.masking.whole_words else None
    spans = Spans() if recipe.masking.spans else None
    masking = Masking(recipe.masking.mask, recipe.masking.random, spans, recipe.masking.predictions_per_row)

    wanted = recipe.length_ramp
    ramp = LengthRamp(wanted.first_tokens, wanted.over_steps, packed.sequence_length) if wanted else None

    def objective(rows: PackedRows) -> MaskedLanguageModel:
        return MaskedLanguageModel(
            rows,
            mask_share=mask_share(recipe),
            masking=masking,
            continues=continues,
            seed=recipe.seed,
            mask_id=tokenizer.mask_token_id,
            # Not the model's: its embeddings may be padded beyond the last token.
            vocabulary=vocabulary,
            attention=kind,
            ramp=ramp,
            separator=tokenizer.sep_token_id if recipe.next_sentence else None,
        )

    return Assembly(
        objective=objective(packed),
        validation=objective(PackedRows.open(Path(recipe.data), "validation")),
        model=model,
        tokenizer=tokenizer,
        steps=recipe.steps,
        data_fingerprint=packed.manifest.fingerprint,
        attention=kind,
        order=packed.order(recipe.seed, short_first=recipe.curriculum == "short_first"),
    )


def mask_share(recipe: PretrainConfig) -> float | LinearShare:
    """The share of tokens that is predicted, or how it changes."""
    final = recipe.masking.final_share
    return recipe.mask_share if final is None else LinearShare(recipe.steps, recipe.mask_share, final)


def _continuing(tokenizer: Any, vocabulary: int, where: str) -> Any:
    """(V,) which tokens continue a word."""
    continues = np.zeros(vocabulary, dtype=np.bool_)
    continues[[number for word, number in tokenizer.get_vocab().items() if word.startswith("##")]] = True
    if not continues.any():
        raise ConfigError(f"masking.whole_words: {where} has no WordPiece vocabulary, so its tokens do not say which word they continue")
    return continues


def torch_engine(
    assembly: Assembly, recipe: RunConfig, decisions: Decisions, *, device: torch.device, checkpoint: Checkpoint | None
) -> TorchEngine:
    """The reference engine over an assembly."""
    prepare(assembly.model, recipe, decisions)
    return TorchEngine(
        assembly.model,
        assembly.objective,
        recipe.optimiser,
        device=device,
        checkpoint=checkpoint,
        precision=decisions.precision.value,
        loss_scale=first_loss_scale(decisions, checkpoint),
    )


def engine_of(
    recipe: RunConfig, assembly: Assembly, decisions: Decisions, *, device: torch.device, checkpoint: Checkpoint | None, disk: Path | None
) -> Any:
    """The recipe's engine over an assembly; DeepSpeed's needs the process group, and ``disk`` is where this rank offloads to."""
    if recipe.engine == "torch":
        return torch_engine(assembly, recipe, decisions, device=device, checkpoint=checkpoint)
    from training.deepspeed_json import deepspeed_config
    from training.zero import DeepSpeedEngine

    prepare(assembly.model, recipe, decisions)
    return DeepSpeedEngine(
        assembly.model,
        assembly.objective,
        recipe.optimiser,
        deepspeed_config(recipe, decisions, disk),
        device=device,
        checkpoint=checkpoint,
        precision=decisions.precision.value,
        loss_scale=first_loss_scale(decisions, checkpoint),
    )


def rate_of(recipe: RunConfig, steps: int) -> Callable[[int], float]:
    """The recipe's learning rate as a function of the step."""
    return lambda step: learning_rate(step, steps=steps, config=recipe.schedule)


def loop_arguments(recipe: RunConfig, steps: int, attention: AttentionKind) -> dict[str, Any]:
    """What ``loop.train`` takes from a recipe."""
    return {
        "batches": batches(recipe),
        "rows_per_step": recipe.rows_per_step,
        "limits": limits_of(recipe, attention),
        "prefetch_steps": recipe.prefetch_steps,
        "seed": recipe.seed,
        "learning_rate": rate_of(recipe, steps),
        "seed_noise": torch.manual_seed,
        "guard": recipe.guard,
    }


def evaluate(engine: Engine, validation: Any, limits: Limits) -> dict[str, float]:
    """Metrics over all held-out rows, the same on every rank; collective.

    Held-out and training objectives count alike, so a batch of one can be computed by the engine that wraps the other.
    """
    everything = StepRows(np.zeros(validation.rows, dtype=np.int64), np.arange(validation.rows, dtype=np.int64))
    plan = microbatches_of_rank(validation.lengths(everything), engine.rank, engine.world_size, limits)
    sums: list[float] = []
    for micro in plan:
        counts = engine.evaluate(validation.batch(everything, micro.members, micro.weight))
        sums = [a + b for a, b in zip(sums, counts, strict=True)] if sums else list(counts)
    metrics: dict[str, float] = validation.metrics(engine.total(sums))
    return metrics


def is_stale(evaluations: Sequence[tuple[int, float]], *, patience: int | None, order: str) -> bool:
    """Whether the last ``patience`` evaluations brought nothing better than those before; pure, so that a resumed run stops alike."""
    if patience is None or len(evaluations) <= patience:
        return False
    best = max if order == "max" else min
    scores = [score for _, score in evaluations]
    earlier, recent = best(scores[:-patience]), best(scores[-patience:])
    return recent <= earlier if order == "max" else recent >= earlier
