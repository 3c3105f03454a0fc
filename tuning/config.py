"""A study as a YAML file: the recipe to search in, the space, the budget. Read without ray or torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from foundation.config import Config, with_values
from foundation.errors import ConfigError
from training.config import FinetuneConfig, PretrainConfig
from training.verb_config import verb_of
from tuning.scheduler_config import AshaConfig, PopulationConfig, Scheduler


class _Dimension(Config):
    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Only where these other keys of the space, which are choices, have one of these values; else the recipe's own value stays."""


class _Range(_Dimension):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}, high is {self.high}; low must be less")
        return self

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that stand for all: the recipe has to take them."""
        return (self.low, self.high)


class UniformDimension(_Range):
    """A number between two bounds."""

    kind: Literal["uniform", "log_uniform"]
    """``log_uniform`` draws the logarithm evenly: for learning rates."""
    step: float | None = Field(None, gt=0)
    """Only ``low`` and whole numbers of steps above it."""

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if self.kind == "log_uniform" and self.low <= 0:
            raise ValueError(f"low is {self.low}; a logarithm needs low above 0")
        if self.kind == "log_uniform" and self.step is not None:
            raise ValueError("step: belongs to uniform; for some values of a log_uniform use kind: choice")
        return self

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of the dimension's."""
        if not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        return self.step is None or math.isclose(math.remainder(value - self.low, self.step), 0, abs_tol=1e-9 * self.step)

    @property
    def points(self) -> tuple[Any, ...] | None:
        """All values, if they can be counted."""
        if self.step is None:
            return None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(min(self.high, self.low + number * self.step) for number in range(count))


class IntegerDimension(_Range):
    """A whole number between two bounds, both included."""

    kind: Literal["integer"]
    low: int
    high: int
    step: int = Field(1, ge=1)
    """Only ``low`` and whole numbers of steps above it."""
    log: bool = False
    """Draw the logarithm evenly: for sizes."""

    @model_validator(mode="after")
    def _log_needs_room(self) -> Self:
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError(f"log: needs low of at least 1 and no step, found low {self.low} and step {self.step}")
        return self

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of the dimension's."""
        return isinstance(value, int) and self.low <= value <= self.high and (value - self.low) % self.step == 0

    @property
    def points(self) -> tuple[Any, ...] | None:
        """All values, if they can be counted."""
        return tuple(range(self.low, self.high + 1, self.step))


class ChoiceDimension(_Dimension):
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

    @property
    def points(self) -> tuple[Any, ...] | None:
        """All values."""
        return self.values


Dimension = Annotated[UniformDimension | IntegerDimension | ChoiceDimension, Field(discriminator="kind")]
Space = dict[str, Dimension]


class SamplerConfig(Config):
    """Who chooses the next point. All are Optuna's."""

    kind: Literal["tpe", "random", "grid", "gp", "cma_es"] = "tpe"
    """``tpe``: a tree of Parzen estimators (Bergstra et al. 2011). ``gp``: a Gaussian process. ``cma_es``: Hansen's evolution strategy, for
    numbers only. ``grid``: every combination of choices and steps, each once."""
    first_random: int = Field(10, ge=1)
    """Of tpe, gp and cma_es: trials at random before they begin to choose."""


class BudgetConfig(Config):
    """What a study may spend. When one of these is spent, no trial begins any more, and those that run are stopped at their next report."""

    steps: int | None = Field(None, ge=1)
    """Optimiser steps of all trials together."""
    hours: float | None = Field(None, gt=0)
    """In which trials trained, however many at once; the time between a driver's loss and ``--resume`` does not count."""
    cost: float | None = Field(None, gt=0)
    """Of all trials' time, in the currency of ``price``."""
    price: float | None = Field(None, gt=0)
    """Of an hour of a GPU, or of a trial's worker without one."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.steps is None and self.hours is None and self.cost is None:
            raise ValueError("budget: limits nothing; give steps, hours or cost")
        if self.cost is not None and self.price is None:
            raise ValueError("budget.cost: needs budget.price, of an hour of a GPU, or of a trial's worker without one")
        return self


class ConstraintsConfig(Config):
    """What a trial's model has to keep to. One that does not is stopped at its first report, and cannot win."""

    latency_ms: float | None = Field(None, gt=0)
    """Median time for one text, of validation rows one at a time, on a trial's own CPUs or GPU, beside whatever else runs there."""
    size_mb: float | None = Field(None, gt=0)
    """Of the model's fp32 weights, in millions of bytes."""
    memory_mb: float | None = Field(None, gt=0)
    """That a worker holds while it trains, in millions of bytes; of its GPU's memory if it has one."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.limits:
            raise ValueError(f"constraints: limits nothing; give {', '.join(type(self).model_fields)}")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Name of a figure to its most."""
        return {name: limit for name in type(self).model_fields if (limit := getattr(self, name)) is not None}


class RepeatConfig(Config):
    """Train the best trials once more with other seeds: the best of many scores flatters, and may be no better than the next."""

    top: int = Field(3, ge=1)
    """Trials."""
    seeds: int = Field(3, ge=2)
    """For each: those after the recipe's own."""


# Keys of a recipe.
_TRAIN_ON = "data.train_on"
_FIXED = frozenset(
    {
        "encoder",
        "new_model",
        "data",
        "rows_per_step",
        "batch_ramp",
        "curriculum",
        "epochs",
        "steps",
        "max_length",
        "next_sentence",
        "freeze",
        "seed",
        "optimiser.kind",
        "metric",
        "start_from",
        "stop_after_steps",
    }
)

Recipe = Annotated[
    Annotated[FinetuneConfig, Tag("<finetune>")] | Annotated[PretrainConfig, Tag("<pretrain>")],
    Discriminator(lambda recipe: f"<{verb_of(recipe)}>"),
]


class StudyConfig(Config):
    """A study."""

    recipe: Recipe
    """What is searched in: a fine-tuning or, with a `data build` folder as data, a pretraining. A trial trains it on as many workers as
    ``recipe.workers.count`` says; several are sharded as in a run."""
    space: Space = Field(min_length=1)
    """Dotted key of the recipe to dimension."""
    sampler: SamplerConfig = SamplerConfig()
    scheduler: Scheduler = AshaConfig()
    """Who stops trials early. Time is optimiser steps."""
    start_with: tuple[dict[str, Any], ...] = ()
    """Points to try first; the sampler chooses the rest."""
    trials: int = Field(8, ge=1)
    budget: BudgetConfig | None = None
    """What all trials together may spend."""
    constraints: ConstraintsConfig | None = None
    """What the winner has to keep to, whatever its score."""
    repeat: RepeatConfig | None = None
    """After the search, and beyond its budget; the winner is the trial with the best mean."""
    concurrent: int = Field(2, ge=1)
    """Trials at a time; each takes ``recipe.workers.cpus_each`` CPUs for each of its workers."""
    report_every_steps: int = Field(25, ge=1)
    """Cadence of evaluations, checkpoints and scheduling decisions."""
    seed: int = 0
    """Of the sampler: each trial's random numbers follow from it and the trial's number."""
    storage: str | None = None
    """Where Optuna keeps what the sampler knows, as a SQLAlchemy URL; default: SQLite in the study's folder."""

    @model_validator(mode="after")
    def _conditions_can_hold(self) -> Self:
        for key, dimension in self.space.items():
            for other, values in dimension.when.items():
                given = self.space.get(other)
                if not isinstance(given, ChoiceDimension) or other == key:
                    choices = ", ".join(name for name, item in self.space.items() if item.kind == "choice" and name != key)
                    raise ValueError(f"space.{key}.when: {other} is no other choice of the space; choices: {choices or 'none'}")
                if strange := [value for value in values if not given.holds(value)]:
                    raise ValueError(f"space.{key}.when.{other}: {strange[0]!r} is not one of its values")
        in_order(self.space)
        return self

    @model_validator(mode="after")
    def _sampler_can(self) -> Self:
        kind = self.sampler.kind
        conditional = [key for key, dimension in self.space.items() if dimension.when]
        if conditional and kind in ("grid", "gp", "cma_es"):
            raise ValueError(f"sampler.kind: {kind} cannot do conditions, and {conditional[0]} has one; use tpe or random")
        if kind == "cma_es" and (named := [key for key, dimension in self.space.items() if dimension.kind == "choice"]):
            raise ValueError(f"sampler.kind: cma_es searches numbers, and {named[0]} is a choice; use tpe, gp or random")
        if kind == "grid":
            if endless := [key for key, dimension in self.space.items() if dimension.points is None]:
                raise ValueError(
                    f"sampler.kind: a grid needs values that can be counted, and {endless[0]} has none; give it step or kind: choice"
                )
            size = math.prod(len(dimension.points or ()) for dimension in self.space.values())
            if self.trials > size:
                raise ValueError(f"trials is {self.trials}, the grid has {size} points; lower trials")
        return self

    @model_validator(mode="after")
    def _repeats_have_seeds(self) -> Self:
        if self.repeat and "seed" in self.space:
            raise ValueError("repeat: trains winners with other seeds, and seed is a key of space; leave one of them out")
        return self

    @model_validator(mode="after")
    def _latency_is_of_texts(self) -> Self:
        if self.constraints and self.constraints.latency_ms is not None and isinstance(self.recipe, PretrainConfig):
            raise ValueError("constraints.latency_ms: is of a classifier's answers, and the recipe is a pretraining's; leave it out")
        return self

    @model_validator(mode="after")
    def _trials_are_of_one_size(self) -> Self:
        if self.recipe.workers.is_elastic:
            told = self.recipe.workers.told
            raise ValueError(f"recipe.workers: {told}, but a trial is never elastic, so that trials compare; give workers.count")
        if searched := [key for key in self.space if key.partition(".")[0] == "workers"]:
            raise ValueError(f"space.{searched[0]}: decides what a trial takes, and all trials of a study take the same")
        return self

    @model_validator(mode="after")
    def _chooses_on_rows_held_back(self) -> Self:
        if _TRAIN_ON in self.space or (isinstance(self.recipe, FinetuneConfig) and self.recipe.data.train_on != "train"):
            raise ValueError(
                f"{_TRAIN_ON}: a study chooses on validation rows, which must not be trained on; its refit recipe does so afterwards"
            )
        return self

    @model_validator(mode="after")
    def _is_a_population(self) -> Self:
        if not isinstance(self.scheduler, PopulationConfig):
            return self
        kind = self.scheduler.kind
        if self.trials < 2:
            raise ValueError(f"trials is {self.trials}, but the members of a population learn from one another; give at least 2")
        if fixed := [key for key in self.space if _is_fixed(key)]:
            raise ValueError(
                f"space.{fixed[0]}: cannot change while a model trains, as in a population (scheduler.kind: {kind}); leave it to another"
            )
        if self.sampler.kind not in ("tpe", "random"):  # tpe is what stands there when nobody said anything
            raise ValueError(f"sampler.kind: {self.sampler.kind} learns from trials that ended, and a population has none; leave it out")
        if self.repeat:
            raise ValueError("repeat: trains a trial's recipe once more, and a member of a population has changed its own on the way")
        if self.scheduler.exploit_every_steps % self.report_every_steps:
            raise ValueError(
                f"scheduler.exploit_every_steps is {self.scheduler.exploit_every_steps}, no multiple of report_every_steps, "
                f"{self.report_every_steps}; members are compared by their reports"
            )
        return self

    @model_validator(mode="after")
    def _reports_meet_rungs(self) -> Self:
        if self.scheduler.rungs and self.report_every_steps > self.scheduler.rungs[0]:
            raise ValueError(
                f"report_every_steps is {self.report_every_steps}, but trials are compared at step {self.scheduler.rungs[0]}; "
                f"report at least as often"
            )
        return self

    @model_validator(mode="after")
    def _keys_are_the_recipes(self) -> Self:
        points = [*self.start_with]
        for number, point in enumerate(self.start_with):
            if unknown := sorted(set(point) - set(self.space)):
                raise ValueError(f"start_with: {unknown[0]} is no key of space; keys: {', '.join(self.space)}")
            if outside := sorted(key for key, value in point.items() if not self.space[key].holds(value)):
                raise ValueError(f"start_with.{number}.{outside[0]}: {point[outside[0]]!r} is not in the space's dimension")
        # Each value by itself, so that a trial cannot fail at what could be told before the first one starts.
        for key, dimension in self.space.items():
            given = {other: values[0] for other, values in dimension.when.items()}
            points += [{**given, key: value} for value in dimension.samples]
        for point in points:
            try:
                with_values(self.recipe, point, where="space")
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self


def _is_fixed(key: str) -> bool:
    """Whether a recipe's key makes the model or its rows what they are, so that a checkpoint is none of a recipe that differs in it."""
    return key in _FIXED or key.partition(".")[0] in _FIXED


def in_order(space: Mapping[str, Dimension]) -> list[str]:
    """The keys, each after those that its condition asks for.

    Raises:
        ValueError: Conditions ask for each other.
    """
    found: list[str] = []
    while len(found) < len(space):
        ready = [key for key, dimension in space.items() if key not in found and dimension.when.keys() <= {*found}]
        if not ready:
            stuck = ", ".join(key for key in space if key not in found)
            raise ValueError(f"space: the conditions of {stuck} ask for each other")
        found += ready
    return found


def applies(dimension: Dimension, sampled: Mapping[str, Any]) -> bool:
    """Whether a dimension's condition holds for what was sampled already; one that asks for what does not apply itself does not hold."""
    return all(other in sampled and sampled[other] in values for other, values in dimension.when.items())
