"""Our side of ``data_throughput``: JSON lines → token ids → whole documents packed into rows → Arrow shards, in one process.

The functions of ``raybert data build``, called as it calls them, without its cleaning stages.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from corpus.packing import fill_rows, fill_share, origins, pack
from corpus.shards import write_shard
from corpus.sources import read_files
from corpus.tokenizer import encode, open_tokenizer

BATCH = 1_000
ROWS_PER_SHARD = 65_536


def main(documents: Path, tokenizer_folder: Path, length: int, out: Path) -> None:
    """Pack a file and print what it took."""
    tokenizer = open_tokenizer(tokenizer_folder)
    encode(tokenizer.serialised, ["warm"])  # loading the tokenizer is not what is measured, on either side
    start = time.perf_counter()
    texts = read_files(str(documents), text_column="text").column("text")
    pieces = [
        pa.array(encode(tokenizer.serialised, texts.slice(at, BATCH).to_pylist()), pa.list_(pa.int32()))
        for at in range(0, len(texts), BATCH)
    ]
    tokenised_s = time.perf_counter() - start
    views = [view for piece in pieces for view in np.split(piece.values.to_numpy(), piece.offsets.to_numpy()[1:-1])]
    rows = pack([len(view) for view in views], length)
    found = origins(rows)
    filled = fill_rows(rows, views, cls_id=tokenizer.record.cls_id, sep_id=tokenizer.record.sep_id)
    special_ids = tokenizer.record.special_ids
    for number, at in enumerate(range(0, len(filled), ROWS_PER_SHARD)):
        write_shard(out / f"shard-{number:05d}.arrow", filled[at : at + ROWS_PER_SHARD], found[at : at + ROWS_PER_SHARD], special_ids)
    seconds = time.perf_counter() - start
    tokens = sum(len(row.ids) for row in filled)
    answer = {"documents": len(views), "rows": len(filled), "tokens": tokens, "fill": fill_share(rows, length)}
    print(json.dumps({**answer, "seconds": seconds, "tokenise_s": tokenised_s}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
