"""Bytes that one worker holds while it trains, by formula: model states as ZeRO divides them, activations, logits, communication. Pure.

Counted are tensors at the two moments when most of them live: when the backward pass begins, with all activations and nothing of the
gradient, and when it ends, with all of the gradient and no activations. The parts were taken from what autograd saves (transformers'
layers and our attention, fp32 and bf16) and the sums compared with torch's own record of a step's allocations. How much more than its
tensors a process holds is the allocator's affair: ``resident``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from encoder.config import AttentionKind
from training.flops import Dimensions
from training.optimiser_config import Offload

STAGES = (0, 1, 2, 3)
_FP32, _FP16 = 4, 2
_MOMENTS = 2
_LOGITS_AT_ONCE = 4
"""Logits, their log-softmax, and the gradients of both, when the backward pass begins."""
_SHORT = 100
"""Tokens attended to, up to which attention on CPUs is spelt out (``encoder/short_attention.py``)."""

_CODE = 85_000_000
"""Pages of libraries and data that come in while a worker trains."""
_HELD_PER_BYTE: Mapping[int | None, float] = {None: 1.37, 0: 1.68, 1: 1.74, 2: 1.86, 3: 1.66}
"""By stage, None for the torch engine: what a process on a CPU holds for each byte of tensors. glibc keeps what was freed and cuts it up
(``memory.py``), and DeepSpeed's communication keeps buffers. Measured after 8 steps: 4 x 256, 4 x 512 and 6 x 384, 2,048 tokens a worker,
vocabulary 30,522, one worker or two, on an AMD EPYC; stages 1 to 3 on an Intel Xeon with AVX-512 (4 x 256 and 4 x 512), which at stage 0
holds 3 to 6 % more. Medians of three lie up to 9 % beside it, single runs up to 20 %. What steps of ever new sizes cut up grows with their
number: ZeRO-2, 4 x 256, held 0.77 to 0.91 GB after 8 steps and 0.92 to 1.22 after 60, of which 0.68 stayed where blocks of 4 MiB and more
were mapped each anew, at a fifth of the speed."""
_CUDA_CONTEXT = 500_000_000
_HELD_PER_BYTE_ON_GPUS = 1.1
"""Assumed, not measured: the caching allocator's waste."""


@dataclass(frozen=True)
class Microbatch:
    """The most that one worker computes at once."""

    tokens: int
    """Padding included, where rows are padded."""
    asked: int
    """Tokens whose last hidden state is read: the masked ones, or one a document."""
    attended: float
    """Tokens that one attends to in the mean."""
    outputs: int
    """Logits for each that is asked for: the vocabulary, or the classes."""


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    attention: AttentionKind
    is_16_bit: bool = False
    has_dropout: bool = False
    recomputes: bool = False
    """Activation checkpointing."""
    microbatches: int = 1
    """In a step of a worker; from the second on, the gradient of those before is there."""
    bucket_elements: int = 20_000_000
    offload: Offload = "none"
    """Counts for GPUs alone."""
    disk_buffer_elements: int = 0
    """What is in memory of optimiser states that lie on a disk; 0: they do not."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one worker, by what they are for. The parts are those of the moment when most is held."""

    states: int
    """Parameters and optimiser state, and what ZeRO keeps beside them from step to step."""
    gradients: int
    activations: int
    logits: int
    communication: int
    """Buckets, and parameters gathered."""
    resident: int
    """What the process holds in all: of its node's memory on a CPU, of its device's on a GPU."""
    host: int = 0
    """Besides, of its node's memory, of a worker with a GPU: what is offloaded, and the copy that checkpoints are written from."""

    @property
    def tensors(self) -> int:
        """The sum of the parts."""
        return self.states + self.gradients + self.activations + self.logits + self.communication


def footprint(
    stage: int | None, parameters: int, workers: int, size: Dimensions, micro: Microbatch, way: Way, *, on_gpu: bool
) -> Footprint:
    """Bytes of one worker at a ZeRO stage.

    Args:
        stage: 0 to 3; None is the torch engine.
        parameters: Of the whole model; all of them learn.
        workers: That share the states.
        size: The encoder.
        micro: The largest micro-batch.
        way: How it is computed.
        on_gpu: Whose allocator holds it.
    """
    whole = _FP32 * parameters
    way = way if on_gpu and stage else replace(way, offload="none")
    active, logits = activations(size, micro, way), _logits(micro, way)
    cast = _FP16 * parameters if way.is_16_bit else 0
    held, gradient, at_once = _held(stage, whole, workers, way), _gradient(stage, whole, workers, way), _at_once(stage, whole, way)
    embedding = _FP32 * size.vocabulary * size.hidden
    of_output = embedding if micro.outputs == size.vocabulary else 0
    earlier = gradient if way.microbatches > 1 else 0
    begin = Footprint(held, earlier, active + cast, logits, at_once if stage == 3 else 0, 0)
    # The output matrix has its gradient before the activations of any layer are given back, and at stages 1 and 2 lies in a bucket then.
    first = Footprint(held, max(earlier, of_output), active + cast, 0, at_once if stage else 0, 0)
    end = Footprint(held, max(gradient, of_output) + embedding, cast, 0, at_once, 0)
    most = max((begin, first, end), key=lambda moment: moment.tensors)
    factor = _HELD_PER_BYTE_ON_GPUS if on_gpu else _HELD_PER_BYTE[stage]
    resident = round((_CUDA_CONTEXT if on_gpu else _CODE) + factor * most.tensors)
    copy = round((1 + _MOMENTS) * whole / workers)  # of a checkpoint; at stage 0, too, each rank writes a part
    host = {"host": _offloaded(whole, workers, way) + copy} if on_gpu else {"resident": resident + copy}
    return Footprint(**{**vars(most), "resident": resident, **host})


def state_bytes(stage: int | None, parameters: int, workers: int) -> int:
    """Bytes of model states on one worker in fp32 (Rajbhandari et al. 2020, "ZeRO", section 5).

    Parameters, gradients and two moments are 4 bytes each. ZeRO 1 divides moments (and adds an fp32 partition of the parameters), 2
    gradients too, 3 parameters too.
    """
    whole = parameters * _FP32
    if not stage:
        return (2 + _MOMENTS) * whole
    share = whole / workers
    weights, gradients = share if stage == 3 else whole, whole if stage == 1 else share
    return round(weights + gradients + (1 + _MOMENTS) * share)


def activations(size: Dimensions, micro: Microbatch, way: Way) -> int:
    """Bytes that the forward pass leaves for the backward pass, logits left out."""
    layer = _layer(size, micro, way)
    is_whole = way.attention == "padded"
    last = layer if is_whole else layer * micro.asked / micro.tokens + _element(way) * 2 * size.hidden * micro.tokens
    embeddings = micro.tokens * (2 * _FP32 * size.hidden + 3 * 8)
    head = micro.asked * 4 * _FP32 * size.hidden
    if way.recomputes:
        return round(embeddings + head + size.layers * _FP32 * size.hidden * micro.tokens + layer)
    return round(embeddings + head + (size.layers - 1) * layer + last)


def _layer(size: Dimensions, micro: Microbatch, way: Way) -> float:
    """Bytes that one layer leaves for its backward pass."""
    width, element = size.hidden, _element(way)
    # Inputs of matrices; in 16 bits queries, keys and values have a cast of their own each where their matrices are three.
    inputs = (6 if way.is_16_bit and not size.is_gated else 3) * width
    spelt_out = way.attention in ("runs", "block") and (way.has_dropout or (way.attention == "runs" and micro.attended <= _SHORT))
    scores = size.heads * micro.attended * (3 if way.has_dropout else 1) if spelt_out else width  # fused attention keeps its output
    kept = inputs + 3 * width + scores + (3 if size.is_gated else 2) * size.intermediate
    if size.is_gated:
        kept += 3 * width  # queries, keys and values before positions are rotated in, one tensor
    if way.has_dropout:
        kept += width + size.intermediate if size.is_gated else 2 * width
    return micro.tokens * (2 * _FP32 * width + element * kept)  # the two normalisations keep fp32


def _logits(micro: Microbatch, way: Way) -> int:
    return micro.asked * micro.outputs * (_LOGITS_AT_ONCE * _FP32 + (_FP16 if way.is_16_bit else 0))


def _element(way: Way) -> int:
    return _FP16 if way.is_16_bit else _FP32


def _held(stage: int | None, whole: int, workers: int, way: Way) -> int:
    """From step to step."""
    if not stage:
        return (1 + _MOMENTS) * whole
    share = whole / workers
    if way.offload != "none":
        return whole if stage < 3 else round(share if way.offload == "optimiser" else 0) + _FP32 * way.bucket_elements
    if stage < 3:
        return round(whole + (1 + _MOMENTS) * share)
    # Parameters, their fp32 partition, two moments, and the gradients' place, which stays; so does the bucket.
    return round((3 + _MOMENTS) * share) + _FP32 * way.bucket_elements


def _gradient(stage: int | None, whole: int, workers: int, way: Way) -> int:
    """Of a whole step, where it is not among what is held from step to step."""
    return whole if stage in (None, 0, 1) else 0 if stage == 3 or way.offload != "none" else round(whole / workers)


def _offloaded(whole: int, workers: int, way: Way) -> int:
    """A worker's share of the fp32 partition, its gradient and the moments, and of the parameters if they go too."""
    if way.offload == "none":
        return 0
    states, share = (2 + _MOMENTS) * whole / workers, whole / workers
    if way.disk_buffer_elements:
        states = min(states, _FP32 * way.disk_buffer_elements)
    return round(states + (share if way.offload == "all" else 0))


def _at_once(stage: int | None, whole: int, way: Way) -> int:
    """What communication holds at once: the gradient in one piece, buckets of it, or all parameters."""
    if stage is None:
        return 0
    return whole if stage in (0, 3) else _FP32 * way.bucket_elements
