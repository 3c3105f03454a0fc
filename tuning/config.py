"""A study as a YAML file: the recipe to search in, the space, the budget. Read without ray or torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from foundation.config import Config, with_values
from foundation.errors import ConfigError
from training.config import FinetuneConfig


class UniformDimension(Config):
    """A number between two bounds."""

    kind: Literal["uniform", "log_uniform"]
    """``log_uniform`` draws the logarithm evenly: for learning rates."""
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}, high is {self.high}; low must be less")
        if self.kind == "log_uniform" and self.low <= 0:
            raise ValueError(f"low is {self.low}; a logarithm needs low above 0")
        return self

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that stand for all: the recipe has to take them."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of the dimension's."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high


class IntegerDimension(Config):
    """A whole number between two bounds, both included."""

    kind: Literal["integer"]
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}, high is {self.high}; low must be less")
        return self

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that stand for all: the recipe has to take them."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of the dimension's."""
        return isinstance(value, int) and self.low <= value <= self.high


class ChoiceDimension(Config):
    """One of some values: numbers, names, encoders."""

    kind: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that stand for all: the recipe has to take them."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of the dimension's."""
        return value in self.values


Dimension = Annotated[UniformDimension | IntegerDimension | ChoiceDimension, Field(discriminator="kind")]


class AshaConfig(Config):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934), in Tune's stopping form. Time is optimiser steps."""

    max_steps: int = Field(200, ge=1)
    """Steps after which a trial has had its full budget."""
    grace_steps: int = Field(50, ge=1)
    """The first rung: no trial is stopped before."""
    reduction_factor: float = Field(2, gt=1)
    """One in this many goes on at each rung."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.grace_steps > self.max_steps:
            raise ValueError(
                f"grace_steps is {self.grace_steps}, more than max_steps, {self.max_steps}; the first rung has to come earlier"
            )
        return self


class StudyConfig(Config):
    """A study."""

    recipe: FinetuneConfig
    """What is searched in. A trial trains it on one worker, in the trial's own process, with the plain engine."""
    space: dict[str, Dimension] = Field(min_length=1)
    """Dotted key of the recipe to dimension."""
    start_with: tuple[dict[str, Any], ...] = ()
    """Points to try first; the sampler chooses the rest."""
    trials: int = Field(8, ge=1)
    concurrent: int = Field(2, ge=1)
    """Trials at a time; each takes ``recipe.workers.cpus_each`` CPUs."""
    asha: AshaConfig = AshaConfig()
    report_every_steps: int = Field(25, ge=1)
    """Cadence of evaluations, checkpoints and scheduling decisions."""
    seed: int = 0
    """Of the sampler (Optuna's TPE)."""

    @model_validator(mode="after")
    def _keys_are_the_recipes(self) -> Self:
        points = [*self.start_with]
        for number, point in enumerate(self.start_with):
            if unknown := sorted(set(point) - set(self.space)):
                raise ValueError(f"start_with: {unknown[0]} is no key of space; keys: {', '.join(self.space)}")
            if outside := sorted(key for key, value in point.items() if not self.space[key].holds(value)):
                raise ValueError(f"start_with.{number}.{outside[0]}: {point[outside[0]]!r} is not in the space's dimension")
        # Each value by itself, so that a trial cannot fail at what could be told before the first one starts.
        points += [{key: value} for key, dimension in self.space.items() for value in dimension.samples]
        for point in points:
            try:
                with_values(self.recipe, point, where="space")
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self
