"""Who decides how far a study's trials go: the part of its YAML file that says so. Read without ray or torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from foundation.config import Config


class _Scheduler(Config):
    max_steps: int = Field(200, ge=1)
    """Optimiser steps after which a trial has had its full budget."""


class _Stopping(_Scheduler):
    grace_steps: int = Field(50, ge=1)
    """No trial is stopped before; the first rung."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.grace_steps > self.max_steps:
            raise ValueError(
                f"grace_steps is {self.grace_steps}, more than max_steps, {self.max_steps}; the first rung has to come earlier"
            )
        return self


class NoScheduler(_Scheduler):
    """Every trial has its full budget."""

    kind: Literal["none"]

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which trials are compared."""
        return ()


class AshaConfig(_Stopping):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934), in Tune's stopping form."""

    kind: Literal["asha"] = "asha"
    reduction_factor: float = Field(2, gt=1)
    """One in this many goes on at each rung."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which trials are compared."""
        count = int(math.log(self.max_steps / self.grace_steps) / math.log(self.reduction_factor) + 1)
        return tuple(math.ceil(self.grace_steps * self.reduction_factor**number) for number in range(count))


class HyperBandConfig(_Stopping):
    """HyperBand (Li et al. 2018, JMLR 18(185)) in its asynchronous form (Li et al. 2018, arXiv 1810.05934, section 3.2): ASHA in several
    brackets, each of which begins to stop one rung later than the one before. For scores that mislead early on."""

    kind: Literal["hyperband"]
    reduction_factor: float = Field(3, gt=1)
    """In a bracket, one in this many goes on at each rung."""

    @property
    def brackets(self) -> tuple[AshaConfig, ...]:
        """The one that stops earliest first; the last stops nobody before the last rung."""
        rungs = AshaConfig(max_steps=self.max_steps, grace_steps=self.grace_steps, reduction_factor=self.reduction_factor).rungs
        return tuple(AshaConfig(max_steps=self.max_steps, grace_steps=rung, reduction_factor=self.reduction_factor) for rung in rungs)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which trials of any bracket are compared."""
        return tuple(sorted({rung for bracket in self.brackets for rung in bracket.rungs}))

    def bracket_of(self, number: int) -> int:
        """Which of ``brackets`` a trial is in: always the one furthest behind its share, so that any number of trials is spread as
        HyperBand spreads them, ηˢ / (s + 1) to the bracket that has s rungs after its first."""
        last = len(self.brackets) - 1
        weights = [self.reduction_factor ** (last - place) / (last - place + 1) for place in range(last + 1)]
        counts = [0] * (last + 1)
        for taken in range(number + 1):
            behind = [weight / sum(weights) * (taken + 1) - count for weight, count in zip(weights, counts, strict=True)]
            chosen = behind.index(max(behind))
            counts[chosen] += 1
        return chosen


class MedianStopConfig(_Stopping):
    """Golovin et al. 2017 (Vizier): a trial is stopped when its best is worse than the median of the others' means up to that step."""

    kind: Literal["median_stop"]
    least_trials: int = Field(3, ge=1)
    """With fewer to compare with, none is stopped."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which trials are compared: at every report after the first ones."""
        return (self.grace_steps,)


class PopulationConfig(_Scheduler):
    """Population-based training (Jaderberg et al. 2017, arXiv 1711.09846), all members in step: after every ``exploit_every_steps`` the
    worst go on from the checkpoints of the best, with other hyperparameters. ``trials`` is the number of members."""

    kind: Literal["pbt", "pb2"]
    """Which others: ``pbt`` changes the donor's a little, at random; ``pb2`` asks a Gaussian process which numbers promise most, of the
    stretches so far (Parker-Holder et al. 2020, arXiv 2002.02518), and changes what is no number as ``pbt`` does."""
    exploit_every_steps: int = Field(50, ge=1)
    """Optimiser steps between two decisions."""
    quantile: float = Field(0.25, gt=0, le=0.5)
    """Share of the members that is replaced, and share that they are replaced by; one of each at least."""
    resample: float = Field(0.25, ge=0, le=1)
    """How likely a hyperparameter is drawn anew instead of being changed a little."""
    factor: float = Field(1.2, gt=1)
    """A number is multiplied or divided by it, within its bounds; of values in a row the next or the one before is taken."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which members are compared."""
        return tuple(range(self.exploit_every_steps, self.max_steps, self.exploit_every_steps))


Scheduler = Annotated[NoScheduler | AshaConfig | HyperBandConfig | MedianStopConfig | PopulationConfig, Field(discriminator="kind")]
