"""Kept texts become token ids, piece by piece; before that, where the recipe asks for it, a vocabulary is learned from them.

What is made of a piece is kept in the store under what it was made from: the piece, what was decided about its rows, the tokenizer. The
texts are those that are packed for training or validation, without the paragraphs and lines that the decisions took. A tokenizer is trained
on training texts alone. Knows nothing of rows (``windows.py``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.config import DataConfig, TrainTokenizerConfig
from corpus.decisions import Decisions
from corpus.labels import LABELLED_SPLITS as SPLITS
from corpus.manifest import TokenisedRecord, fingerprint_of
from corpus.pieces import Piece, Sample
from corpus.pii import placeholders_of
from corpus.stages import STAGE_VERSION, CountWords, Mapper, OnProgress, Removal, Stage, Tokenise
from corpus.store import PieceStore
from corpus.tokenizer import TokenizerPlan, open_tokenizer
from corpus.wordpiece import WORDPIECE_VERSION, learn

_TOKENISED_VERSION = 2
"""Of what ``Tokenise`` gives: ids alone in version 1."""
_PIECES_IN_WAVE = 16
_TABLES_AT_ONCE = 64


class KeptTexts:
    """The texts of a build after the decisions about them."""

    def __init__(
        self,
        config: DataConfig,
        mapper: Mapper,
        store: PieceStore,
        pieces: Sequence[Piece],
        decisions: Decisions,
        on_progress: OnProgress,
    ) -> None:
        """N = rows of all ``pieces``, in order; ``decisions`` are about them."""
        self.config, self.decisions = config, decisions
        self.used: list[str] = []
        """Keys of everything of the store that the results rest on."""
        self._mapper, self._store, self._pieces, self._on_progress = mapper, store, pieces, on_progress
        self._starts = np.cumsum([0, *(piece.rows for piece in pieces)])

    def train_tokenizer(self) -> TokenizerPlan:
        """Learn a vocabulary from the training texts; one that was learned from the same words before is taken from the store.

        Raises:
            DataError: See ``wordpiece.learn``.
        """
        import tokenizers

        config = self.config.train_tokenizer
        assert config is not None
        pii = self.config.cleaning.pii
        placeholders = placeholders_of(pii.kinds if pii else ())
        stage = CountWords(config, placeholders, self._removal)
        normalised = [WORDPIECE_VERSION, config.lowercase, config.strip_accents, placeholders]
        counted = self._map("count words", stage, self._learned_from(config), normalised)
        key = fingerprint_of([WORDPIECE_VERSION, tokenizers.__version__, config.model_dump(mode="json"), placeholders, counted])
        files = self._store.note(key)
        if files is None:
            files = learn(self._summed(counted), config, placeholders)
            self._store.put_note(key, files)
        self.used.append(key)
        with tempfile.TemporaryDirectory(prefix="raybert-tokenizer-") as folder:
            for name, content in files.items():
                (Path(folder) / name).write_text(content, encoding="utf-8")
            return open_tokenizer(Path(folder), placeholders)

    def tokenise(self, tokenizer: TokenizerPlan) -> list[str]:
        """Keys of the token ids of every piece."""
        stage = Tokenise(tokenizer.serialised, tokenizer.unknown_id, self._removal)
        return self._map("tokenise", stage, self.decisions.keep, [_TOKENISED_VERSION, tokenizer.record.sha256])

    def measured(self, tokenised: Sequence[str]) -> dict[str, TokenisedRecord]:
        """Source to what tokenising its texts gave; ``tokenised`` are the keys from ``tokenise``."""
        totals: dict[str, list[int]] = {}
        for piece, key in zip(self._pieces, tokenised, strict=True):
            table = self._store.get(key)
            tokens = pc.sum(pc.list_value_length(table.column("ids"))).as_py() or 0
            found = [pc.sum(table.column("words")).as_py() or 0, tokens, pc.sum(table.column("unknown")).as_py() or 0]
            totals[piece.source] = [a + b for a, b in zip(totals.get(piece.source, [0, 0, 0]), found, strict=True)]
        return {source: TokenisedRecord.of(*counts) for source, counts in totals.items()}

    def _map(self, what: str, stage: Stage, keep: npt.NDArray[np.bool_], how: object) -> list[str]:
        """Keys of what ``stage`` makes of every piece, of the rows for which ``keep``, (N,), holds.

        Results are found again by the texts and by ``how``: what else decides, as JSON.
        """
        removal = self._removal
        shared = fingerprint_of([STAGE_VERSION, what, removal.paragraph_characters, removal.frequent_lines.hex(), how])
        keys = []
        for number, piece in enumerate(self._pieces):
            decided = [np.packbits(found).tobytes().hex() for found in (self._of(keep, number), self._flags[number])]
            keys.append(fingerprint_of([shared, piece.key, decided]))
        self.used += keys
        missing = [number for number, key in enumerate(keys) if not self._store.has(key)]
        total = int(self._starts[-1])
        done = total - sum(self._pieces[number].rows for number in missing)
        for start in range(0, len(missing), _PIECES_IN_WAVE):
            wave = missing[start : start + _PIECES_IN_WAVE]
            tables = []
            for number in wave:
                table = self._store.get(self._pieces[number].key)
                drop = pa.ListArray.from_arrays(_offsets(table.column("paragraphs")), pa.array(self._flags[number]))
                tables.append(pa.table({"clean": table.column("clean"), "keep": pa.array(self._of(keep, number)), "drop": drop}))
            with closing(self._mapper(tables, stage)) as mapped:
                for number, result in zip(wave, mapped, strict=True):
                    self._store.put(keys[number], result)
                    done += self._pieces[number].rows
                    self._on_progress(what, done, total)
        return keys

    def _learned_from(self, config: TrainTokenizerConfig) -> npt.NDArray[np.bool_]:
        """(N,) the training rows to learn from; drawn by row number where there is more text than asked for."""
        train: npt.NDArray[np.bool_] = self.decisions.keep & (self.decisions.split == SPLITS.index("train"))
        characters = 0
        for number, piece in enumerate(self._pieces):
            lengths = pc.utf8_length(self._store.get(piece.key).column("clean")).to_numpy()
            characters += int(lengths[self._of(train, number)].sum())
        if characters <= config.characters:
            return train
        train &= Sample(config.characters / characters, self.config.seed)(0, len(train))
        return train

    def _summed(self, counted: Sequence[str]) -> pa.Table:
        """The words of all pieces, each once, ascending; memory is that of the different words and of a few pieces."""
        total = pa.table({"word": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
        for start in range(0, len(counted), _TABLES_AT_ONCE):
            tables = [self._store.get(key) for key in counted[start : start + _TABLES_AT_ONCE]]
            grouped = pa.concat_tables([total, *tables]).group_by("word").aggregate([("count", "sum")])
            total = pa.table({"word": grouped.column("word"), "count": grouped.column("count_sum")})
        return total.sort_by("word")

    def _of(self, rows: npt.NDArray[np.bool_], number: int) -> npt.NDArray[np.bool_]:
        """Of (N,), the part of piece ``number``."""
        return rows[self._starts[number] : self._starts[number + 1]]

    @cached_property
    def _removal(self) -> Removal:
        cleaning, frequent = self.config.cleaning, self.decisions.frequent_lines
        return Removal(
            paragraph_characters=cleaning.repeated_paragraphs,
            frequent_lines=b"" if frequent is None else frequent.tobytes(),
            line_characters=cleaning.boilerplate.min_counted_characters if cleaning.boilerplate else 1,
        )

    @cached_property
    def _flags(self) -> list[npt.NDArray[np.bool_]]:
        """Of each piece, one flag for each digest in ``paragraphs``: leave that paragraph out."""
        if self.decisions.dropped_paragraphs is None:
            return [np.zeros(0, dtype=np.bool_) for _ in self._pieces]
        counts = [int(_offsets(self._store.get(piece.key).column("paragraphs"))[-1].as_py()) for piece in self._pieces]
        return np.split(self.decisions.dropped_paragraphs, np.cumsum(counts)[:-1])


def _offsets(lists: pa.ChunkedArray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int32))
