"""What the hardware decides: precision, attention, compilation, communication. Pure; the hardware comes in as data (from ``probe.py``).

Each decision carries its reason, and ``--dry-run`` prints both. A wish of the recipe that the hardware cannot fulfil is refused here, never
quietly replaced. Figures named "measured" are from two CPU cores; those for GPUs are published ones or the vendors', and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

from encoder.config import AttentionKind
from foundation.errors import ConfigError
from training.config import RunConfig

Precision = Literal["fp32", "bf16", "fp16"]
Capability = tuple[int, int]

BF16_SINCE: Capability = (8, 0)
"""Ampere: tensor cores for bf16, and the kernels of flash attention."""
TRITON_SINCE: Capability = (7, 0)
"""Volta: what ``torch.compile`` writes its GPU kernels for."""
ONE_NODE_BUCKET, MANY_NODES_BUCKET = 20_000_000, 50_000_000
"""Elements in a ZeRO bucket (times 4 bytes). DeepSpeed's 500 M would each be larger than a BERT, and leave nothing to overlap."""

T = TypeVar("T")


@dataclass(frozen=True)
class Hardware:
    """What one gang of workers runs on: its weakest worker, where they differ."""

    nodes: int = 1
    gpus_per_node: int = 0
    """That the gang uses; 0 trains on CPUs."""
    gpu: str | None = None
    """Its name."""
    capability: Capability | None = None
    """CUDA compute capability (major, minor)."""
    gpu_bytes: int = 0
    has_varlen: bool = False
    """Attention over rows of several documents without padding: ``torch.nn.attention.varlen`` or flash-attn."""
    has_native_bf16: bool = False
    """Of the CPU: AVX512_BF16, AMX or Arm's bf16. Without, bf16 is emulated, about 15 times slower than fp32 (measured)."""
    cores: int = 1
    """Of one node."""
    interconnect: Literal["nvlink", "none"] = "none"
    """Between the GPUs of a node."""

    @property
    def has_gpus(self) -> bool:
        """Whether it trains on GPUs."""
        return self.gpus_per_node > 0

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.nodes * self.gpus_per_node

    @property
    def place(self) -> str:
        """For messages: ``Tesla T4 (compute capability 7.5)`` or ``a CPU``."""
        return f"{self.gpu or 'a GPU'} (compute capability {_dotted(self.capability)})" if self.has_gpus else "a CPU"

    def reaches(self, capability: Capability) -> bool:
        """Whether it has GPUs of at least this capability."""
        return self.has_gpus and self.capability is not None and self.capability >= capability


@dataclass(frozen=True)
class Choice(Generic[T]):
    """One decision and its reason."""

    value: T
    reason: str


@dataclass(frozen=True)
class Decisions:
    """Everything that the hardware decides about a run."""

    precision: Choice[Precision]
    loss_scaling: Choice[bool]
    attention: Choice[AttentionKind]
    compile: Choice[bool]
    fused_optimiser: Choice[bool]
    overlap_comm: Choice[bool]
    """DeepSpeed reduces gradients while the backward pass goes on."""
    bucket_elements: Choice[int]
    """Gradients reduced, and parameters gathered, at once."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def decide(hardware: Hardware, recipe: RunConfig) -> Decisions:
    """All decisions for a recipe.

    Raises:
        ConfigError: The recipe asks for what this hardware cannot do; the message names the key.
    """
    chosen = precision(hardware, recipe.precision)
    return Decisions(
        precision=chosen,
        loss_scaling=loss_scaling(chosen.value),
        attention=attention_kind(hardware, chosen.value, recipe.attention, drops=recipe.may_drop_attention),
        compile=compilation(hardware, recipe.compile, parameters_are_sharded=recipe.has_sharded_parameters),
        fused_optimiser=Choice(True, "PyTorch has fused AdamW for CPUs and CUDA GPUs"),
        overlap_comm=overlap(hardware, stage=recipe.sharding.zero_stage),
        bucket_elements=bucket(hardware),
    )


def precision(hardware: Hardware, wanted: Literal["auto"] | Precision = "auto") -> Choice[Precision]:
    """The precision of forward and backward; weights, optimiser state, loss and reduced gradients are fp32 in any case.

    Raises:
        ConfigError: fp16 on a CPU, or bf16 on GPUs without tensor cores for it.
    """
    if wanted == "fp16" and not hardware.has_gpus:
        raise ConfigError("precision: found fp16 on a CPU, which has no units for it; use precision=auto, or give workers GPUs")
    if wanted == "bf16" and hardware.has_gpus and not hardware.reaches(BF16_SINCE):
        raise ConfigError(f"precision: found bf16 on {hardware.place}; native from {_dotted(BF16_SINCE)} on; use precision=fp16 or auto")
    if wanted == "bf16" and not hardware.has_gpus and not hardware.has_native_bf16:
        return Choice("bf16", "asked for; this CPU emulates it, about 15 times slower than fp32")
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if hardware.reaches(BF16_SINCE):
        return Choice("bf16", f"{hardware.place} has tensor cores for it, and the range of fp32 needs no loss scaling")
    if hardware.has_gpus:
        return Choice("fp16", f"{hardware.place} has no native bf16, which begins at {_dotted(BF16_SINCE)}")
    if hardware.has_native_bf16:
        # Runs on CPUs are small ones and tests: that they repeat on any number of workers is worth more than the speed.
        return Choice("fp32", "gangs of any size agree to 1e-5; bf16 is native here, 1.5 times as fast (measured), if asked for")
    return Choice("fp32", "this CPU has no native bf16 (AVX512_BF16, AMX); emulated, it is about 15 times slower")


def loss_scaling(chosen: Precision) -> Choice[bool]:
    """Whether losses are scaled up before the backward pass."""
    if chosen == "fp16":
        return Choice(True, "small gradients vanish in fp16's range; an overflow halves the scale and skips the step")
    return Choice(False, f"{chosen} has the range for gradients")


def attention_kind(
    hardware: Hardware, chosen: Precision, wanted: Literal["auto"] | AttentionKind = "auto", *, drops: bool = False
) -> Choice[AttentionKind]:
    """How documents in one row are kept apart.

    Args:
        hardware: Where.
        chosen: The precision decided.
        wanted: The recipe's wish.
        drops: Whether attention probabilities may be dropped out, which PyTorch's varlen kernel cannot.

    Raises:
        ConfigError: varlen where it cannot run.
    """
    lacking = None
    if not hardware.reaches(BF16_SINCE):
        lacking = f"{hardware.place} lacks the kernels, which begin at compute capability {_dotted(BF16_SINCE)}"
    elif chosen == "fp32":
        lacking = "its kernels take 16 bits, and precision is fp32"
    elif not hardware.has_varlen:
        lacking = "neither torch.nn.attention.varlen nor flash-attn is there"
    elif drops:
        lacking = "its kernel has no dropout, and dropout is not 0"
    if wanted == "varlen" and lacking:
        raise ConfigError(f"attention: found varlen, but {lacking}; use attention=auto")
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if not hardware.has_gpus:
        return Choice("runs", "on CPUs one call for each run of documents of equal length computes nothing that a mask would discard")
    if lacking:
        return Choice("block", f"SDPA with a mask that keeps documents apart; varlen cannot run: {lacking}")
    return Choice("varlen", "documents back to back, no padding and no mask")


def compilation(hardware: Hardware, wanted: Literal["auto", "on", "off"] = "auto", *, parameters_are_sharded: bool = False) -> Choice[bool]:
    """Whether ``torch.compile`` compiles the encoder."""
    if wanted != "auto":
        return Choice(wanted == "on", "asked for")
    if not hardware.has_gpus:
        # BERT 4 x 256, 8 x 128 tokens, fp32, 2 threads, alternating with eager, the best of 14 steps each on a shared machine.
        return Choice(False, "gains nothing on CPUs: a step took 0.221 s against 0.222 s (measured: BERT 4 x 256, 1,024 tokens, 2 cores)")
    if parameters_are_sharded:
        return Choice(False, "ZeRO 3 gathers parameters in hooks, at each of which a compiled graph breaks")
    if not hardware.reaches(TRITON_SINCE):
        return Choice(False, f"{hardware.place} is older than {_dotted(TRITON_SINCE)}, for which kernels can be compiled")
    return Choice(True, "fuses what is bound by memory: normalisation, GELU, dropout (not measured here)")


def overlap(hardware: Hardware, *, stage: int) -> Choice[bool]:
    """Whether ZeRO reduces gradients during the backward pass."""
    if not hardware.has_gpus:
        return Choice(False, "needs streams, which a CPU has not")
    if hardware.gpus == 1:
        return Choice(False, "one GPU has nobody to reduce with")
    if stage < 2:
        return Choice(False, "needs gradients that are partitioned: ZeRO 2 or 3")
    return Choice(True, "hides the reduction behind the backward pass")


def bucket(hardware: Hardware) -> Choice[int]:
    """Elements of a ZeRO bucket."""
    if hardware.nodes > 1 and hardware.has_gpus:
        return Choice(MANY_NODES_BUCKET, "fewer, longer messages between nodes, still several of them in a BERT")
    return Choice(ONE_NODE_BUCKET, "several buckets even in a small BERT, so that there is something to overlap")


def weakest(workers: Sequence[Hardware], *, nodes: int) -> Hardware:
    """What all workers can do: a gang computes alike everywhere.

    Args:
        workers: At least one; all with GPUs or all without.
        nodes: That they run on.
    """
    least = min(workers, key=lambda worker: (worker.capability or (0, 0), worker.gpu_bytes))
    return Hardware(
        nodes=nodes,
        gpus_per_node=max(worker.gpus_per_node for worker in workers),
        gpu=least.gpu,
        capability=least.capability,
        gpu_bytes=min(worker.gpu_bytes for worker in workers),
        has_varlen=all(worker.has_varlen for worker in workers),
        has_native_bf16=all(worker.has_native_bf16 for worker in workers),
        cores=min(worker.cores for worker in workers),
        interconnect="nvlink" if all(worker.interconnect == "nvlink" for worker in workers) else "none",
    )


def _dotted(capability: Capability | None) -> str:
    return ".".join(map(str, capability)) if capability else "unknown"
