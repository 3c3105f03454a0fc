"""Real tokens per second of fine-tuning MiniLM against transformers' Trainer, with padding to a batch's longest row and grouped by length.

All sides see the same tokenised rows, 32 in a step, with the same learning rate, optimiser and dropout, in processes of their own that step
in turn (``programs/train_ours.py``, ``programs/finetune_trainer.py``). The full form trains to the end with three seeds and compares the
accuracy on the test rows; the quick one takes a part of an epoch, which says nothing of accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from benchmarks import peers
from benchmarks.cells import Answer, Cells
from benchmarks.harness import HERE, run, take_turns
from benchmarks.pretrain_throughput import fastest, rate, shown
from benchmarks.rows import Row, Samples, goal_of, row
from benchmarks.texts import TOKENIZER, write_rows
from benchmarks.turns import NEVER, Side
from corpus.movie_reviews import fetch, read_archive
from encoder.loading import load_tokenizer
from foundation.references import resolve
from training.assembly import tokenised
from training.config import FinetuneConfig
from training.planning import read_labelled

NAME = "finetune_throughput"
PEERS = {"against_dynamic_padding": "random", "against_group_by_length": "group_by_length"}
ACCURACY = "accuracy_difference"
ROWS_PER_STEP = 32
LENGTH = 128
ROUNDS = 5
"""Of the quick form, and in each epoch of the full one."""
QUICK_SECONDS = 250.0  # the ten steps of a round, five times: the fifty batches that the Trainer sorts at a time
SEEDS = (0, 1, 2)
WARMUP_STEPS = 3


@dataclass(frozen=True)
class Setting:
    """What all sides do."""

    epochs: float
    peak_lr: float
    dropout: float
    encoder: str = TOKENIZER
    warmup_share: float = 0.06
    max_length: int = LENGTH


@dataclass(frozen=True)
class Data:
    """The rows, as ours and as the peer takes them."""

    file: Path
    train: Path
    test: Path
    rows: int
    classes: int
    told: str
    fingerprint: str


def measure(
    quick: bool,
    *,
    data: Path | None = None,
    train_rows: int | None = None,
    epochs: float = 2,
    learning_rate: float = 1e-4,
    dropout: float = 0.1,
    work: Path | None = None,
    encoder: str = TOKENIZER,
    max_length: int = LENGTH,
    threads: int | None = None,
    seeds: Sequence[int] = SEEDS,
) -> list[Row]:
    """Both peers' rows, and in the full form that of the accuracy."""
    threads, setting = threads or len(os.sched_getaffinity(0)), Setting(epochs, learning_rate, dropout, encoder, max_length=max_length)
    with tempfile.TemporaryDirectory() as scratch:
        found = prepare(data, setting, train_rows, Path(scratch))
        commands = {"ours": ours(found, setting, 0, threads)}
        choices = {workers: trainer(found, setting, "random", 0, threads, workers) for workers in (0, 1)}
        workers, rates = fastest(choices, threads=threads, steps=WARMUP_STEPS)
        commands |= {name: trainer(found, setting, sampling, 0, threads, workers) for name, sampling in PEERS.items()}
        cells = Cells((work or Path(scratch) / "work") / NAME)
        runs: list[Answer] = []
        for seed in seeds[:1] if quick else seeds:
            asked = {"data": found.fingerprint, "setting": vars(setting), "seed": seed, "quick": quick, "threads": threads}
            sides = {"ours": ours(found, setting, seed, threads)}
            sides |= {name: trainer(found, setting, sampling, seed, threads, workers) for name, sampling in PEERS.items()}
            runs.append(cells.find(asked, partial(_train, sides, found, setting, quick, threads)))
        tried = ", ".join(f"{count} workers: {figure:,.0f}" for count, figure in rates.items())
        return _rows(runs, found, setting, commands, quick, f"The Trainer's data loader tried, real tokens/s: {tried}.", threads)


def prepare(file: Path | None, setting: Setting, train_rows: int | None, folder: Path) -> Data:
    """Read, split and tokenise the labelled rows, once for all sides."""
    table = read_archive(fetch()).select(["text", "label", "split"]) if file is None else pa.parquet.read_table(file)
    if train_rows is not None:
        is_train = np.array([split == "train" for split in table.column("split").to_pylist()])
        kept = np.random.default_rng(0).permutation(np.flatnonzero(is_train))[:train_rows]
        table = table.take(np.sort(np.concatenate([kept, np.flatnonzero(~is_train)])))
    own = folder / "rows.parquet"
    pa.parquet.write_table(table, own)
    config = recipe(own, setting, 0)
    data = read_labelled(config)
    split = data.test if len(data.test) else data.validation
    tokenizer = load_tokenizer(resolve(setting.encoder).location)
    train_ids, test_ids = (tokenised(tokenizer, part, setting.max_length)[0] for part in (data.train, split))
    told = (
        f"{len(data.train):,} training rows of {'movie-review snippets' if file is None else file.stem}, {len(data.labels)} classes, "
        f"{sum(map(len, train_ids)) / len(train_ids):.1f} tokens in the mean; {len(split):,} test rows"
    )
    return Data(
        file=own,
        train=write_rows(folder / "train.npz", train_ids, labels=data.train.labels),
        test=write_rows(folder / "test.npz", test_ids, labels=split.labels),
        rows=len(data.train),
        classes=len(data.labels),
        told=told,
        fingerprint=data.fingerprint,
    )


def recipe(file: Path, setting: Setting, seed: int) -> FinetuneConfig:
    """Ours, as ``raybert finetune`` takes it."""
    tree = {
        "data": {"train": str(file), "split_column": "split"},
        "encoder": setting.encoder,
        "epochs": setting.epochs,
        "rows_per_step": ROWS_PER_STEP,
        "max_length": setting.max_length,
        "dropout": setting.dropout,
        "seed": seed,
        "schedule": {"peak_lr": setting.peak_lr, "warmup_share": setting.warmup_share, "decay": "linear"},
    }
    return FinetuneConfig.model_validate(tree)


def ours(data: Data, setting: Setting, seed: int, threads: int) -> list[str]:
    """Our command."""
    spec = {"verb": "finetune", "recipe": recipe(data.file, setting, seed).model_dump(mode="json", exclude_unset=True), "threads": threads}
    return [sys.executable, str(HERE / "programs" / "train_ours.py"), json.dumps(spec)]


def trainer(data: Data, setting: Setting, sampling: str, seed: int, threads: int, workers: int) -> list[str]:
    """A peer's command."""
    spec = {
        "train": str(data.train),
        "test": str(data.test),
        "encoder": resolve(setting.encoder).location,
        "classes": data.classes,
        "batch_rows": ROWS_PER_STEP,
        "epochs": setting.epochs,
        "learning_rate": setting.peak_lr,
        "warmup_share": setting.warmup_share,
        "dropout": setting.dropout,
        "sampling": sampling,
        "workers": workers,
        "seed": seed,
        "threads": threads,
    }
    return [str(peers.environment("trainer")), str(HERE / "programs" / "finetune_trainer.py"), json.dumps(spec)]


def _train(commands: Mapping[str, list[str]], data: Data, setting: Setting, quick: bool, threads: int) -> Answer:
    """One seed: rates by side, and in the full form the accuracy on the test rows."""
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(command, threads=threads)) for name, command in commands.items()}
        first = {name: side.ask({"do": "steps", "count": WARMUP_STEPS}) for name, side in sides.items()}
        total = math.ceil(setting.epochs * data.rows / ROWS_PER_STEP) - WARMUP_STEPS
        if quick:
            seconds = sum(found["seconds"] / found["steps"] for found in first.values())
            steps, rounds = max(1, min(10, int(QUICK_SECONDS / ROUNDS / seconds), total // ROUNDS)), ROUNDS
        else:
            epoch = math.ceil(data.rows / ROWS_PER_STEP)
            steps = math.ceil(epoch / ROUNDS)
            rounds = max(1, total // steps)
        rates = take_turns({name: partial(rate, side, steps) for name, side in sides.items()}, rounds, warmup=0)
        accuracy = {}
        if not quick:
            for name, side in sides.items():
                side.ask({"do": "steps", "count": NEVER})  # what is left of the last epoch
                accuracy[name] = 100 * side.ask({"do": "test"})["accuracy"]
    return {"rates": rates, "accuracy": accuracy, "steps": steps}


def _rows(
    runs: Sequence[Answer], data: Data, setting: Setting, commands: Mapping[str, list[str]], quick: bool, tried: str, threads: int
) -> list[Row]:
    def finish(name: str, samples: Samples, peer: str, note: str) -> Row:
        return row(
            name,
            samples,
            goal_of(NAME, name),
            note=f"{note} MiniLM, {ROWS_PER_STEP} rows in a step, at most {setting.max_length} tokens, dropout {setting.dropout:g}, "
            f"{setting.epochs:g} epochs, learning rate {setting.peak_lr:g}. Data: {data.told}.",
            commands={"ours": shown(commands["ours"]), "peer": shown(commands[peer])},
            threads={"ours": threads, "peer": threads},
            peer_versions=peers.versions("trainer"),
        )

    def figures(side: str) -> tuple[float, ...]:
        return tuple(figure for found in runs for figure in found["rates"][side])

    part = "a part of the first epoch" if quick else f"all epochs of {len(runs)} seeds"
    scores = "" if quick else " " + _scores(runs)
    rows = [
        finish(name, Samples(figures("ours"), figures(name)), name, f"Each figure is {runs[0]['steps']} steps, {part}.{scores} {tried}")
        for name in PEERS
    ]
    if not quick:
        dynamic = "against_dynamic_padding"
        means = {side: statistics.mean(found["accuracy"][side] for found in runs) for side in ("ours", dynamic)}
        rows.append(finish(ACCURACY, Samples((means["ours"],), (means[dynamic],)), dynamic, f"Means of {len(runs)} seeds. {_scores(runs)}"))
    return rows


def _scores(runs: Sequence[Answer]) -> str:
    sides = {"ours": "ours", "against_dynamic_padding": "dynamic padding", "against_group_by_length": "grouped by length"}
    figures = {told: ", ".join(f"{found['accuracy'][side]:.2f}" for found in runs) for side, told in sides.items()}
    each = "; ".join(f"{told} {by_seed}" for told, by_seed in figures.items())
    return f"Accuracy on the test rows, %, by seed: {each}."


def options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument("--data", type=Path, metavar="FILE", help="Parquet with text, label and split; default: movie reviews")
    parser.add_argument("--train-rows", type=int, metavar="N", help="of the training rows, drawn once; default: all")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--dropout", type=float, default=0.1, help="of all sides; 0.1 is what the encoder's own configuration has")
    parser.add_argument("--max-length", type=int, default=LENGTH, metavar="N", help="tokens of a row; those behind are cut")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N", help="two commands with some each can use two cores")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps finished seeds, so that a run can be gone on with")


if __name__ == "__main__":
    sys.exit(run(NAME, measure, options=options))
