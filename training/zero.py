"""``DeepSpeedEngine``: the same contract as ``TorchEngine``, states sharded by ZeRO. The only file that imports DeepSpeed.

Our loop owns accumulation (``managed_gradient_accumulation: false``), the learning rate and the checkpoint's form. The JSON comes from
``deepspeed_json.py``.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.checkpoint import MOMENTS, Checkpoint, Fragment, write_fragments
from training.config import OptimiserConfig
from training.engine import WithObjective, moved, new_optimiser
from training.loop import Applied
from training.objectives import Batch, ModelObjective
from training.phases import Phases


class _ClippingAdamW(torch.optim.AdamW):
    """AdamW for stage 0, where DeepSpeed neither tells the gradient norm nor skips a gradient that is not finite.

    It sees gradients that are reduced already. DeepSpeed reads ``overflow`` and ``_global_grad_norm`` off its optimiser.
    """

    clip_norm = 0.0
    overflow = False
    _global_grad_norm: float | None = None

    def step(self, closure: Any = None) -> Any:
        """Clip and step, or skip."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.clip_norm or float("inf")))
        self._global_grad_norm = norm
        self.overflow = not math.isfinite(norm)
        return None if self.overflow else super().step(closure)


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
    ) -> None:
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.phases = Phases()
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self.device = device
        self._stage = int(rendered["zero_optimization"]["stage"])
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._parameters = dict(model.named_parameters())
        if checkpoint is not None:
            # Before ZeRO cuts the model up: afterwards every stage would need its own way to set parameters.
            checkpoint.load_parameters(model)
        wrapped = WithObjective(model.to(device), objective)
        optimiser = new_optimiser(model, config, kind=_ClippingAdamW if self._stage == 0 else torch.optim.AdamW)
        if isinstance(optimiser, _ClippingAdamW):
            optimiser.clip_norm = config.clip_norm
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=wrapped, optimizer=optimiser, config=dict(rendered), dist_init_required=False
        )
        if checkpoint is not None and checkpoint.has_moments():
            self._load_moments(checkpoint)

    @property
    def _optimiser(self) -> torch.optim.Optimizer:
        """The plain AdamW inside ZeRO's wrapper (stage 0 has none)."""
        inner: torch.optim.Optimizer = self._zero if isinstance(self._zero, torch.optim.AdamW) else self._zero.optimizer
        return inner

    def accumulate(self, batch: Batch, *, scale: float) -> float:
        """Forward and backward of one micro-batch. DeepSpeed averages over ranks, so the sum is scaled up by their number."""
        self._engine.train()
        with self.phases("forward"):
            loss = self._engine(moved(batch, self.device)) * (scale * self.world_size)
        with self.phases("backward"):
            self._engine.backward(loss, scale_wrt_gas=False)
        return float(loss.detach()) / self.world_size

    def apply(self, *, learning_rate: float) -> Applied:
        """Reduce, clip, step, clear."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        with self.phases("optimiser"):
            self._engine.step()
        norm = self._engine.get_global_grad_norm()
        is_applied = bool(self._engine.was_step_applied())
        return Applied(is_applied=is_applied, grad_norm=float(norm) if norm is not None else float("nan"))

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
        """Write the fragments that this rank owns; no gathering."""
        return write_fragments(folder, self.rank, self._fragments())

    def _fragments(self) -> Iterator[Fragment]:
        for name, start, owner, offset, length in self._places():
            if self._stage == 0 and hash_rank(name, self.world_size) != self.rank:
                continue  # every rank holds every tensor; each is written once
            state = self._optimiser.state.get(owner, {})
            views = {"param": owner, **{kind: state[kind] for kind in MOMENTS if kind in state}}
            yield Fragment(name, start, {kind: tensor.detach().reshape(-1).narrow(0, offset, length) for kind, tensor in views.items()})

    def _load_moments(self, checkpoint: Checkpoint) -> None:
        places = list(self._places())
        for owner in {id(place[2]): place[2] for place in places}.values():
            zeros = {kind: torch.zeros_like(owner, dtype=torch.float32) for kind in MOMENTS}
            self._optimiser.state[owner] = {"step": torch.tensor(float(checkpoint.progress.optimiser_steps)), **zeros}
        for name, start, owner, offset, length in places:
            for kind in MOMENTS:
                view = self._optimiser.state[owner][kind].reshape(-1).narrow(0, offset, length)
                view.copy_(checkpoint.read(kind, name, start, length))

    def _places(self) -> Iterator[tuple[str, int, torch.Tensor, int, int]]:
        """(name, start in the tensor, fp32 tensor that the optimiser steps, offset in that, length) of all that this rank steps."""
        for name, parameter in self._parameters.items():
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
