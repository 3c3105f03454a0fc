"""The per-row work of a build, as picklable functions over Arrow tables: first ``Prepare`` (repair, judge, fingerprint), then, when all
rows have been seen and decided upon, ``Tokenise`` (and before it ``CountWords``, where a tokenizer is trained).

They run anywhere: in this process, or in Ray tasks (``ray_stages.py``). Rows never see each other here; what needs all rows (duplicates,
splits, packing) is ``decisions.py`` and ``build.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.boilerplate import line_digests, without_boilerplate, without_lines
from corpus.cleaning import one_line, reason_to_drop, repair
from corpus.config import CleaningConfig, TrainTokenizerConfig
from corpus.contamination import EvaluationIndex, contaminated
from corpus.duplicates import document_digests, paragraph_digests, without_paragraphs
from corpus.encoding import encode_all
from corpus.language import reason_to_drop_language
from corpus.minhash import band_keys, banding, signatures
from corpus.pii import PiiRules, scrub
from corpus.quality import keep_lines
from corpus.quality import reason_to_drop as quality_reason
from corpus.wordpiece import count_words
from corpus.words import word_counts

STAGE_VERSION = 2
"""Of everything below this line: results kept under another one are made again."""

Stage = Callable[[pa.Table], pa.Table]
Mapper = Callable[[Iterable[pa.Table], Stage], Generator[pa.Table, None, None]]
"""Applies a stage to tables and yields the results in order; closed early, it frees what it holds."""
OnProgress = Callable[[str, int, int], None]
"""Told (what is done, units done, units in all): ``clean`` in kilobytes of input, ``count words`` and ``tokenise`` in documents."""


@dataclass(frozen=True)
class Prepare:
    """Repair, judge and clean. Adds to the columns of ``pieces.read_tables``:

    * ``clean`` string: the text for the packed corpus, lines kept, personal data replaced
    * ``changed`` bool: repair altered the text
    * ``reason`` string: why the row does not enter the packed corpus; null keeps it
    * ``counts`` string: what was replaced, as JSON object of kind to number; null when nothing was
    * ``digest`` 16 bytes: rows with equal ones are duplicates
    * ``paragraphs`` list of 16 bytes: digests of its long paragraphs (empty unless asked for)
    * ``lines`` list of uint64: digests of its lines (empty unless asked for)
    * ``signature`` list<uint32> and ``bands`` list<uint64>: for near-duplicates (empty unless asked for)

    ``text`` and ``pair`` of a labelled row become their repaired forms in one line, ``text`` of any other row null.
    """

    config: CleaningConfig
    evaluation: EvaluationIndex | None = None
    """What must not occur."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Map one piece; row order and all other columns are kept."""
        given = [text or "" for text in table.column("text").to_pylist()]
        repaired = [repair(text, self.config.unicode_form) for text in given]
        labelled = table.column("label").is_valid().to_pylist()
        texts = [one_line(text) if is_labelled else None for text, is_labelled in zip(repaired, labelled, strict=True)]
        changed = [before != (after if line is None else line) for before, after, line in zip(given, repaired, texts, strict=True)]
        kept, removed = self._kept_lines(repaired)
        # Rules that look at whole pages see them whole; what is left of a page must still be something.
        left = [reason_to_drop(text, self.config.min_characters) for text in kept]
        reasons = [self._reason(text) or nothing for text, nothing in zip(repaired, left, strict=True)]
        clean, replaced = self._scrubbed(kept)
        counts = [{**lines, **found} for lines, found in zip(removed, replaced, strict=True)]
        if self.evaluation is not None:
            found = contaminated(repaired, self.evaluation).tolist()
            reasons = [
                reason or ("shares words with evaluation texts" if hit else None) for reason, hit in zip(reasons, found, strict=True)
            ]
        mapped = table.set_column(table.column_names.index("text"), "text", pa.array(texts, pa.string()))
        pairs = [None if pair is None else one_line(repair(pair, self.config.unicode_form)) for pair in table.column("pair").to_pylist()]
        mapped = mapped.set_column(table.column_names.index("pair"), "pair", pa.array(pairs, pa.string()))
        added = {
            "clean": pa.array(clean, pa.string()),
            "changed": pa.array(changed, pa.bool_()),
            "reason": pa.array(reasons, pa.string()),
            "counts": pa.array([json.dumps(found) if found else None for found in counts], pa.string()),
            "digest": _binary(document_digests([one_line(text) for text in clean])),
            "paragraphs": self._paragraphs(clean),
            "lines": self._lines(clean),
            **self._signed(clean, reasons),
        }
        for name, column in added.items():
            mapped = mapped.append_column(name, column)
        return mapped

    def _kept_lines(self, texts: list[str]) -> tuple[list[str], list[dict[str, int]]]:
        """Texts without boilerplate lines and without those that C4 leaves out, and how many lines went for which reason."""
        c4 = self.config.quality.c4 if self.config.quality is not None else None
        kept, removed = [], []
        for given in texts:
            text, counts = given, dict[str, int]()
            if self.config.boilerplate is not None:
                text, found = without_boilerplate(text, self.config.boilerplate)
                counts |= {f"lines, {name}": count for name, count in found.items()}
            if c4 is not None:
                text, found = keep_lines(text, c4)
                counts |= {f"lines, c4 {name}": count for name, count in found.items()}
            kept.append(text)
            removed.append(counts)
        return kept, removed

    def _reason(self, text: str) -> str | None:
        """Why a text goes, the cheapest rules first."""
        config = self.config
        return (
            reason_to_drop(text, config.min_characters)
            or (reason_to_drop_language(text, config.language) if config.language is not None else None)
            or (quality_reason(text, config.quality) if config.quality is not None else None)
        )

    def _scrubbed(self, texts: list[str]) -> tuple[list[str], list[dict[str, int]]]:
        if self.config.pii is None:
            return texts, [{} for _ in texts]
        rules = PiiRules(self.config.pii.kinds, self.config.pii.allow, tuple(self.config.pii.national_ids.items()))
        found = [scrub(text, rules) for text in texts]
        return [item.text for item in found], [{str(kind): count for kind, count in item.counts.items()} for item in found]

    def _paragraphs(self, texts: list[str]) -> pa.Array:
        if self.config.repeated_paragraphs is None:
            return pa.array([[] for _ in texts], pa.list_(pa.binary(16)))
        found = paragraph_digests(texts, self.config.repeated_paragraphs)
        ends = np.searchsorted(found.documents, np.arange(len(texts) + 1)).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), _binary(found.digests))

    def _lines(self, texts: list[str]) -> pa.Array:
        boilerplate = self.config.boilerplate
        if boilerplate is None or boilerplate.max_line_documents is None:
            return pa.array([[] for _ in texts], pa.list_(pa.uint64()))
        return pa.array([line_digests(text, boilerplate.min_counted_characters) for text in texts], pa.list_(pa.uint64()))

    def _signed(self, texts: list[str], reasons: list[str | None]) -> dict[str, pa.Array]:
        """Signatures of the rows that have no reason to go; empty lists for the others."""
        config = self.config.near_duplicates
        chosen = [] if config is None else [text for text, reason in zip(texts, reasons, strict=True) if reason is None]
        if config is None or not chosen:
            nothing = pa.array([[] for _ in texts], pa.list_(pa.uint32()))
            return {"signature": nothing, "bands": nothing.cast(pa.list_(pa.uint64()))}
        signed = signatures(chosen, config)
        sizes = np.array([reason is None for reason in reasons], dtype=np.int64)
        columns = {}
        for name, rows in (("signature", signed), ("bands", band_keys(signed, banding(config)))):
            ends = np.concatenate([[0], np.cumsum(sizes * rows.shape[1])]).astype(np.int32)
            columns[name] = pa.ListArray.from_arrays(pa.array(ends), pa.array(rows.reshape(-1)))
        return columns


@dataclass(frozen=True)
class Removal:
    """What is left out of kept texts when all rows have been seen.

    Reads ``clean``, ``keep`` and ``drop``, list<bool>: paragraphs to leave out.
    """

    paragraph_characters: int | None = None
    """Of ``CleaningConfig.repeated_paragraphs``."""
    frequent_lines: bytes = b""
    """uint64 digests, ascending, of lines to leave out."""
    line_characters: int = 1
    """Of ``BoilerplateConfig.min_counted_characters``."""

    def __call__(self, table: pa.Table) -> list[str]:
        """The texts of the rows for which ``keep`` holds, in order."""
        table = table.filter(table.column("keep"))
        texts: list[str] = table.column("clean").to_pylist()
        if self.paragraph_characters is not None:
            drops = table.column("drop").to_pylist()
            texts = [
                text if not drop else without_paragraphs(text, drop, self.paragraph_characters)
                for text, drop in zip(texts, drops, strict=True)
            ]
        if self.frequent_lines:
            digests = np.frombuffer(self.frequent_lines, dtype=np.uint64)
            texts = [without_lines(text, digests, self.line_characters)[0] for text in texts]
        return texts


@dataclass(frozen=True)
class CountWords:
    """``clean``, ``keep`` and ``drop`` become ``word`` and ``count``, for a vocabulary of one's own; see ``wordpiece.count_words``."""

    config: TrainTokenizerConfig
    placeholders: tuple[str, ...] = ()
    removal: Removal = Removal()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Count the words of one piece."""
        return count_words(self.removal(table), self.config, self.placeholders)


@dataclass(frozen=True)
class Tokenise:
    """``clean``, ``keep`` and ``drop`` become ``ids`` list<int32> without special tokens, ``words`` int32 (how many the text has, by
    ``words.py``) and ``unknown`` int32 (how many of the ids stand for what the vocabulary has no pieces for).

    Rows that are not kept get none.
    """

    tokenizer: str
    """The serialised tokenizer: workers on other machines do not see its folder."""
    unknown_id: int | None = None
    removal: Removal = Removal()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Map one piece; row order is kept."""
        keep = table.column("keep").to_numpy()
        texts = self.removal(table)
        encoded = encode_all(self.tokenizer, texts)
        ends = np.zeros(len(keep) + 1, dtype=np.int32)
        ends[1:][keep] = np.diff(encoded.offsets.to_numpy())
        ids = pa.ListArray.from_arrays(pa.array(np.cumsum(ends, dtype=np.int32)), encoded.values)
        words = np.zeros(len(keep), dtype=np.int32)
        words[keep] = word_counts(texts)
        return pa.table({"ids": ids, "words": pa.array(words), "unknown": pa.array(self._unknown(ids))})

    def _unknown(self, ids: pa.ListArray) -> npt.NDArray[np.int32]:
        is_unknown = np.zeros(0, np.bool_) if self.unknown_id is None else ids.values.to_numpy() == self.unknown_id
        if not is_unknown.any():
            return np.zeros(len(ids), dtype=np.int32)
        ends = np.concatenate([np.zeros(1, np.int32), np.cumsum(is_unknown, dtype=np.int32)])[ids.offsets.to_numpy()]
        return np.asarray(np.diff(ends), dtype=np.int32)


def map_here(tables: Iterable[pa.Table], stage: Stage) -> Generator[pa.Table, None, None]:
    """The plain mapper: table after table in this process."""
    for table in tables:
        yield stage(table)


def _binary(digests: npt.NDArray[np.uint64]) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digests), [None, pa.py_buffer(np.ascontiguousarray(digests).tobytes())])
