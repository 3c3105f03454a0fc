"""``DeepSpeedEngine``: the same contract as ``TorchEngine``, states sharded by ZeRO. The only file that imports DeepSpeed.

Our loop owns accumulation (``managed_gradient_accumulation: false``), the learning rate and the checkpoint's form. The JSON comes from
``deepspeed_json.py``.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from encoder.last_layer import compute_alike
from training.checkpoint import Checkpoint, Fragment, write_fragments
from training.disk_offload import in_memory
from training.engine import WithObjective, clipped, moved, unscale
from training.hardware import Precision
from training.loop import Applied
from training.loss_scale import LossScale
from training.native_op import one_at_a_time
from training.objectives import Batch, ModelObjective
from training.optimiser_config import OptimiserConfig
from training.optimisers import Kind, kept_state, new_optimiser, restore_state, set_rates, state_kinds
from training.phases import Phases
from training.zero_on_cpus import gather_in_place, norm_over_ranks

_Place = tuple[str, int, int, int]
"""Parameter, start in it, offset in what is stepped, length."""


class _Clipping:
    """What stage 0 adds to an optimiser: there, DeepSpeed neither tells the gradient norm nor skips a gradient that is not finite.

    It sees gradients that are reduced already. DeepSpeed reads ``overflow`` and ``_global_grad_norm`` off its optimiser.
    """

    param_groups: list[dict[str, Any]]
    clip_norm = 0.0
    loss_scale: LossScale | None = None
    overflow = False
    _global_grad_norm: float | None = None

    def step(self, closure: Any = None) -> Any:
        """Clip and step, or skip."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if self.loss_scale:
            unscale(parameters, self.loss_scale)
        norm = clipped(parameters, self.clip_norm)
        self._global_grad_norm = norm
        self.overflow = not math.isfinite(norm)
        return None if self.overflow else super().step(closure)  # type: ignore[misc]


def _clipping(clip_norm: float) -> Callable[[Kind], Kind]:
    """Makes an optimiser's class one that clips."""
    return lambda kind: type(f"Clipping{kind.__name__}", (_Clipping, kind), {"clip_norm": clip_norm})


def lean_deepspeed() -> Any:
    """DeepSpeed's module, without three seconds of each worker's start that two of its features take which are not used here: its autotuner
    imports MLflow if that is there, and its Muon, imported by the first gradient, has torch's whole compiler imported."""
    with _seems_missing("mlflow"):
        import deepspeed
    from deepspeed.runtime import compiler

    compiled, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer
    finally:
        compiler.compile = compiled
    return deepspeed


@contextmanager
def _seems_missing(module: str) -> Iterator[None]:
    """Let imports of a module fail within the block, unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def load_shared_memory_op() -> None:
    """Load the op by which processes of a CPU host communicate, built first where it is not yet; DeepSpeed then finds it loaded."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None and deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        _load(builder)


def load_disk_op() -> None:
    """Load the op by which states go to disks, built first where it is not yet (minutes).

    Raises:
        ImportError: libaio or its headers are missing.
        RuntimeError: It cannot be built.
    """
    lean_deepspeed()
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("AsyncIOBuilder")
    if builder is None or not builder.is_compatible():
        raise ImportError("no libaio, or no headers of it")
    _load(builder)


def _load(builder: Any) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    one_at_a_time(Path(_get_build_directory(builder.name, verbose=False)), builder.load)


class DeepSpeedEngine:
    """One rank of a ZeRO-sharded gang; the process group exists already (Ray Train makes it)."""

    def __init__(
        self,
        model: nn.Module,
        objective: ModelObjective,
        config: OptimiserConfig,
        rendered: Mapping[str, Any],
        *,
        device: torch.device,
        checkpoint: Checkpoint | None = None,
        precision: Precision = "fp32",
        loss_scale: LossScale | None = None,
    ) -> None:
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        deepspeed = lean_deepspeed()
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        if device.type == "cpu":
            load_shared_memory_op()
        self.phases = Phases()
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self.device = device
        self._stage = int(rendered["zero_optimization"]["stage"])
        self._takes_mean = rendered["gradient_allreduce_op"] == "mean"
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._parameters = dict(model.named_parameters())
        if checkpoint is not None:
            # Before ZeRO cuts the model up: afterwards every stage would need its own way to set parameters.
            checkpoint.load_parameters(model)
        if self._stage >= 2:
            compute_alike(model)
        wrapped = WithObjective(model.to(device), objective, precision)
        optimiser = new_optimiser(model, config, _clipping(config.clip_norm)) if self._stage == 0 else new_optimiser(model, config)
        self._kinds = state_kinds(model, optimiser)
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=wrapped, optimizer=optimiser, config=dict(rendered), dist_init_required=False
        )
        if device.type == "cpu":
            deepspeed.comm.comm.cdb.all_gather_function = gather_in_place
            if self._stage:
                self._zero.get_grad_norm_direct = norm_over_ranks
        if checkpoint is not None and checkpoint.has_moments():
            self._load_moments(checkpoint)
        self.loss_scale = loss_scale
        self._set_loss_scale()

    @property
    def _optimiser(self) -> torch.optim.Optimizer:
        """The plain optimiser inside ZeRO's wrapper (stage 0 has none)."""
        inner: torch.optim.Optimizer = self._zero if isinstance(self._zero, torch.optim.Optimizer) else self._zero.optimizer
        return inner

    def accumulate(self, batch: Batch, *, scale: float) -> float:
        """Forward and backward of one micro-batch. Where DeepSpeed averages over ranks, the sum is scaled up by their number."""
        self._engine.train()
        ranks = self.world_size if self._takes_mean else 1
        with self.phases("forward"):
            loss = self._engine(moved(batch, self.device)) * (scale * ranks)
        # At stages 1 to 3 ZeRO itself scales.
        factor = self.loss_scale.factor if self.loss_scale and self._stage == 0 else 1.0
        with self.phases("backward"):
            self._engine.backward(loss * factor, scale_wrt_gas=False)
        return float(loss.detach()) / ranks

    def apply(self, *, learning_rate: float) -> Applied:
        """Reduce, clip, step, clear."""
        set_rates(self._optimiser, learning_rate)
        with self.phases("optimiser"):
            self._engine.step()
        norm = self._engine.get_global_grad_norm()
        is_applied = bool(self._engine.was_step_applied())
        is_rescaled = not is_applied and self.loss_scale is not None and self.loss_scale.can_fall
        self.loss_scale = self.loss_scale.after(is_applied) if self.loss_scale else None
        self._set_loss_scale()
        return Applied(is_applied=is_applied, grad_norm=float(norm) if norm is not None else float("nan"), is_rescaled=is_rescaled)

    def discard(self) -> None:
        """Clear the gradient as DeepSpeed does after an overflow; it has no public call for that. No rank waits for another."""
        if self._stage == 0:
            self._engine.zero_grad()
            return
        zero = self._zero
        zero.zero_grad(set_to_none=True)
        zero.averaged_gradients.clear()
        if self._stage == 3:
            zero._pre_step()  # the next backward overwrites its buffers instead of adding to them
        else:
            zero.all_grad_tensors.clear()
            zero.micro_step_id = -1
        if getattr(zero, "cpu_offload", False):
            zero.reset_cpu_buffers()
            zero._offload_accumulated_param_ids = set()

    def _set_loss_scale(self) -> None:
        if self._stage == 0:
            self._zero.loss_scale = self.loss_scale
        elif self.loss_scale:
            # ZeRO scales losses, and unscales norms and gradients; scalers of its own would not be in our checkpoints.
            self._zero.override_loss_scale(self.loss_scale.factor)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        with self.phases("communication"):
            torch.distributed.all_reduce(tensor)
        return list(tensor.tolist())

    def evaluate(self, batch: Batch) -> list[float]:
        """Counts of one micro-batch in evaluation mode."""
        self._engine.eval()
        with torch.no_grad():
            counts: list[float] = self._engine(moved(batch, self.device), evaluating=True).tolist()
        return counts

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name to (unsharded) shape."""
        return dict(self._shapes)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the fragments that this rank owns."""
        copies = (replace(one, tensors={kind: tensor.clone() for kind, tensor in one.tensors.items()}) for one in self.fragments())
        return write_fragments(folder, self.rank, copies)

    def fragments(self) -> Iterator[Fragment]:
        """What this rank owns; no gathering. Of what lies on a disk a view is good until the next fragment is asked for."""
        for owner, places in self._stepped().values():
            with in_memory(self._zero, owner):
                for name, start, offset, length in places:
                    if self._stage == 0 and hash_rank(name, self.world_size) != self.rank:
                        continue  # every rank holds every tensor; each is written once
                    kept = {"param": owner, **kept_state(self._optimiser, owner, self._kinds[name])}
                    views = {kind: tensor.detach().reshape(-1).narrow(0, offset, length) for kind, tensor in kept.items()}
                    yield Fragment(name, start, views)
        for name, start, values in self._frozen():
            yield Fragment(name, start, {"param": values})

    def _load_moments(self, checkpoint: Checkpoint) -> None:
        for owner, places in self._stepped().values():
            with in_memory(self._zero, owner, is_changed=True):
                # Several parameters lie in one flat tensor; padding between them stays 0.
                tensors = {kind: torch.zeros_like(owner, dtype=torch.float32) for kind in self._kinds[places[0][0]]}
                for name, start, offset, length in places:
                    for kind, tensor in tensors.items():
                        tensor.reshape(-1).narrow(0, offset, length).copy_(checkpoint.read(kind, name, start, length))
                restore_state(self._optimiser, owner, tensors, checkpoint.progress.optimiser_steps)

    def _frozen(self) -> Iterator[tuple[str, int, torch.Tensor]]:
        """(name, start in the tensor, values) of what this rank writes of the parameters that nobody steps."""
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                continue
            if self._stage < 3:
                if hash_rank(name, self.world_size) == self.rank:
                    yield name, 0, parameter.detach().reshape(-1)
            else:
                piece = parameter.ds_tensor.detach().reshape(-1)  # type: ignore[attr-defined]
                start = self.rank * piece.numel()
                length = max(0, min(piece.numel(), parameter.ds_numel - start))  # type: ignore[attr-defined]
                if length:
                    yield name, start, piece.narrow(0, 0, length)

    def _stepped(self) -> dict[int, tuple[torch.Tensor, list[_Place]]]:
        """Each fp32 tensor that this rank's optimiser steps, and what of it is which parameter's; by the tensor's id."""
        found: dict[int, tuple[torch.Tensor, list[_Place]]] = {}
        for name, start, owner, offset, length in self._places():
            found.setdefault(id(owner), (owner, []))[1].append((name, start, offset, length))
        return found

    def _places(self) -> Iterator[tuple[str, int, torch.Tensor, int, int]]:
        """(name, start in the tensor, fp32 tensor that the optimiser steps, offset in that, length) of all that this rank steps."""
        for name, parameter in self._parameters.items():
            if not parameter.requires_grad:
                continue
            if self._stage == 0:
                yield name, 0, parameter, 0, parameter.numel()
            elif self._stage < 3:
                mapping = parameter._hp_mapping  # type: ignore[attr-defined]
                if mapping is not None:
                    group = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
                    ours, theirs = mapping.lp_fragment_address, mapping.hp_fragment_address
                    yield name, ours.start, group, theirs.start, ours.numel
            else:
                group_index, offset, partition = self._zero.grad_position[self._zero.get_param_id(parameter)]
                start = self.rank * partition
                whole = parameter.ds_numel  # type: ignore[attr-defined]
                length = max(0, min(partition, whole - start))  # the last partition is padded
                if length:
                    yield name, start, self._zero.fp32_partitioned_groups_flat[group_index], offset, length


def hash_rank(name: str, world_size: int) -> int:
    """The rank that writes a tensor which all ranks hold; the same everywhere (``hash`` of text is not)."""
    return sum(name.encode()) % world_size
