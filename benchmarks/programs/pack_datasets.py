"""The peer of ``data_throughput``: ``datasets`` with ``tokenize_function`` and ``group_texts`` as transformers' run_mlm.py has them.

Runs in the peer's environment; imports nothing of ours. Several processes, or one whose tokenizer has as many threads as ours.
"""

import json
import os
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any


def main(documents: Path, tokenizer_folder: Path, length: int, out: Path, processes: int, batch_size: int) -> None:
    """Group a file and print what it took."""
    os.environ["HF_HOME"] = str(out)
    os.environ["HF_DATASETS_CACHE"] = str(out / "datasets")
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if processes == 1 else "false"
    mapping: dict[str, Any] = {"batched": True, "batch_size": batch_size, "num_proc": None if processes == 1 else processes}
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    tokenizer(["warm"])

    def tokenize_function(examples: Any) -> Any:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group_texts(examples: Any) -> Any:
        concatenated = {key: list(chain(*examples[key])) for key in examples}
        total = len(concatenated[next(iter(examples))])
        total = (total // length) * length
        return {key: [values[i : i + length] for i in range(0, total, length)] for key, values in concatenated.items()}

    start = time.perf_counter()
    raw = datasets.load_dataset("json", data_files=str(documents), split="train")
    tokenised = raw.map(tokenize_function, remove_columns=raw.column_names, **mapping)
    tokenised_s = time.perf_counter() - start
    grouped = tokenised.map(group_texts, **mapping)
    seconds = time.perf_counter() - start
    answer = {"documents": len(raw), "rows": len(grouped), "tokens": len(grouped) * length, "fill": 1.0}
    print(json.dumps({**answer, "seconds": seconds, "tokenise_s": tokenised_s}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
