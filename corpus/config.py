"""Recipes for data: what ``data build`` makes and from what, and which labelled rows a fine-tune reads. Imports no reader of anything."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from corpus.labelled_config import ChecksConfig, LabelKind, check_fractions, check_separator
from corpus.quality_config import BoilerplateConfig, LanguageConfig, QualityConfig
from foundation.config import Config, PathText, RefText

BuiltinSource = Literal["movie_reviews"]
PiiKind = Literal["email", "phone", "ip", "iban", "card", "url_credentials", "national_id"]
SourceFormat = Literal["auto", "text", "jsonl", "csv", "parquet", "arrow"]


class LabelledDataConfig(Config):
    """Labelled texts for a classifier. A build folder brings its own columns, kinds and splits, and ignores those keys."""

    train: PathText
    """A folder that `data build` made, or a CSV, JSON-lines or Parquet file (a folder or glob of them, too)."""
    test: PathText | None = None
    """Rows for the final evaluation. None: the build folder's own test split, or none."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of train held back for choosing, unless `split_column` says which rows are."""
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of train held back for the final evaluation, unless `split_column` says which rows are."""
    text_column: str = "text"
    """Column with the text."""
    pair_column: str | None = None
    """Column with a second text that belongs to the first."""
    label_column: str = "label"
    """Column with the label; whole numbers are read as class names unless `label_kind` is `number`."""
    label_kind: LabelKind = "single"
    """One class a row, a list of classes a row (none, one or several of them apply), or a number."""
    label_separator: str | None = None
    """Between the classes of a list, where it is plain text. None: lists are Arrow or JSON lists, or text such as `["a", "b"]`."""
    split_column: str | None = None
    """Column that says train, validation (or val, valid, dev) or test of each row."""
    group_column: str | None = None
    """Column with a key: rows with the same one land in the same split."""
    split_seed: int = 0
    """Seed of the splits."""
    train_on: Literal["train", "train_and_validation"] = "train"
    """`train_and_validation`, when nothing is left to choose: the model learns from the rows held back for choosing as well, and what is
    measured on them flatters. Test rows stay apart."""
    checks: ChecksConfig = ChecksConfig()
    """What is refused and what is only told."""

    @model_validator(mode="after")
    def _splits_are_told_once(self) -> Self:
        if self.test is not None and self.test_fraction > 0:
            raise ValueError("test names a file and test_fraction asks for rows of train; give one of them")
        check_fractions(self.validation_fraction, self.test_fraction)
        check_separator(self.label_kind, self.label_separator)
        return self


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
    pair_column: str | None = None
    """Column with a second text that belongs to the first; it stays with the labelled row and is not packed."""
    label_column: str | None = None
    """Column with the label. None: the source is unlabelled and only feeds the packed corpus."""
    label_kind: LabelKind = "single"
    """One class a row, a list of classes a row, or a number; the same for all labelled sources."""
    label_separator: str | None = None
    """Between the classes of a list, where it is plain text. None: lists are Arrow or JSON lists, or text such as `["a", "b"]`."""
    split: Literal["train", "test"] = "train"
    """Which split the source's rows belong to; test rows never enter the packed corpus."""
    split_column: str | None = None
    """Column that says train, validation (or val, valid, dev) or test of each row."""
    group_column: str | None = None
    """Column with a key: rows with the same one land in the same split, whatever their source."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the rows of a training epoch that come from this source, relative to the other sources' weights. None for all sources: every
    row once an epoch."""
    cap: int | None = Field(default=None, ge=1)
    """Read no more than the first so many rows. None: all."""
    max_bad_share: float = Field(default=0.0, ge=0, lt=1)
    """Most of a JSON-lines source's lines that may be unreadable; they are counted and left out. 0 stops at the first one."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> SourceConfig:
        if (self.builtin is None) == (self.path is None):
            raise ValueError("give either builtin or path, one of them")
        own = (self.label_column, self.pair_column, self.split_column, self.group_column)
        if self.builtin is not None and (any(own) or self.split != "train" or self.label_kind != "single"):
            raise ValueError("a builtin source brings its own labels and splits; remove label_column and split")
        return self

    @model_validator(mode="after")
    def _labels_are_told_once(self) -> SourceConfig:
        if self.label_column is None and (self.pair_column is not None or self.label_kind != "single"):
            raise ValueError("pair_column and label_kind are for labelled rows; give a label_column, or remove them")
        if self.split_column is not None and self.split == "test":
            raise ValueError("split_column says the split of each row and split: test that of all; give one of them")
        check_separator(self.label_kind, self.label_separator)
        return self

    @property
    def is_labelled(self) -> bool:
        """Whether its rows have labels."""
        return self.builtin is not None or self.label_column is not None


class NearDuplicateConfig(Config):
    """When two documents count as near-duplicates.

    Changing a random share s of the words of a long text leaves a Jaccard similarity of u / (2 - u) with u = (1 - s)**n: 0.63 for 5 % and
    n = 5. The defaults find such a copy, and leave documents apart that share less than half.
    """

    shingle_words: int = Field(default=5, ge=1)
    """n: documents are compared as sets of runs of n words; shorter documents as one run of all their words."""
    threshold: float = Field(default=0.54, gt=0, le=1)
    """Estimated Jaccard similarity from which documents are near-duplicates."""
    permutations: int = Field(default=256, ge=16, le=4096)
    """Numbers in a signature, 4 bytes each. The estimate's standard error is at most sqrt(J (1 - J) / permutations): 0.03 at 256."""
    false_negative_weight: float = Field(default=0.97, gt=0, lt=1)
    """Weight of missed pairs against surplus ones when bands are chosen. Surplus pairs cost a comparison, missed ones are lost."""
    seed: int = Field(default=1, ge=0, lt=2**64)
    """Of the permutations; signatures with different seeds cannot be compared."""


class PiiConfig(Config):
    """Personal data in the packed corpus, each find replaced by a typed placeholder that is one token."""

    kinds: tuple[PiiKind, ...] = ("email", "phone", "ip", "iban", "card", "url_credentials", "national_id")
    """What is looked for."""
    allow: tuple[str, ...] = ()
    """Never replaced: exact strings, case ignored; one that starts with `@` means every e-mail address at exactly that domain."""
    national_ids: dict[str, str] = Field(default={})
    """Name to regular expression of identity numbers; there is none by default."""


class CleaningConfig(Config):
    """Repair of every text, and what the packed corpus leaves out. Labelled rows are repaired, never dropped or otherwise changed."""

    unicode_form: Literal["NFC", "NFKC"] = "NFC"
    """Unicode normal form of every text."""
    min_characters: int = Field(default=1, ge=1)
    """Shorter texts are dropped from the packed corpus; labelled rows are never dropped."""
    drop_duplicates: bool = True
    """Drop texts from the packed corpus that occur again, letter for letter after repair; labelled rows are never dropped."""
    language: LanguageConfig | None = None
    """Which languages stay. None: all."""
    boilerplate: BoilerplateConfig | None = None
    """Lines to remove. None: leave them."""
    quality: QualityConfig | None = None
    """Published rules that judge a text, each set off unless it is named. None: all off."""
    repeated_paragraphs: int | None = Field(default=None, ge=1)
    """Remove paragraphs of at least so many characters that stand in an earlier document, too. None: leave them."""
    near_duplicates: NearDuplicateConfig | None = None
    """Drop documents that resemble an earlier one. None: leave them. `{}` takes the defaults."""
    decontaminate: tuple[PathText, ...] = ()
    """Evaluation files (or folders, globs): documents that share a run of 13 words with one of their texts are dropped."""
    decontaminate_column: str = "text"
    """Column with the text in the evaluation files."""
    pii: PiiConfig | None = PiiConfig()
    """Personal data to replace. None: leave it."""


class TrainTokenizerConfig(Config):
    """A WordPiece vocabulary of one's own, learned from the texts that the build packs for training."""

    vocabulary: int = Field(default=30_522, ge=16)
    """Tokens, special ones, placeholders and single characters counted; fewer when the texts give no more. A model's embedding is padded to
    a multiple of 64."""
    lowercase: bool = True
    """Texts are put into lower case."""
    strip_accents: bool | None = None
    """Accents are removed from letters. None: where texts are put into lower case, as BERT does."""
    min_frequency: int = Field(default=2, ge=1)
    """Two tokens become one only if they stand side by side so often."""
    alphabet: int = Field(default=1_000, ge=1)
    """Most different characters; words with rarer ones are unknown. Chinese, Japanese and Korean texts want several thousand."""
    characters: int = Field(default=200_000_000, ge=1, le=2_000_000_000)
    """About the most characters of text to learn from. Where there are more, documents are drawn by `seed`. Memory grows with the different
    words in them, about 1 kB each."""


class DataConfig(Config):
    """Recipe of `data build`."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    """Name to source; names go into every row and into the manifest."""
    tokenizer: RefText | None = None
    """Any model REF whose folder holds tokenizer.json or a WordPiece vocab.txt. Give this or train_tokenizer."""
    train_tokenizer: TrainTokenizerConfig | None = None
    """Train a WordPiece tokenizer on the texts of this build instead. `{}` takes the defaults."""
    out: PathText
    """Folder to write."""
    sequence_length: int = Field(default=128, ge=8)
    """Longest packed row, in tokens, special tokens counted."""
    length_buckets: tuple[Annotated[int, Field(ge=8)], ...] = ()
    """Longest rows, in tokens, of buckets before the last, whose rows have `sequence_length`. A document goes whole into the first bucket
    in which it fills a row, so that `curriculum: short_first` of a pretraining can begin with short rows. Ascending. Empty: no buckets."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of train held back, per class where there are labels; validation rows never enter the packed training rows. A source whose
    `split_column` has validation rows keeps to them."""
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the labelled rows of train held back for the final evaluation; a source that has test rows of its own keeps to them."""
    checks: ChecksConfig = ChecksConfig()
    """What is refused and what is only told about labelled rows."""
    seed: int = 0
    """Seed of the splits, and of the sample."""
    sample: float = Field(default=1.0, gt=0, le=1)
    """Share of the rows that is read, for a fast look; chosen by row number."""
    cleaning: CleaningConfig = CleaningConfig()
    """Repair and filters."""
    rows_per_shard: int = Field(default=65_536, ge=1)
    """Packed rows in one shard file."""
    workers: int | None = Field(default=None, ge=1)
    """Ray tasks that clean and tokenise at the same time, one CPU each. None: as many as the cluster has room for."""
    batch_documents: int = Field(default=1_000, ge=1)
    """Most documents handed to a Ray task at once."""
    cut_at_sentences: bool = True
    """Cut a document longer than a row where a sentence ends, if one ends in the second half of the piece; else where the row is full.

    Rows are filled up with short documents, and with the single sentences of some long ones."""
    overlap: int = Field(default=0, ge=0)
    """Tokens that a piece of a long document repeats of the piece before it."""

    @model_validator(mode="after")
    def _has_one_tokenizer(self) -> DataConfig:
        if (self.tokenizer is None) == (self.train_tokenizer is None):
            raise ValueError("give either tokenizer (a model REF) or train_tokenizer ({} for the defaults), one of them")
        return self

    @model_validator(mode="after")
    def _all_are_weighted(self) -> DataConfig:
        trained = {name: source.weight for name, source in self.sources.items() if source.split == "train"}
        without = [name for name, weight in trained.items() if weight is None]
        if without and len(without) < len(trained):
            raise ValueError(f"sources.{without[0]} has no weight and others have one; give every training source a weight, or none")
        return self

    @model_validator(mode="after")
    def _labels_are_of_one_form(self) -> DataConfig:
        check_fractions(self.validation_fraction, self.test_fraction)
        labelled = {name: source for name, source in self.sources.items() if source.is_labelled}
        kinds = {source.label_kind: name for name, source in labelled.items()}
        if len(kinds) > 1:
            told = ", ".join(f"{name} has {kind}" for kind, name in kinds.items())
            raise ValueError(f"labelled sources have several label kinds ({told}); build them one by one")
        without = [name for name, source in labelled.items() if source.pair_column is None]
        if without and len(without) < len(labelled):
            raise ValueError(f"sources.{without[0]} has no pair_column and others have one; give every labelled source one, or none")
        return self

    @property
    def label_kind(self) -> LabelKind:
        """Of every labelled source."""
        return next((source.label_kind for source in self.sources.values() if source.is_labelled), "single")

    @property
    def has_pairs(self) -> bool:
        """Whether labelled rows have a second text."""
        return any(source.pair_column is not None for source in self.sources.values())

    @model_validator(mode="after")
    def _buckets_ascend(self) -> DataConfig:
        lengths = (*self.length_buckets, self.sequence_length)
        if any(shorter >= longer for shorter, longer in pairwise(lengths)):
            raise ValueError(
                f"length_buckets are {list(self.length_buckets)}; each must be longer than the one before, and all shorter than "
                f"sequence_length, {self.sequence_length}"
            )
        weighted = next((name for name, source in self.sources.items() if source.weight is not None), None)
        if self.length_buckets and weighted is not None:
            raise ValueError(
                f"length_buckets are set and sources.{weighted} has a weight; rows lie by source or by length, so remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _fits_in_a_shard(self) -> DataConfig:
        if self.overlap >= (self.sequence_length - 2) // 2:
            raise ValueError(f"overlap is {self.overlap}; it must be less than half of a row of {self.sequence_length} tokens")
        # Offsets inside a shard are 32-bit.
        if self.rows_per_shard * self.sequence_length >= 2**31:
            raise ValueError(f"rows_per_shard * sequence_length is {self.rows_per_shard * self.sequence_length:,}; at most 2**31 - 1 fit")
        return self
