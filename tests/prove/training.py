"""The long form of the engine contract and of recovery: ``make prove-training`` (about half an hour on two cores).

1. ZeRO 0, 1, 2 and 3 on two workers against the plain engine, over 200 steps of the same fine-tune: losses within 1e-5 relative over the
   first 20 steps and 1e-3 over all. Real reviews and the default encoder if they can be had, else generated ones.
2. The same stages on one worker, two, three and five, pretraining a tiny encoder with layer-wise rates, groups with and without decay and a
   frozen layer: the rows and masks of every step are those of the plain engine, and the losses as above. And runs that go from two workers
   to one, to three and back to two: the same once more, and the groups' settings.
3. Runs on a private Ray of which one worker is killed at a random step, once each with the shipped recipes for fine-tuning (dropout on) and
   for pretraining on real reviews, the others with a tiny encoder: every row once, and at the end the same bits as an undisturbed run, in
   parameters and optimiser state.
4. ZeRO 3 with the optimiser's states on a disk: the plain engine's losses, also when each goes on from the other's checkpoint. Left out
   where libaio's headers are missing.

Prints a table of the largest differences of each part; exit code 1 when one is too large.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.prove.verdict import Finding, judge

ROOT = Path(__file__).resolve().parents[2]

EARLY, EARLY_LIMIT, LIMIT = 20, 1e-5, 1e-3
_LONGEST_S = 3600  # of a part; a bound for what hangs


def material(folder: Path, *, generated: bool) -> tuple[str, Path]:
    """Encoder folder and labelled CSV."""
    from corpus.movie_reviews import fetch, read_archive
    from foundation.errors import RaybertError
    from foundation.references import resolve
    from tests.support.tiny import make_encoder, write_reviews
    from training.config import DEFAULT_ENCODER

    if not generated:
        try:
            encoder = resolve(DEFAULT_ENCODER).location
            rows = [row for row in read_archive(fetch()).to_pylist() if row["split"] == "train"]
            with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
            return encoder, folder / "reviews.csv"
        except RaybertError as error:
            print(f"no real data here ({error}); generated data instead")
    return str(make_encoder(folder / "encoder", hidden=64, layers=4)), write_reviews(folder / "reviews.csv", 2000)


def real_recipe(encoder: str, data: Path, workers: int, sharding: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A fine-tune of a model that people use."""
    recipe = {"encoder": encoder, "data": {"train": str(data)}, "rows_per_step": 8, "max_length": 48, "dropout": 0.0}
    return recipe | {"schedule": {"peak_lr": 2e-5}, "workers": {"count": workers}, "sharding": sharding} | more


def relative(found: list[float], wanted: list[float]) -> list[float]:
    """Relative differences, step by step."""
    return [abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True)]


def prove_engines(folder: Path, encoder: str, data: Path, steps: int) -> list[Finding]:
    """Losses of every engine against the plain one's."""
    from tests.support.gang import run_gangs

    def task(engine: str, stage: int, workers: int) -> dict[str, Any]:
        recipe = real_recipe(encoder, data, workers, {"engine": engine, "zero_stage": stage}, rows_per_microbatch=4)
        return {"verb": "finetune", "encoder": encoder, "steps": steps, "recipe": recipe, "evaluates": False}

    gangs = {1: {"plain": task("torch", 0, 1)}, 2: {f"zero{stage}": task("deepspeed", stage, 2) for stage in range(4)}}
    print(f"engines: {steps} steps each of the plain engine and ZeRO 0-3, encoder {encoder}, data {data.name}", flush=True)
    found = run_gangs(gangs, folder / "gangs", timeout_s=_LONGEST_S)
    table = []
    for stage in range(4):
        differences = relative(found[f"zero{stage}"]["losses"], found["plain"]["losses"])
        found_here = f"ZeRO {stage}, 2 workers"
        table.append(Finding(found_here, f"loss, steps 1-{EARLY}", max(differences[:EARLY]), EARLY_LIMIT))
        table.append(Finding(found_here, f"loss, steps 1-{steps}", max(differences), LIMIT))
    losses = found["plain"]["losses"]
    print(f"plain engine's loss: {losses[0]:.4f} at the first step, {sum(losses[-20:]) / len(losses[-20:]):.4f} over the last twenty")
    return table


SIZES, RESIZED = (1, 2, 3, 5), (2, 1, 3, 2)


def prove_sizes(folder: Path, steps: int) -> list[Finding]:
    """Rows, masks and losses at every stage and number of workers, and while that number changes."""
    from tests.support.gang import run_gangs
    from tests.support.tiny import make_encoder, make_packed

    encoder = make_encoder(folder / "tiny")
    own = {
        "pretrain": {"data": str(make_packed(folder / "packed", encoder)), "steps": steps},
        "finetune": {"data": {"train": "generated"}, "dropout": 0.0, "freeze": 1},
    }

    def task(verb: str, stage: int | None, workers: int, upto: int = steps, **more: Any) -> dict[str, Any]:
        recipe = own[verb] | {
            "encoder": str(encoder),
            "rows_per_step": 7,
            "rows_per_microbatch": 2,
            "schedule": {"peak_lr": 1e-3},
            "optimiser": {"layer_decay": 0.8, "weight_decay": 0.1, "clip_norm": 0.5},
            "workers": {"count": workers},
            "sharding": {"engine": "torch" if stage is None else "deepspeed", "zero_stage": stage or 0},
        }
        task = {"verb": verb, "encoder": str(encoder), "steps": upto, "total_steps": steps, "recipe": recipe, "evaluates": False}
        return task | more

    print(
        f"sizes: {steps} steps each of ZeRO 0-3 on {', '.join(map(str, SIZES))} workers, and on {' → '.join(map(str, RESIZED))}", flush=True
    )
    cases = [(verb, stage) for verb in own for stage in range(4)]
    gangs = {workers: {f"{verb}|ZeRO {stage}|{workers}": task(verb, stage, workers) for verb, stage in cases} for workers in SIZES}
    gangs[1] |= {verb: task(verb, None, 1) for verb in own}
    found = run_gangs(gangs, folder / "sizes", timeout_s=_LONGEST_S)
    plain = {verb: found.pop(verb) for verb in own}
    parts: dict[str, list[dict[str, Any]]] = {}
    for number, workers in enumerate(RESIZED, 1):
        segment = {}
        for verb, stage in cases:
            place = folder / f"{verb}-{stage}"
            before = {"start_from": f"{place}-{number - 1}"} if number > 1 else {}
            upto = steps * number // len(RESIZED)
            segment[f"{verb}|ZeRO {stage}"] = task(verb, stage, workers, upto, save_to=f"{place}-{number}", **before)
        for name, run in run_gangs({workers: segment}, folder / f"segment-{number}", timeout_s=_LONGEST_S).items():
            parts.setdefault(f"{name}|{' → '.join(map(str, RESIZED))}", []).append(run)
    for name, runs in parts.items():
        found[name] = {key: [item for run in runs for item in run[key]] for key in ("losses", "consumed")} | {"groups": runs[-1]["groups"]}
    table = []
    for name, run in found.items():
        verb, stage, workers = name.split("|")
        differences, what = relative(run["losses"], plain[verb]["losses"]), f"tiny {verb}, {stage}, workers {workers}"
        others = sum(mine != wanted for mine, wanted in zip(run["consumed"], plain[verb]["consumed"], strict=True))
        table.append(Finding(what, "steps with other rows or masks", float(others), 0.0))
        table.append(Finding(what, "group settings that differ", float(run["groups"] != plain[verb]["groups"]), 0.0))
        table.append(Finding(what, f"loss, steps 1-{EARLY}", max(differences[:EARLY]), EARLY_LIMIT))
        table.append(Finding(what, f"loss, steps 1-{steps}", max(differences), LIMIT))
    return table


def prove_disk(folder: Path, encoder: str, data: Path) -> list[Finding]:
    """Losses with states on a disk, and of runs that change between it and the plain engine."""
    from tests.support.gang import run_gangs
    from training.disk_offload import unusable

    if missing := unusable(folder / "parent" / "run" / "rank", 0, 1):
        print(f"disk: left out: {missing}", flush=True)
        return []
    steps, half, most = 2 * EARLY, EARLY, 3 * EARLY // 2

    def task(engine: str, upto: int = steps, **more: Any) -> dict[str, Any]:
        disk = {"zero_stage": 3, "offload": "all", "offload_folder": str(folder / "states")} if engine == "deepspeed" else {}
        small = {"deepspeed": {"zero_optimization": {"sub_group_size": 2_000_000}}} if disk else {}
        groups = {"layer_decay": 0.8, "weight_decay": 0.1, "clip_norm": 0.5}
        sharding = {"engine": engine, **disk, **small}
        recipe = real_recipe(encoder, data, 2 if disk else 1, sharding, rows_per_microbatch=2, optimiser=groups)
        whole = {"verb": "finetune", "encoder": encoder, "steps": upto, "total_steps": steps, "recipe": recipe, "evaluates": False}
        return whole | more

    print(f"disk: {steps} steps of ZeRO 3 with the optimiser's states on a disk", flush=True)
    first, second = str(folder / "half"), str(folder / "most")
    plain = {"plain": task("torch"), "before": task("torch", half, save_to=first)}
    found = run_gangs({1: plain, 2: {"disk": task("deepspeed")}}, folder / "gangs", timeout_s=_LONGEST_S)
    there = run_gangs({2: {"there": task("deepspeed", most, start_from=first, save_to=second)}}, folder / "there", timeout_s=_LONGEST_S)
    back = run_gangs({1: {"back": task("torch", start_from=second)}}, folder / "back", timeout_s=_LONGEST_S)
    wanted = found["plain"]["losses"]
    changing = found["before"]["losses"] + there["there"]["losses"] + back["back"]["losses"]
    files = {file.name.rpartition("-")[0] for file in (folder / "states").rglob("*.swp")}
    return [
        Finding("disk, 2 workers", f"loss, steps 1-{steps}", max(relative(found["disk"]["losses"], wanted)), EARLY_LIMIT),
        Finding("plain → disk → plain", f"loss, steps 1-{steps}", max(relative(changing, wanted)), EARLY_LIMIT),
        Finding("disk, 2 workers", "moments that are in no file", float(len({"exp_avg", "exp_avg_sq"} - files)), 0.0),
    ]


@dataclass(frozen=True)
class Recovery:
    """A recipe for two workers, and how often one of them is killed while it runs."""

    name: str
    verb: Literal["finetune", "pretrain"]
    file: Path | None
    overrides: tuple[str, ...]
    kills: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """For the command line."""
        return (*(("-c", str(self.file)) if self.file else ()), *self.overrides)

    @property
    def recipe(self) -> Any:
        """The parsed recipe."""
        from foundation.config import load
        from training.verb_config import KINDS

        return load(KINDS[self.verb], self.file, self.overrides)

    def row_ids(self) -> list[str]:
        """Ids of the training rows, in order."""
        from corpus.labelled import load_labelled
        from corpus.shards import PackedRows

        if self.verb == "finetune":
            return load_labelled(self.recipe.data).train.ids
        return [str(row) for row in range(len(PackedRows.open(Path(self.recipe.data))))]


def recoveries(folder: Path, encoder: str, reviews: Path, kills: int) -> list[Recovery]:
    """The shipped recipes, killed once each, and a tiny one for the rest."""
    from tests.support.tiny import make_encoder, make_packed, write_reviews

    shipped = Recovery(
        "shipped finetune",
        "finetune",
        ROOT / "configs" / "finetune_movie_reviews_cpu.yaml",
        (
            f"encoder={encoder}",
            f"data.train={reviews}",
            "dropout=0.1",
            "register_as=null",
            "workers.count=2",
            "workers.cpus_each=1",
            "checkpoint.every_steps=20",
            "stop_after_steps=90",
            "record_rows=true",
        ),
        1,
    )
    pretraining = Recovery(
        "shipped pretrain",
        "pretrain",
        ROOT / "configs" / "pretrain_movie_reviews_cpu.yaml",
        (
            f"encoder={encoder}",
            f"data={make_packed(folder / 'packed', Path(encoder), reviews=reviews, sequence_length=64)}",
            "steps=120",
            "checkpoint.every_steps=30",
            "checkpoint.keep=2",
            "record_rows=true",
        ),
        1,
    )
    small = Recovery(
        "tiny finetune",
        "finetune",
        None,
        (
            f"encoder={make_encoder(folder / 'tiny')}",
            f"data.train={write_reviews(folder / 'recovery.csv', 200)}",
            "rows_per_step=7",
            "rows_per_microbatch=2",
            "max_length=32",
            "dropout=0.1",
            "epochs=12",
            "seed=11",
            "schedule.peak_lr=3e-3",
            "workers.count=2",
            "workers.cpus_each=0.5",
            "checkpoint.every_steps=40",
            "record_rows=true",
        ),
        kills - 2,
    )
    return [recovery for recovery in (shipped, pretraining, small)[:kills] if recovery.kills > 0]


def prove_recoveries(folder: Path, encoder: str, reviews: Path, kills: int) -> list[Finding]:
    """``prove_recovery`` for each recipe."""
    return [finding for recovery in recoveries(folder, encoder, reviews, kills) for finding in prove_recovery(folder, recovery)]


def prove_recovery(folder: Path, recovery: Recovery) -> list[Finding]:
    """Rows of the table for an undisturbed run and the killed ones."""
    from tests.conftest import Cli, environment_of
    from tests.support.history import attempts, differing_bits, expected_rows, last_checkpoint, surviving_losses, surviving_rows

    print(f"{recovery.name}: an undisturbed run", flush=True)
    home = folder / "home"
    cli = Cli(environment_of(home), folder)
    undisturbed = cli(recovery.verb, *recovery.arguments, "--json", timeout_s=600)
    if undisturbed.exit_code:
        raise SystemExit(undisturbed.err)
    whole = Path(undisturbed.json["run_folder"])
    wanted = surviving_losses(whole)
    recipe, ids = recovery.recipe, recovery.row_ids()
    table = []
    for _ in range(recovery.kills):
        seed = random.randrange(2**32)
        run = killed_run(cli, home, recovery, random.Random(seed), len(wanted))
        print(f"kill seed {seed}: went on from step {attempts(run)[1]['step']}", flush=True)
        rows = surviving_rows(run)
        expected = expected_rows(ids, len(wanted), rows_per_step=recipe.rows_per_step, seed=recipe.seed)
        wrong = sum(rows.get(position) != expected[position] for position in expected) + len(rows.keys() - expected.keys())
        losses = surviving_losses(run)
        what = f"{recovery.name}, {seed}"
        table.append(Finding(what, "steps with other rows", float(wrong), 0.0))
        table.append(Finding(what, "loss, all steps", max(relative(losses, wanted)), 0.0))
        other = differing_bits(last_checkpoint(run), last_checkpoint(whole))
        for name in other[:5]:
            print(f"other bits: {name}", flush=True)
        table.append(Finding(what, "tensors with other bits", float(len(other)), 0.0))
    return table


def killed_run(cli: Any, home: Path, recovery: Recovery, draw: random.Random, steps: int) -> Path:
    """Start a run, kill a worker at a step that ``draw`` gives, wait for its end; returns the run's folder."""
    from tests.conftest import end_group, wait_for
    from tests.support.history import attempts, has_come_to, workers

    every, runs = recovery.recipe.checkpoint.every_steps, f"runs/{recovery.verb}-*"
    # The first checkpoint is committed when the second has been reported.
    step, rank = draw.randrange(2 * every + 1, steps - every // 2), draw.randrange(2)
    known = set(home.glob(runs))
    process = cli.start(recovery.verb, *recovery.arguments, "--json")
    try:
        wait_for(lambda: set(home.glob(f"{runs}/metrics.jsonl")) - {run / "metrics.jsonl" for run in known}, 120)
        (run,) = set(home.glob(runs)) - known
        wait_for(lambda: has_come_to(run, step, saved=2 * every), 400)
        os.kill(workers(run)[rank], signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: len(attempts(run)) > 1, 180, "a restart")
        print(f"rank {rank} killed at step {step}; training again after {time.monotonic() - killed:.1f} s", flush=True)
        ended = cli.finish(process, timeout_s=600)
    finally:
        if process.poll() is None:
            end_group(process)
    if ended.exit_code:
        raise SystemExit(ended.err)
    return run


def main() -> int:
    """Prove, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--kills", type=int, default=4, help="of which one each hits the shipped recipes")
    parser.add_argument("--generated", action="store_true", help="do not look for real data")
    parser.add_argument("--only", choices=("engines", "sizes", "recovery", "disk"), nargs="+", help="parts to prove; default: all")
    given = parser.parse_args()
    began, code = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="raybert-prove-training-") as name:
        folder = Path(name)
        encoder, data = material(folder, generated=given.generated)
        parts = {
            "engines": lambda place: prove_engines(place, encoder, data, given.steps),
            "sizes": lambda place: prove_sizes(place, given.steps),
            "recovery": lambda place: prove_recoveries(place, encoder, data, given.kills),
            "disk": lambda place: prove_disk(place, encoder, data),
        }
        for part in given.only or parts:
            place = folder / part
            place.mkdir()
            code |= judge(parts[part](place))  # each when it is known: what comes after may fail
    print(f"{time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
