"""How a run steps: optimiser, learning rate, and the guard. Read without torch; part of every training recipe (``config.py``)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from foundation.config import Config

Offload = Literal["none", "optimiser", "all"]
OptimiserKind = Literal["adamw", "lamb", "stable_adamw", "muon"]

_NEEDS: dict[OptimiserKind, str] = {
    "lamb": "the norm of each weight tensor",
    "stable_adamw": "the mean square update of each weight tensor",
    "muon": "whole weight matrices",
}


class ScheduleConfig(Config):
    """The learning rate, a pure function of the step."""

    peak_lr: float = Field(1e-4, gt=0)
    """Highest learning rate."""
    warmup_share: float = Field(0.06, ge=0, le=1)
    """Share of all steps over which the rate rises linearly from 0."""
    decay: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """How it falls afterwards. `wsd` (warm-up, stable, decay) stays at the peak until the last `decay_share` of the steps."""
    decay_share: float = Field(0.1, gt=0, le=1)
    """For `wsd`: share of all steps over which the rate falls."""
    decay_shape: Literal["linear", "one_minus_sqrt"] = "one_minus_sqrt"
    """For `wsd`: how it falls there. `one_minus_sqrt` falls steeply at first (Hägele et al. 2024; ModernBERT)."""
    final_share: float = Field(0.0, ge=0, le=1)
    """What the rate falls to, as a share of the peak; reached when the last step is done, so that no step is run at 0."""

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.decay == "wsd" and self.warmup_share + self.decay_share > 1:
            raise ValueError(f"warmup_share is {self.warmup_share} and decay_share {self.decay_share}; together they are at most 1")
        return self


class OptimiserConfig(Config):
    """The optimiser and its parameter groups."""

    kind: OptimiserKind = "adamw"
    """`adamw`; `lamb` for very large batches; `stable_adamw`, which needs no clipping; `muon` for the layers' matrices, with AdamW for all
    else. All but `adamw` need whole tensors: one worker, or `sharding.zero_stage=0`."""
    weight_decay: float = Field(0.01, ge=0)
    """Not applied to biases and normalisation weights."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each layer's learning rate as a share of that of the layer above it: the head has the schedule's, the top layer `layer_decay` of it,
    the embeddings least. 1 gives all the same."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    momentum: float = Field(0.95, ge=0, lt=1)
    """For `muon`: of its matrices' gradients."""
    clip_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this global norm; 0 switches clipping off."""


class GuardConfig(Config):
    """What happens to a step whose loss or gradient is not to be trusted: skipped, counted, recorded, and too many in a row end the run."""

    spike_factor: float | None = Field(None, gt=1)
    """Skip a step whose loss is more than this many times the median of the last `window` applied steps' losses. null skips only what is
    not finite: small fine-tuning batches vary more than any factor worth having, and most spikes of pretraining heal by themselves."""
    window: int = Field(50, ge=2)
    """Applied steps that the median is of; no spike is seen before there are as many."""
    stop_after: int = Field(5, ge=1)
    """End the run when so many steps in a row were skipped. The last checkpoint stays as it is."""


def carried_by(kind: OptimiserKind, engine: Literal["torch", "deepspeed"], zero_stage: int) -> str | None:
    """Why an engine cannot carry an optimiser, and what to do; None when it can. Pure.

    ZeRO 1 to 3 flatten many tensors into one and cut it by ranks, so that an optimiser sees neither a tensor's norm nor a matrix.
    """
    if kind == "adamw" or engine == "torch" or zero_stage == 0:
        return None
    return (
        f"optimiser.kind is {kind}, which needs {_NEEDS[kind]}, but sharding.engine is deepspeed with zero_stage {zero_stage}, which steps "
        "flat pieces of many tensors; use sharding.zero_stage=0, or one worker with sharding.engine=torch, or optimiser.kind=adamw"
    )
