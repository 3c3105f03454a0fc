"""Best validation score of a study under ASHA and TPE against that of a whole grid, with a third of the grid's optimiser steps.

Fine-tunings of MiniLM. The grid is measured once for each file of texts and kept; random search and Optuna with a pruner have the same
steps as ours, two trials at once and one thread each, as all here. A score is the best of a trial's reports on the validation rows.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet
import yaml

from benchmarks.cells import Answer, Cells
from benchmarks.harness import HERE, environment, run
from benchmarks.rows import Row, Samples, goal_of, row
from benchmarks.texts import TOKENIZER
from corpus.config import LabelledDataConfig
from corpus.labelled import load_labelled
from corpus.movie_reviews import fetch, read_archive
from foundation.references import resolve

NAME = "tune_efficiency"
KEPT = HERE / "results" / NAME
"""Finished grids."""
TRAIN_ROWS, VALIDATION_ROWS = 2_000, 1_000
STEPS = 45
"""Of a whole trial."""
GRACE, FACTOR = 5, 3
"""Of successive halving, ours and Optuna's; reports come as often."""
GRID: dict[str, list[Any]] = {
    "schedule.peak_lr": [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3],
    "optimiser.layer_decay": [0.8, 1.0],
    "schedule.decay": ["linear", "cosine"],
}
SHARE = 3
"""One in so many of the grid's steps is what the others have."""
SEEDS = (1, 2, 3)
AT_ONCE = 2
FIRST_RANDOM = 8
SIDES = ("asha_tpe", "random", "optuna")


@dataclass(frozen=True)
class Texts:
    """Rows to search on."""

    name: str
    fingerprint: str
    recipe: dict[str, Any]


def measure(quick: bool, *, data: Sequence[Path] = (), work: Path | None = None, minutes: float | None = None) -> list[Row]:
    """Four rows for each file."""
    seeds = SEEDS[:1] if quick else SEEDS
    with tempfile.TemporaryDirectory(prefix="raybert-efficiency-") as scratch:
        folder = work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        cells = Cells(folder / "cells", minutes=minutes)
        rows = []
        for texts in [texts_of(file, folder) for file in data or (None,)]:
            grid = _grid(cells, texts, folder)
            found = {side: [_searched(cells, texts, folder, side, seed) for seed in seeds] for side in SIDES}
            rows += _rows(texts, grid, found)
        return rows


def texts_of(file: Path | None, folder: Path) -> Texts:
    """Some rows of a file with text, label and split, always the same; without a file, of movie reviews."""
    name = file.stem if file else "movie_reviews"
    table = pa.parquet.read_table(file) if file else read_archive(fetch())
    split = np.array(table.column("split").to_pylist())
    train = np.flatnonzero(split == "train")
    marked = np.flatnonzero(split == "validation")
    train = np.random.default_rng(0).permutation(train)
    validation = np.random.default_rng(0).permutation(marked) if len(marked) >= VALIDATION_ROWS else train[TRAIN_ROWS:]
    parts = {"train": train[:TRAIN_ROWS], "validation": validation[:VALIDATION_ROWS]}
    tables = [
        table.take(numbers).select(["text", "label"]).append_column("split", pa.array([part] * len(numbers)))
        for part, numbers in parts.items()
    ]
    drawn = folder / f"{name}-drawn.parquet"
    pa.parquet.write_table(pa.concat_tables(tables), drawn)
    rows_per_step = 32
    recipe: dict[str, Any] = {
        "data": {"train": str(drawn), "split_column": "split", "checks": {"unseen_labels": "warn"}},
        "encoder": resolve(TOKENIZER).location,
        "rows_per_step": rows_per_step,
        "max_length": 64,
        "epochs": math.ceil(100 * STEPS * rows_per_step / TRAIN_ROWS) / 100,  # the schedule ends with the trial
        "dropout": 0.0,
        "metric": "accuracy",
        "workers": {"count": 1, "cpus_each": 1},
    }
    return Texts(name, load_labelled(LabelledDataConfig.model_validate(recipe["data"])).fingerprint, recipe)


def study_of(texts: Texts, side: str, seed: int) -> dict[str, Any]:
    """A study, of the grid or of one of those that have a part of its steps."""
    count = math.prod(len(values) for values in GRID.values())
    rates = GRID["schedule.peak_lr"]
    common = {"recipe": texts.recipe, "concurrent": AT_ONCE, "report_every_steps": GRACE, "seed": seed}
    whole = {"kind": "none", "max_steps": STEPS}
    choices = {key: {"kind": "choice", "values": values} for key, values in GRID.items()}
    if side == "grid":
        return common | {"space": choices, "sampler": {"kind": "grid"}, "scheduler": whole, "trials": count}
    space = choices | {"schedule.peak_lr": {"kind": "log_uniform", "low": rates[0], "high": rates[-1]}}
    part = {"space": space, "trials": 10 * count, "budget": {"steps": count * STEPS // SHARE}}
    if side == "random":
        return common | part | {"sampler": {"kind": "random"}, "scheduler": whole}
    halving = {"kind": "asha", "max_steps": STEPS, "grace_steps": GRACE, "reduction_factor": FACTOR}
    return common | part | {"sampler": {"kind": "tpe", "first_random": FIRST_RANDOM}, "scheduler": halving}


def _asked(texts: Texts, side: str, seed: int) -> dict[str, Any]:
    """What names a cell: nothing of this machine's folders."""
    study = study_of(texts, side, seed)
    study["recipe"] = {key: value for key, value in study["recipe"].items() if key not in ("data", "encoder")}
    return {"side": side, "texts": texts.fingerprint, "encoder": TOKENIZER, "study": study}


def _grid(cells: Cells, texts: Texts, folder: Path) -> Answer:
    """The whole grid: kept, finished here, or measured now."""
    asked = _asked(texts, "grid", 0)
    kept = Cells(KEPT).get(asked)
    return kept | {"was_kept": True} if kept is not None else cells.find(asked, lambda: ours(study_of(texts, "grid", 0), folder))


def _searched(cells: Cells, texts: Texts, folder: Path, side: str, seed: int) -> Answer:
    study = study_of(texts, side, seed)
    return cells.find(_asked(texts, side, seed), lambda: peer(study, folder) if side == "optuna" else ours(study, folder))


def ours(study: Mapping[str, Any], folder: Path) -> Answer:
    """Best score, steps and all trials of a study of ours, in a home of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "study.yaml"
        file.write_text(yaml.safe_dump(dict(study)), encoding="utf-8")
        command = [sys.executable, "-m", "raybert", "tune", "-c", str(file), "--json"]
        done = subprocess.run(
            command, env=environment(1) | {"RAYBERT_HOME": str(Path(scratch) / "home")}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{NAME}: exit code {done.returncode}\n{done.stderr[-4000:]}")
        found = json.loads(done.stdout)
    trials = [{key: trial[key] for key in ("sampled", "step", "score", "seconds", "state")} for trial in found["trials"]]
    return {"best": found["best"]["score"], "steps": found["spent"]["steps"], "seconds": found["seconds"], "trials": trials}


def peer(study: Mapping[str, Any], folder: Path) -> Answer:
    """The same of Optuna with a pruner, in processes of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        spec = {"mode": "optuna", "study": study, "recipe": study["recipe"], "encoder": study["recipe"]["encoder"], "folder": scratch}
        spec |= {"steps": STEPS, "every": GRACE, "factor": FACTOR, "first_random": FIRST_RANDOM, "seed": study["seed"]}
        # Here, since two that make its tables at once fail.
        optuna.create_study(storage=f"sqlite:///{scratch}/optuna.db", study_name="peer", direction="maximize")
        processes = [
            subprocess.Popen(
                [sys.executable, str(HERE / "programs" / "trial_runs.py"), json.dumps(spec | {"worker": number})],
                env=environment(1),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(AT_ONCE)
        ]
        told = [process.communicate() for process in processes]
        if failed := [err for process, (_, err) in zip(processes, told, strict=True) if process.returncode]:
            raise RuntimeError(f"{NAME}: Optuna's side failed\n{failed[0][-4000:]}")
        # Each tells of the study as it found it at its end; the one that ended last knows all.
        found: Answer = max((json.loads(out.splitlines()[-1]) for out, _ in told), key=lambda answer: answer["steps"])
    return found


def _rows(texts: Texts, grid: Answer, found: Mapping[str, list[Answer]]) -> list[Row]:
    best = {side: [100 * answer["best"] for answer in answers] for side, answers in found.items()}
    steps = {side: [answer["steps"] for answer in answers] for side, answers in found.items()}
    seeds = f"{len(best['asha_tpe'])} seed" + "s" * (len(best["asha_tpe"]) > 1) + ", and a grid that was kept" * ("was_kept" in grid)
    said = (
        f"{texts.name}: {TRAIN_ROWS:,} training and {VALIDATION_ROWS:,} validation rows, MiniLM, at most {STEPS} steps a trial; {seeds}. "
        f"The grid of {len(grid['trials'])}: {100 * grid['best']:.1f} % with {grid['steps']:,} steps."
    )
    table = "\n".join(
        ["| side | steps | best validation accuracy, % |", "|---|---|---|", f"| grid | {grid['steps']:,} | {100 * grid['best']:.2f} |"]
        + [f"| {side} | {', '.join(map(str, steps[side]))} | {', '.join(f'{score:.2f}' for score in best[side])} |" for side in SIDES]
    )
    mean = {side: statistics.mean(scores) for side, scores in best.items()}
    each = ", ".join(f"{score:.1f}" for score in best["asha_tpe"])
    return [
        _row("best_score", texts, (min(best["asha_tpe"]),), (100 * grid["best"],), f"{said} Ours is the worst seed of {each} %.", table),
        _row("steps", texts, (max(steps["asha_tpe"]),), (grid["steps"],), f"{said} Ours is the seed with most."),
        _row("against_random", texts, (mean["asha_tpe"],), (mean["random"],), f"{said} Peer: random search, the same steps; means."),
        _row("against_optuna", texts, (mean["asha_tpe"],), (mean["optuna"],), f"{said} Peer: Optuna, TPE and successive halving; means."),
    ]


def _row(name: str, texts: Texts, ours: tuple[float, ...], peer: tuple[float, ...], note: str, appendix: str = "") -> Row:
    return row(
        f"{name}_{texts.name}",
        Samples(ours, peer),
        goal_of(NAME, name),
        note=note,
        commands={"ours": "raybert tune", "peer": "python benchmarks/programs/trial_runs.py" if "optuna" in name else "raybert tune"},
        threads={"ours": AT_ONCE, "peer": AT_ONCE},
        peer_versions={package: metadata.version(package) for package in ("optuna", "ray", "torch")},
        appendix=appendix,
    )


def options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument(
        "--data", type=Path, nargs="+", default=(), metavar="FILE", help="Parquet with text, label and split; default: movie reviews"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps finished studies, so that a run can be gone on with")
    parser.add_argument("--minutes", type=float, metavar="N", help="begin no study after that")


if __name__ == "__main__":
    sys.exit(run(NAME, measure, options=options))
