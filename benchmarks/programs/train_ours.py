"""Our side of the training benchmarks: a recipe's run without Ray, in one process, a few steps at a time when it is asked for them.

Requests: ``steps`` (at most ``count``, for at most ``seconds``), ``about``, ``peak``, ``save`` (a Hugging Face folder), ``test``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.programs.turns import conversation
from corpus.order import StepRows, UniformOrder
from corpus.positions import constant, step_rows
from corpus.shards import PackedRows
from foundation.references import resolve
from training.assembly import Assembly, assemble, evaluate, loop_arguments, tokenised
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.engine import TorchEngine
from training.fitting import fitting
from training.flops import attended_length, dimensions, flops_per_token
from training.loop import Engine, StepReport, train
from training.measuring import document_lengths, measured_peak, memory
from training.memory import Trimming, give_freed_memory_back, keep_freed_memory
from training.objectives import Supervised
from training.planning import read_labelled
from training.tasks import task_of
from training.workload import limits_of

SAMPLED_STEPS = 20
CPU = torch.device("cpu")


class Chosen:
    """An order of some of the rows."""

    def __init__(self, rows: int, chosen: npt.NDArray[np.int64], seed: int) -> None:
        self._chosen, self._order = chosen, UniformOrder(len(chosen), seed)
        self.rows, self.epoch_rows = rows, len(chosen)

    def rows_at(self, positions: npt.ArrayLike) -> StepRows:
        """The rows at ``positions``."""
        found = self._order.rows_at(positions)
        return found._replace(rows=self._chosen[found.rows])


class Run:
    """A recipe's run, as far as it has been asked for."""

    def __init__(self, recipe: RunConfig, *, full_rows: bool, engine: Callable[[Assembly], Engine] | None = None) -> None:
        """``full_rows``: only packed rows of the whole length. ``engine``: makes another one than the plain engine."""
        self._data = None
        location = ""
        if isinstance(recipe, FinetuneConfig):
            self._data = read_labelled(recipe)
            recipe = fitting(recipe, self._data)
        if not isinstance(recipe, PretrainConfig) or recipe.new_model is None:
            location = resolve(recipe.encoder).location
        self._recipe = recipe
        self._assembly: Assembly = assemble(recipe, location, self._data)
        assembly = self._assembly
        self._engine = engine(assembly) if engine else TorchEngine(assembly.model, assembly.objective, recipe.optimiser)
        self._order: Any = self._assembly.order
        if full_rows:
            assert isinstance(recipe, PretrainConfig)
            packed = PackedRows.open(Path(recipe.data), check=False)
            every = np.arange(len(packed), dtype=np.int64)
            self._order = Chosen(len(packed), every[packed.lengths(every) == packed.sequence_length], recipe.seed)

    def steps(self) -> Iterator[StepReport]:
        """The run's steps, one by one."""
        arguments = loop_arguments(self._recipe, self._assembly.steps, self._assembly.attention)
        trimming = Trimming()
        for report in train(self._engine, self._assembly.objective, steps=self._assembly.steps, order=self._order, **arguments):
            if trimming.is_due(memory(CPU)["memory_bytes"]):
                give_freed_memory_back()
            yield report

    def about(self) -> dict[str, float]:
        """``flops_per_token`` of the rows that are trained on, and what it follows from."""
        objective = self._assembly.objective
        order = self._order or UniformOrder(objective.rows, self._recipe.seed)
        sample = [step_rows(step, order, constant(self._recipe.rows_per_step)) for step in range(SAMPLED_STEPS)]
        tokens = sum(sum(objective.lengths(rows)) for rows in sample)
        is_masked = isinstance(self._recipe, PretrainConfig)
        share = sum(objective.count(rows) for rows in sample) / tokens if is_masked else 0.0
        attended = attended_length(document_lengths(self._recipe, self._assembly))
        flops = flops_per_token(dimensions(self._assembly.model.config), attended=attended, mask_share=share)
        return {"flops_per_token": flops, "attended": attended, "mask_share": share, "steps": self._assembly.steps}

    def test(self) -> dict[str, float]:
        """Metrics on the test rows (validation rows where there are none), and on the validation rows as ``validation``."""
        assert isinstance(self._recipe, FinetuneConfig)
        assert self._data is not None
        limits = limits_of(self._recipe, self._assembly.attention)
        validation = evaluate(self._engine, self._assembly.validation, limits)
        split = self._data.test
        if not len(split):
            return validation
        ids, types = tokenised(self._assembly.tokenizer, split, self._recipe.max_length)
        task = task_of(self._recipe, self._data)
        rows = Supervised(ids, split.labels, split.ids, task=task, attention=self._assembly.attention, types=types)
        return evaluate(self._engine, rows, limits)

    def validate(self) -> dict[str, float]:
        """Metrics on the validation rows."""
        return evaluate(self._engine, self._assembly.validation, limits_of(self._recipe, self._assembly.attention))

    def save(self, folder: str) -> dict[str, str]:
        """Write model and tokenizer as transformers does."""
        self._assembly.model.save_pretrained(folder)
        self._assembly.tokenizer.save_pretrained(folder)
        return {"folder": folder}


def some(steps: Iterator[StepReport], count: int, seconds: float = float("inf")) -> dict[str, float]:
    """Run at most ``count`` steps for at most ``seconds``; ``tokens`` are real ones, ``loss`` is the last step's."""
    done, tokens, loss = 0, 0, float("nan")
    began = time.perf_counter()
    while done < count and time.perf_counter() - began < seconds:
        report = next(steps, None)
        if report is None:
            break
        done, tokens, loss = done + 1, tokens + report.tokens, report.loss
    return {"steps": done, "tokens": tokens, "seconds": time.perf_counter() - began, "loss": loss}


def main(spec: dict[str, Any]) -> None:
    """Answer requests until there are no more."""
    requests, answer = conversation()
    torch.set_num_threads(spec["threads"])
    keep_freed_memory()
    kind: type[RunConfig] = FinetuneConfig if spec["verb"] == "finetune" else PretrainConfig
    run = Run(kind.model_validate(spec["recipe"]), full_rows=spec.get("full_rows", False))
    with closing(run.steps()) as steps:  # type: ignore[type-var]
        for request in requests:
            match request.pop("do"):
                case "steps":
                    answer(some(steps, **request))
                case "peak":
                    answer({"flops": measured_peak(CPU)})
                case "about":
                    answer(dict(run.about()))
                case "save":
                    answer(dict(run.save(**request)))
                case "validate":
                    answer(dict(run.validate()))
                case "test":
                    answer(dict(run.test()))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
