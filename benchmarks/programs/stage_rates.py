"""Rates of what ``raybert data build`` does before and around packing, each stage alone and then the whole build: one process, one thread
but for the tokenizer's.

Started by ``data_throughput``; its answers go into that row's note.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from corpus.build import apply
from corpus.cleaning import repair
from corpus.config import DataConfig, NearDuplicateConfig
from corpus.contamination import contaminated, grams
from corpus.language import reason_to_drop_language
from corpus.minhash import band_keys, banding, signatures
from corpus.pii import PiiRules, scrub
from corpus.planning import plan
from corpus.quality import reason_to_drop
from corpus.quality_config import FineWebConfig, GopherConfig, GopherRepetitionConfig, LanguageConfig, QualityConfig
from corpus.sources import read_files
from corpus.stages import map_here

BATCH = 1_000
QUALITY = QualityConfig(gopher=GopherConfig(), gopher_repetition=GopherRepetitionConfig(), fineweb=FineWebConfig())
NEAR = NearDuplicateConfig()
EVERYTHING = {
    "language": {},
    "quality": {"gopher_repetition": {}},
    "boilerplate": {},
    "repeated_paragraphs": 100,
    "near_duplicates": {},
    "pii": {},
}


def main(documents: Path, evaluation: Path, tokenizer_folder: Path, length: int, out: Path) -> None:
    """Print seconds by stage, documents and bytes."""
    texts: list[str] = read_files(str(documents), text_column="text").column("text").to_pylist()
    index = grams(read_files(str(evaluation), text_column="text").column("text").to_pylist())
    rules = PiiRules()

    def each(judge: Callable[[str], object]) -> Callable[[list[str]], object]:
        return lambda batch: [judge(text) for text in batch]

    stages: dict[str, Callable[[list[str]], object]] = {
        "repair": each(repair),
        "language": each(lambda text: reason_to_drop_language(text, LanguageConfig(keep=("en",)))),
        "quality": each(lambda text: reason_to_drop(text, QUALITY)),
        "near-duplicate signatures": lambda batch: band_keys(signatures(batch, NEAR), banding(NEAR)),
        "personal data": each(lambda text: scrub(text, rules)),
        "decontamination": lambda batch: contaminated(batch, index),
    }
    seconds = {}
    for name, stage in stages.items():
        stage(texts[:10])
        began = time.perf_counter()
        for start in range(0, len(texts), BATCH):
            stage(texts[start : start + BATCH])
        seconds[name] = time.perf_counter() - began
    tree = {
        "sources": {"documents": {"path": str(documents)}},
        "tokenizer": str(tokenizer_folder),
        "out": str(out / "built"),
        "sequence_length": length,
        "cleaning": EVERYTHING | {"decontaminate": [str(evaluation)]},
    }
    config = DataConfig.model_validate(tree)
    began = time.perf_counter()
    apply(plan(config, tokenizer_folder), map_here)
    seconds["the whole build, all of these on"] = time.perf_counter() - began
    print(json.dumps({"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts), "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
