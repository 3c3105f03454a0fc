"""The labelled rows of a build: their classes before any work starts, checks when every row's split is known, and the files that hold
them. ``build.py`` calls these in turn; ``labelled.py`` reads the files again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.checks import CheckedRows, check, text_keys
from corpus.config import DataConfig
from corpus.findings import Finding, labelled_rows, not_in_train, refuse
from corpus.labels import LABELLED_SPLITS as SPLITS
from corpus.labels import check_classes, in_order, label_array, rows_with_unknown, stored, stored_type
from corpus.pieces import Piece, read_tables
from corpus.planning import BuildPlan
from corpus.splits import require_whole_groups
from corpus.store import PieceStore
from foundation.errors import DataError

_BATCH = 50_000


def label_names_of(plan: BuildPlan) -> tuple[str, ...]:
    """Class names of all labelled rows, which are read and checked before any work starts; empty without labelled sources, and for numbers.

    Raises:
        DataError: A row lacks text, pair or label; there is nothing to train on or to tell apart; a label of held-out rows is not in train.
    """
    trained, held_out, places = [], [], []
    checks = plan.config.checks
    for name, source in plan.config.sources.items():
        if not source.is_labelled:
            continue
        where = source.path or str(source.builtin)
        places.append(where)
        for file, _ in plan.inputs[name]:
            table = pa.concat_tables(read_tables(name, source, file, rows=plan.config.batch_documents))
            columns = ["id", "text", "label", "split", *(["pair"] if source.pair_column else [])]
            table = labelled_rows(table.select(columns), where, texts=checks.empty_texts).select(["id", "label", "split"])
            is_train = pc.equal(table.column("split"), "train")
            trained.append(table.column("label").filter(is_train).unique())
            held_out.append(table.filter(pc.invert(is_train)))
    if not places:
        return ()
    found = pa.chunked_array(trained, pa.string())
    if not len(found):
        raise DataError("sources: every labelled source has `split: test`; at least one must be for training")
    kind = plan.config.label_kind
    labels = check_classes(found, kind, ", ".join(places))
    others = pa.concat_tables(held_out)
    rows, unknown = rows_with_unknown(others.column("label"), labels, kind)
    if unknown and checks.unseen_labels == "refuse":
        splits = others.column("split").take(pa.array(rows)).unique().to_pylist()
        ids = others.column("id").take(pa.array(rows)).to_pylist()
        raise DataError(f"{' and '.join(sorted(splits))} rows: {not_in_train(unknown, ids, labels)}")
    return in_order([*labels, *unknown]) if unknown else labels


def check_labelled(
    config: DataConfig, store: PieceStore, pieces: Sequence[Piece], split: npt.NDArray[np.int8], labels: Sequence[str]
) -> tuple[Finding, ...]:
    """What the checks warn of, over all labelled rows, piece by piece: ids and digests stay in memory, texts don't.

    Args:
        config: The recipe.
        store: Where the prepared pieces are.
        pieces: In order.
        split: (N,) index into ``SPLITS`` of every row of the pieces.
        labels: Class names.

    Raises:
        DataError: Something is to be refused, or the sources divide a group.
    """
    if not any(source.is_labelled for source in config.sources.values()):
        return ()
    ids: list[str] = []
    keys, empty, numbers, forms, groups = [], [], [], [], []
    start = 0
    for piece in pieces:
        table = store.get(piece.key)
        labelled = table.column("label").is_valid()
        numbers.append(start + np.flatnonzero(labelled.to_numpy()))
        start += piece.rows
        table = table.filter(labelled)
        ids += table.column("id").to_pylist()
        texts = table.column("text").to_pylist()
        keys.append(text_keys(texts, table.column("pair").to_pylist() if config.has_pairs else None))
        empty.append(np.array([not text.strip() for text in texts], dtype=np.bool_))
        forms += table.column("label").chunks
        groups += table.column("group").chunks
    where = "labelled rows"
    splits = split[np.concatenate(numbers)]
    of_row = pa.chunked_array(groups, pa.string()).combine_chunks().dictionary_encode().indices.fill_null(-1)
    require_whole_groups(splits, of_row.to_numpy().astype(np.int64), ids, where)
    values = label_array(pa.chunked_array(forms, pa.string()), labels, config.label_kind)
    all_keys, all_empty = np.concatenate(keys), np.concatenate(empty)
    checked = {}
    for number, name in enumerate(SPLITS):
        rows = np.flatnonzero(splits == number)
        if len(rows) or name == "train":
            checked[name] = CheckedRows([ids[row] for row in rows.tolist()], all_keys[rows], all_empty[rows], values[rows])
    return refuse(check(checked, labels, config.checks), where)


def write_labelled(
    config: DataConfig, store: PieceStore, pieces: Sequence[Piece], split: npt.NDArray[np.int8], labels: Sequence[str], folder: Path
) -> dict[str, int]:
    """Write labelled rows by split, with class indices (or lists of them, or numbers); returns rows by split, nothing without such rows."""
    if not any(source.is_labelled for source in config.sources.values()):
        return {}
    folder.mkdir()
    columns = {"id": pa.string(), "text": pa.string(), "label": stored_type(config.label_kind), "source": pa.string()}
    schema = pa.schema(columns | ({"pair": pa.string()} if config.has_pairs else {}))
    counts = {}
    for which, name in enumerate(SPLITS):
        counts[name] = 0
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in _in_batches(_tables(config, store, pieces, split == which, labels), schema):
                writer.write_table(table)
                counts[name] += len(table)
    return counts


def _tables(
    config: DataConfig, store: PieceStore, pieces: Sequence[Piece], wanted: npt.NDArray[np.bool_], labels: Sequence[str]
) -> Iterator[pa.Table]:
    start = 0
    for piece in pieces:
        table = store.get(piece.key)
        here = wanted[start : start + piece.rows]
        start += piece.rows
        chosen = table.filter(pa.array(here & table.column("label").is_valid().to_numpy()))
        columns = {name: chosen.column(name) for name in ("id", "text")}
        columns |= {"label": stored(chosen.column("label"), labels, config.label_kind), "source": chosen.column("source")}
        yield pa.table(columns | ({"pair": chosen.column("pair")} if config.has_pairs else {}))


def _in_batches(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of ``_BATCH`` rows, so that the bytes that are written do not depend on how the rows came."""
    waiting = schema.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) >= _BATCH:
            yield waiting.slice(0, _BATCH).combine_chunks()
            waiting = waiting.slice(_BATCH)
    yield waiting.combine_chunks()
