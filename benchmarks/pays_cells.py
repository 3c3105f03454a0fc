"""The cells of ``pretraining_pays``: a pretraining, or a fine-tuning of what one left, each a run of ours, kept when it is done."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from benchmarks.cells import Answer, Cells
from benchmarks.harness import HERE
from benchmarks.pays_recipes import (
    ALL_RATES_AT,
    CHOOSING_SEED,
    CHOSEN_AT,
    FINE_TUNING,
    LONGEST,
    NEW_MODELS,
    SEEDS,
    VOCABULARY,
    Recipe,
    Stage,
    Start,
)
from benchmarks.texts import TOKENIZER, build, documents
from benchmarks.turns import NEVER, Side, steps_in
from corpus.config import LabelledDataConfig
from corpus.labelled import LabelledData, load_labelled
from corpus.labelled_config import LabelKind
from corpus.labels import LabelledSplit
from corpus.movie_reviews import fetch, read_archive

VALIDATION_ROWS = 1_000
"""Labelled ones, by which a learning rate is chosen."""
HELD_OUT_DOCUMENTS = {"general": 60, "task": 500}
"""By which a pretraining's loss is measured."""
LOOKS = 6
"""At it."""
FINE_TUNING_THREADS = 1
"""Of a fine-tuning, whose time is not compared: so two commands with other ``--only`` can use two cores, which is quicker."""


class Bench:
    """Data and finished cells in one folder."""

    def __init__(
        self,
        work: Path,
        *,
        data: Path | None,
        corpus: Path | None,
        kind: LabelKind = "single",
        threads: int,
        minutes: float | None = None,
        scale: float = 1.0,
    ) -> None:
        """``scale``: factor on the minutes and epochs of every recipe."""
        self.work, self.corpus, self.kind, self.threads, self.scale = work, corpus, kind, threads, scale
        self.cells = Cells(work / "cells", minutes=minutes)
        file = data or work / "reviews.parquet"
        if data is None and not file.is_file():
            pa.parquet.write_table(read_archive(fetch()).select(["text", "label", "split"]), file)
        source = LabelledDataConfig.model_validate({"train": str(file), "split_column": "split", "label_kind": kind})
        self.data: LabelledData = load_labelled(source)
        self.same = {"data": self.data.fingerprint, "corpus": corpus.name if corpus else None, "threads": threads, "scale": scale}
        self._test_texts = work / "test.parquet"
        if not self._test_texts.is_file():
            pa.parquet.write_table(pa.table({"text": self.data.test.texts or self.data.validation.texts}), self._test_texts)

    def finished(self) -> Bench:
        """The same, which begins nothing."""
        other = copy(self)
        other.cells = Cells(self.cells.folder, minutes=0)
        return other

    def model(self, recipe: Recipe, stages: int | None = None) -> Answer:
        """What the last of so many stages (None: all) found, made when it is not there; nothing of a start that is not ours."""
        stages = len(recipe.stages) if stages is None else stages
        if not stages and recipe.start == "minilm":
            return {}
        return self.cells.find(self._asked(recipe, stages), lambda: self._made(recipe, stages))

    def model_folder(self, recipe: Recipe, stages: int | None = None) -> str:
        """A REF of a recipe's model after so many stages (None: all). Where its answer was kept without it, it is made again, in as many
        steps: on this kind of machine it is the same model but for rounding."""
        stages = len(recipe.stages) if stages is None else stages
        if not stages and recipe.start == "minilm":
            return TOKENIZER
        kept, folder = self.model(recipe, stages), self._folder(recipe, stages)
        if not folder.is_dir():
            again = self._made(recipe, stages, kept.get("steps"))
            if "curve" in kept:
                print(f"{recipe.name}: made again, held-out loss {again['curve'][-1][1]!r}, was {kept['curve'][-1][1]!r}", file=sys.stderr)
        return str(folder)

    def _asked(self, recipe: Recipe, stages: int) -> dict[str, Any]:
        return self.same | {"cell": "model"} | recipe.upto(stages)

    def _folder(self, recipe: Recipe, stages: int) -> Path:
        return self.work / "models" / self.cells.key(self._asked(recipe, stages))

    def _made(self, recipe: Recipe, stages: int, steps: int | None = None) -> Answer:
        folder = self._folder(recipe, stages)
        if not stages:
            return self._blank(recipe.start, folder)
        return self._pretrain(recipe.start, recipe.stages[stages - 1], self.model_folder(recipe, stages - 1), folder, steps)

    def scores(self, recipe: Recipe, labels: int | None, peak_lr: float, seed: int, *, split: str) -> Answer:
        """Metrics of a fine-tuned model on ``validation`` or ``test`` rows."""
        tuning = FINE_TUNING[recipe.start]
        how = {"peak_lr": peak_lr, "epochs": tuning.epochs[labels] * self.scale, "rows_per_step": tuning.rows_per_step[labels]}
        how |= {"max_length": LONGEST}
        asked = self.same | {"cell": "scores", "labels": labels, "seed": seed, "split": split} | how | recipe.upto(len(recipe.stages))
        return self.cells.find(asked, lambda: self._finetune(self.model_folder(recipe), labels, how, seed, split))

    def best_rate(self, recipe: Recipe, labels: int | None, rates: tuple[float, ...]) -> float:
        """The learning rate of the highest macro-F1 on validation rows, with a seed that is measured nowhere else."""
        if len(rates) == 1:
            return rates[0]
        at = CHOSEN_AT[labels]
        if at != ALL_RATES_AT:
            best = rates.index(self.best_rate(recipe, ALL_RATES_AT, rates))
            rates = rates[max(0, best - 1) : best + 1]
        found = {rate: self.scores(recipe, at, rate, CHOOSING_SEED, split="validation")["macro_f1"] for rate in rates}
        return max(found, key=lambda rate: found[rate])

    def measured(
        self, recipe: Recipe, labels: int | None, rates: tuple[float, ...] | None = None, seeds: tuple[int, ...] = SEEDS
    ) -> Answer:
        """Macro-F1 and accuracy (for lists, micro-F1) on test rows by seed, at the best learning rate."""
        rate = self.best_rate(recipe, labels, rates or FINE_TUNING[recipe.start].rates)
        runs = [self.scores(recipe, labels, rate, seed, split="test") for seed in seeds]
        second = "micro_f1" if self.kind == "list" else "accuracy"
        return {"peak_lr": rate, "macro_f1": [100 * run["macro_f1"] for run in runs], second: [100 * run[second] for run in runs]}

    def packed(self, start: Start, texts: str) -> Path:
        """The build that a stage is trained on."""
        is_new = start in NEW_MODELS  # they have one vocabulary, that of the general corpus
        general, task = (self.work / f"{name}-{'new' if is_new else start}" for name in ("general", "task"))
        tokenizer, vocabulary = (None, VOCABULARY) if is_new else (TOKENIZER, None)
        if texts == "general" or is_new:
            table = documents(self.corpus)
            held_out = some_held_out(table.column("split").to_pylist(), HELD_OUT_DOCUMENTS["general"])
            build(table.filter(pa.array(held_out)), general, tokenizer=tokenizer, vocabulary=vocabulary, without=self._test_texts)
        if texts == "general":
            return general
        found = self.data.train.texts
        every = max(20, len(found) // HELD_OUT_DOCUMENTS["task"])
        split = ["validation" if number % every == 0 else "train" for number in range(len(found))]
        build(pa.table({"text": found, "split": split}), task, tokenizer=tokenizer or str(general / "tokenizer"))
        return task

    def _blank(self, start: Start, folder: Path) -> Answer:
        recipe = {"data": str(self.packed(start, "general")), "new_model": NEW_MODELS[start], "steps": 1}
        with Side(self._command("pretrain", recipe), threads=self.threads) as side:
            side.ask({"do": "save", "folder": str(folder)})
        return {}

    def _pretrain(self, start: Start, stage: Stage, before: str, folder: Path, steps: int | None = None) -> Answer:
        recipe = {
            "data": str(self.packed(start, stage.texts)),
            "encoder": before,
            "rows_per_step": stage.rows_per_step,
            "mask_share": stage.mask_share,
            "masking": {"final_share": stage.final_share, "whole_words": stage.whole_words},
            "schedule": {"peak_lr": stage.peak_lr, "decay": "cosine"},
            "optimiser": {"beta2": 0.98, "layer_decay": stage.layer_decay},
        }
        if steps is None:
            steps = self._steps_in(stage, recipe)
        curve, done, tokens, clock = [], 0, 0, 0.0
        with Side(self._command("pretrain", recipe | {"steps": steps}), threads=self.threads) as side:
            curve.append((0, side.ask({"do": "validate"})["validation_loss"]))
            while done < steps:
                found = side.ask({"do": "steps", "count": min(steps - done, max(1, steps // LOOKS))})
                done, tokens, clock = done + found["steps"], tokens + found["tokens"], clock + found["seconds"]
                curve.append((tokens, side.ask({"do": "validate"})["validation_loss"]))
            side.ask({"do": "save", "folder": str(folder)})
        return {"stage": asdict(stage), "steps": steps, "tokens": tokens, "seconds": clock, "curve": curve}

    def _steps_in(self, stage: Stage, recipe: Mapping[str, Any]) -> int:
        mean = {"mask_share": (stage.mask_share + (stage.final_share or stage.mask_share)) / 2}
        constant = {**recipe, **mean, "masking": {"whole_words": stage.whole_words}, "steps": NEVER}
        return steps_in(self._command("pretrain", constant), 60 * stage.minutes * self.scale, self.threads)

    def _finetune(self, model: str, labels: int | None, how: Mapping[str, Any], seed: int, split: str) -> Answer:
        file = self.work / f"rows-{labels}-{seed}-{os.getpid()}.parquet"
        pa.parquet.write_table(self._rows(labels, seed), file)
        recipe = {
            "data": {"train": str(file), "split_column": "split", "label_kind": self.kind, "checks": {"unseen_labels": "warn"}},
            "encoder": model,
            "epochs": how["epochs"],
            "rows_per_step": how["rows_per_step"],
            "max_length": how["max_length"],
            "dropout": 0.0,
            "seed": seed,
            "schedule": {"peak_lr": how["peak_lr"], "warmup_share": 0.1},
        }
        try:
            with Side(self._command("finetune", recipe, FINE_TUNING_THREADS), threads=FINE_TUNING_THREADS) as side:
                done = side.ask({"do": "steps", "count": NEVER})
                found = side.ask({"do": "validate" if split == "validation" else "test"})
        finally:
            file.unlink()
        return found | {"steps": done["steps"], "seconds": done["seconds"], "tokens": done["tokens"]}

    def _rows(self, labels: int | None, seed: int) -> pa.Table:
        """So many training rows a class, drawn by ``seed``; the same validation and test rows always."""
        drawn = np.arange(len(self.data.train)) if labels is None else some_of_each(self.data.train.labels, labels, seed)
        validation = np.random.default_rng(0).permutation(len(self.data.validation))[:VALIDATION_ROWS]
        parts = {"train": self.data.train.take(drawn), "validation": self.data.validation.take(validation)}
        return pa.concat_tables(_table(part, self.data.labels, name) for name, part in (parts | {"test": self.data.test}).items())

    def _command(self, verb: str, recipe: Mapping[str, Any], threads: int | None = None) -> list[str]:
        spec = {"verb": verb, "recipe": recipe, "threads": threads or self.threads}
        return [sys.executable, str(HERE / "programs" / "train_ours.py"), json.dumps(spec)]


def some_held_out(splits: list[str], most: int) -> npt.NDArray[np.bool_]:
    """Which documents to keep: all that are trained on, and about ``most`` of the others, spread evenly."""
    is_train = np.array([split == "train" for split in splits])
    others = np.flatnonzero(~is_train)
    is_train[others[:: max(1, len(others) // most)]] = True
    return is_train


def some_of_each(labels: npt.NDArray[Any], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Numbers of rows, drawn in an order of ``seed``: those with a class (N,), or one of several (N, C), of which there are not
    ``count`` yet."""
    classes = labels.max() + 1 if labels.ndim == 1 else labels.shape[1]
    has_NC = labels[:, None] == np.arange(classes) if labels.ndim == 1 else labels.astype(np.bool_)
    drawn, counts_C = [], np.zeros(classes, dtype=np.int64)
    for row in np.random.default_rng(seed).permutation(len(labels)).tolist():
        if (counts_C[has_NC[row]] < count).any():
            drawn.append(row)
            counts_C += has_NC[row]
    return np.array(drawn, dtype=np.int64)


def _table(rows: LabelledSplit, names: tuple[str, ...], split: str) -> pa.Table:
    is_list = rows.labels.ndim == 2
    labels = [[names[i] for i in np.flatnonzero(flags)] for flags in rows.labels] if is_list else [names[i] for i in rows.labels]
    kind = pa.list_(pa.string()) if is_list else pa.string()
    texts, splits = pa.array(rows.texts, pa.string()), pa.array([split] * len(rows), pa.string())
    return pa.table({"text": texts, "label": pa.array(labels, kind), "split": splits})
