"""Our side of ``data_throughput``: JSON lines → token ids → whole documents packed into rows → Arrow shards, in one process.

What ``raybert data build`` runs when nothing is cleaned: its reader, its stage ``Tokenise``, its ``PackedWriter``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from corpus.config import DataConfig
from corpus.files import files_of
from corpus.sources import read_file
from corpus.stages import Tokenise
from corpus.tokenizer import open_tokenizer
from corpus.windows import PackedWriter


def main(documents: Path, tokenizer_folder: Path, length: int, out: Path) -> None:
    """Pack a file and print what it took."""
    sources = {"documents": {"path": str(documents)}}
    config = DataConfig.model_validate({"sources": sources, "tokenizer": str(tokenizer_folder), "out": str(out), "sequence_length": length})
    tokenizer = open_tokenizer(tokenizer_folder)
    stage = Tokenise(tokenizer.serialised)
    stage(_decided(pa.table({"text": ["warm"]})))  # loading the tokenizer is not what is measured, on either side
    start = time.perf_counter()
    (out / "packed").mkdir()
    writer = PackedWriter(out, "shard", config, tokenizer)
    number, tokenise_s = 0, 0.0
    for file in files_of(str(documents)):
        for table in read_file(file, text_column="text", rows=config.batch_documents):
            began = time.perf_counter()
            ids = stage(_decided(table)).column("ids").combine_chunks()
            tokenise_s += time.perf_counter() - began
            values, offsets = ids.values.to_numpy(), ids.offsets.to_numpy()
            for row in range(len(ids)):
                writer.add(number + row, values[offsets[row] : offsets[row + 1]])
            number += len(ids)
    record = writer.close(number)
    seconds = time.perf_counter() - start
    answer = {"documents": number, "rows": record.rows, "tokens": record.tokens, "fill": record.fill}
    print(json.dumps({**answer, "seconds": seconds, "tokenise_s": tokenise_s}))


def _decided(table: pa.Table) -> pa.Table:
    """What ``Tokenise`` is given: all rows are kept."""
    return pa.table({"clean": table.column("text"), "keep": pa.array(np.ones(len(table), dtype=np.bool_))})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
