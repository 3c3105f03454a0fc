"""Tokens per second of pretraining against transformers' Trainer, our share of the machine's peak, and the time to a loss.

Both sides are processes of their own (``programs/train_ours.py``, ``programs/pretrain_trainer.py``) that step in turn: fp32, no dropout,
AdamW, rows of 128 tokens of the same documents, 15 % masked, as many threads. The Trainer runs at the settings that were its fastest in a
trial of each. Time to loss is ``time_to_loss.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.harness import HERE, alternate, run
from benchmarks.rows import Goal, Row, Samples, goal_of, row
from benchmarks.texts import LENGTH, MASK_SHARE, TOKENIZER, build, documents, lines, packed_rows, tokenised, write_rows
from benchmarks.time_to_loss import ROW as TIME_TO_LOSS
from benchmarks.time_to_loss import time_to_loss
from benchmarks.turns import NEVER, Side
from encoder.loading import load_tokenizer

NAME = "pretrain_throughput"
DOCUMENTS = 1_500
"""Of the corpus, spread evenly: more than the steps that are measured can see."""
ROUNDS = 5


@dataclass(frozen=True)
class Shape:
    """A model from scratch and its batch."""

    name: str
    """As rows are called."""
    layers: int
    hidden: int
    rows: int = 32
    quick_rows: int = 32
    """A smaller step, where five minutes are all there is."""
    steps: int = 2
    """In each round of the full form; 1 in the quick one."""


SHAPES = (
    Shape("4x256", 4, 256),
    Shape("4x512", 4, 512, quick_rows=16),
    Shape("12x768", 12, 768, rows=16, quick_rows=8, steps=1),
)
SHARE_OF_PEAK = ("4x512", "12x768")
LINES = "against_padded_lines_4x256"
ROWS = (
    *(f"against_trainer_{shape.name}" for shape in SHAPES),
    LINES,
    *(f"share_of_peak_{name}" for name in SHARE_OF_PEAK),
    TIME_TO_LOSS,
)
QUICK = ROWS[:-1]


@dataclass(frozen=True)
class Data:
    """Files of one benchmark."""

    packed: Path
    full: Path
    """The full packed rows, for the peer."""
    lines: Path
    tokenizer: Path
    told: str


def measure(
    quick: bool,
    *,
    corpus: Path | None = None,
    rows: Sequence[str] | None = None,
    work: Path | None = None,
    tokenizer: str = TOKENIZER,
    shapes: Sequence[Shape] = SHAPES,
    rounds: int = ROUNDS,
    threads: int | None = None,
) -> list[Row]:
    """The rows asked for; the quick form leaves out time to loss unless it is named."""
    wanted, threads = rows or (QUICK if quick else ROWS), threads or len(os.sched_getaffinity(0))
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        if set(wanted) & set(QUICK):
            data = prepare(corpus, Path(scratch), tokenizer)
            settings: dict[str, Any] = {}
            for shape in shapes:
                if {name for name in wanted if name.endswith(shape.name)} & set(QUICK):
                    found += _of_shape(shape, data, settings, wanted, quick, rounds=rounds, threads=threads)
        if TIME_TO_LOSS in wanted:
            found.append(time_to_loss(corpus, work or Path(scratch) / "work", tokenizer=tokenizer, quick=quick, threads=threads))
    return found


def prepare(corpus: Path | None, folder: Path, ref: str) -> Data:
    """Build and tokenise what both sides are trained on."""
    table = documents(corpus, DOCUMENTS if corpus else None)
    packed = build(table, folder / "packed", tokenizer=ref)
    tokenizer = load_tokenizer(str(packed.tokenizer_folder))
    special = tokenizer.all_special_ids
    full = packed_rows(packed)
    texts = [text for text, split in zip(*(table.column(name).to_pylist() for name in ("text", "split")), strict=True) if split == "train"]
    of_lines = list(tokenised(lines(texts), tokenizer, truncate=True))
    told = (
        f"{len(texts):,} {'documents of a corpus' if corpus else 'movie-review snippets'}; {len(full):,} of {len(packed):,} "
        f"packed rows are full and used; {len(of_lines):,} lines of {sum(map(len, of_lines)) / len(of_lines):.1f} tokens in the mean"
    )
    return Data(
        packed=packed.folder,
        full=write_rows(folder / "full.npz", full, special=special),
        lines=write_rows(folder / "lines.npz", of_lines, special=special),
        tokenizer=packed.tokenizer_folder,
        told=told,
    )


def ours(shape: Shape, data: Data, rows: int, *, threads: int, tokens_at_once: int = 4096) -> list[str]:
    """Our command: a recipe whose every step is a full one."""
    recipe = {
        "data": str(data.packed),
        "new_model": {"layers": shape.layers, "hidden": shape.hidden},
        "rows_per_step": rows,
        "tokens_per_microbatch": tokens_at_once,
        "steps": NEVER,
        "mask_share": MASK_SHARE,
        "schedule": {"peak_lr": 1e-4, "decay": "constant"},
    }
    spec = {"verb": "pretrain", "recipe": recipe, "full_rows": True, "threads": threads}
    return [sys.executable, str(HERE / "programs" / "train_ours.py"), json.dumps(spec)]


def trainer(
    shape: Shape, data: Data, rows: int, *, threads: int, workers: int = 0, compiled: bool = False, padding: str = "none"
) -> list[str]:
    """The peer's command."""
    spec = {
        "rows": str(data.full if padding == "none" else data.lines),
        "tokenizer": str(data.tokenizer),
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": max(1, shape.hidden // 64),
        "batch_rows": rows,
        "padding": padding,
        "length": LENGTH,
        "mask_share": MASK_SHARE,
        "workers": workers,
        "compile": compiled,
        "learning_rate": 1e-4,
        "decay": "constant",
        "warmup_steps": 0,
        "max_steps": NEVER,
        "seed": 0,
        "threads": threads,
    }
    return [str(peers.environment("trainer")), str(HERE / "programs" / "pretrain_trainer.py"), json.dumps(spec)]


def rate(side: Side, steps: int) -> float:
    """Real tokens per second over the next steps."""
    found = side.ask({"do": "steps", "count": steps})
    return float(found["tokens"] / found["seconds"])


def fastest(commands: dict[Any, list[str]], *, threads: int, steps: int = 1) -> tuple[Any, dict[Any, float]]:
    """The setting with the highest rate, each tried in a process of its own after one step that warms up; and all rates, 0 where it failed.

    Raises:
        RuntimeError: All failed.
    """
    rates: dict[Any, float] = {}
    for setting, command in commands.items():
        try:
            with Side(command, threads=threads) as side:
                rate(side, 1)
                rates[setting] = rate(side, steps)
        except RuntimeError as error:
            rates[setting] = 0.0
            if not any(rates.values()) and len(rates) == len(commands):
                raise
            print(f"left out, since it failed: {setting}: {error}", file=sys.stderr)
    return max(rates, key=lambda setting: rates[setting]), rates


def _of_shape(
    shape: Shape, data: Data, settings: dict[str, Any], wanted: Sequence[str], quick: bool, *, rounds: int, threads: int
) -> list[Row]:
    rows, steps = (shape.quick_rows, 1) if quick else (shape.rows, shape.steps)
    if not settings:  # tried on the first shape that is measured, and kept for the others
        commands = {
            (workers, compiled): trainer(shape, data, rows, threads=threads, workers=workers, compiled=compiled)
            for workers, compiled in product((0, 1), (False,) if quick else (False, True))
        }
        (workers, compiled), rates = fastest(commands, threads=threads, steps=steps)
        tried = ", ".join(f"{setting[0]} workers{', compiled' if setting[1] else ''}: {figure:,.0f}" for setting, figure in rates.items())
        settings |= {"workers": workers, "compiled": compiled, "tried": f"The Trainer's settings tried on {shape.name}, tokens/s: {tried}."}
    best = {name: settings[name] for name in ("workers", "compiled")}
    finish = partial(_row, data=data, threads=threads)
    found: list[Row] = []
    mine, names = ours(shape, data, rows, threads=threads), {f"against_trainer_{shape.name}", f"share_of_peak_{shape.name}"}
    if names & set(wanted):
        theirs = trainer(shape, data, rows, threads=threads, **best)
        peaks: list[float] = []
        with Side(mine, threads=threads) as us, Side(theirs, threads=threads) as peer:
            about = us.ask({"do": "about"})
            samples = alternate(partial(_rate_and_peak, us, steps, peaks), lambda: rate(peer, steps), rounds)
        note = f"{rows} rows of {LENGTH} tokens in a step, {MASK_SHARE:.0%} masked, vocabulary of bert-base-uncased."
        if f"against_trainer_{shape.name}" in wanted:
            found.append(finish(f"against_trainer_{shape.name}", samples, note=f"{note} {settings['tried']}", commands=(mine, theirs)))
        if f"share_of_peak_{shape.name}" in wanted:
            found.append(finish(f"share_of_peak_{shape.name}", *_share(samples, peaks, about), commands=(mine, mine)))
    if LINES.endswith(shape.name) and LINES in wanted:
        found.append(_against_lines(shape, data, rows, quick, best, finish, rounds=rounds, threads=threads))
    return found


def _rate_and_peak(us: Side, steps: int, peaks: list[float]) -> float:
    """Our rate; the peak is measured right after it, in the same process."""
    found = rate(us, steps)
    peaks.append(us.ask({"do": "peak"})["flops"])
    return found


def _share(samples: Samples, peaks: Sequence[float], about: dict[str, float]) -> tuple[Samples, str]:
    peak = statistics.median(peaks)
    shares = tuple(figure * about["flops_per_token"] / peak for figure in samples.ours)
    note = (
        f"The peer is the peak: {peak / 1e9:.1f} GFLOP/s, the median of a product of 1024³ in fp32 after each round "
        f"({', '.join(f'{figure / 1e9:.1f}' for figure in peaks)}). A token needs {about['flops_per_token'] / 1e6:.1f} MFLOP: "
        f"72·L·h² + share·6·(h² + h·V) + 12·L·h·T with a masked share of {about['mask_share']:.3f} and T = {about['attended']:.1f}, the "
        "tokens that a token attends to in the mean, since documents in a row do not attend to each other."
    )
    return Samples(shares, (1.0,)), note


def _against_lines(
    shape: Shape,
    data: Data,
    rows: int,
    quick: bool,
    best: dict[str, Any],
    finish: Callable[..., Row],
    *,
    rounds: int,
    threads: int,
) -> Row:
    sizes = (rows,) if quick else (rows, 4 * rows)
    commands = {
        (padding, size): trainer(shape, data, size, threads=threads, padding=padding, **best)
        for padding, size in product(("max_length", "longest"), sizes)
    }
    chosen, rates = fastest(commands, threads=threads)
    mine, theirs = ours(shape, data, rows, threads=threads), commands[chosen]
    with Side(mine, threads=threads) as us, Side(theirs, threads=threads) as peer:
        samples = alternate(lambda: rate(us, 1), lambda: rate(peer, 1 if quick else 2), rounds)
    tried = ", ".join(f"{padding} × {size} lines: {figure:,.0f}" for (padding, size), figure in rates.items())
    note = (
        f"Real tokens. Ours packs whole documents, {rows} rows of {LENGTH} tokens in a step; the peer takes each line of the same "
        f"documents as a row, cut at {LENGTH} tokens, {chosen[1]} of them in a step, padded to {chosen[0].replace('_', ' ')}. "
        f"Tried, tokens/s: {tried}."
    )
    return finish(LINES, samples, note=note, commands=(mine, theirs))


def _row(name: str, samples: Samples, note: str, *, data: Data, threads: int, commands: tuple[list[str], list[str]]) -> Row:
    goal: Goal = goal_of(NAME, name)
    sides = ("ours", "peer")
    return row(
        name,
        samples,
        goal,
        note=f"{note} Data: {data.told}.",
        commands=dict(zip(sides, map(shown, commands), strict=True)),
        threads=dict.fromkeys(sides, threads),
        peer_versions={} if name.startswith("share_of_peak") else peers.versions("trainer"),
    )


def shown(command: Sequence[str]) -> str:
    """A side's command line for people: the program, and its specification without folders of this machine."""
    given: dict[str, Any] = json.loads(command[-1])
    spec = {key: Path(value).name if isinstance(value, str) and "/" in value else value for key, value in given.items()}
    if "recipe" in given:
        spec["recipe"] = {key: value for key, value in given["recipe"].items() if key not in ("data", "encoder")}
    return f"python benchmarks/programs/{Path(command[1]).name} '{json.dumps(spec)}'"


def options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument(
        "--corpus", type=Path, metavar="FILE", help="Parquet with text and split (train, validation); default: movie reviews"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help=f"some of: {', '.join(ROWS)}")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps what time to loss has finished, so that it can be gone on with")


if __name__ == "__main__":
    sys.exit(run(NAME, measure, options=options))
