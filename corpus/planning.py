"""What a build would do: sources found and hashed, tokenizer opened, the target folder looked at. Writes nothing.

``build.py`` carries a plan out. Two plans with the same ``recipe_fingerprint`` give the same shards, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic_core import to_jsonable_python

from corpus import movie_reviews
from corpus.config import DataConfig, SourceConfig
from corpus.files import SourceFile, files_of
from corpus.manifest import FORMAT_VERSION, fingerprint_of, is_build, read_manifest, verify
from corpus.pii import check_patterns, placeholders_of
from corpus.tokenizer import TokenizerPlan, open_tokenizer
from foundation.errors import DataError
from foundation.packages import KNOWN_ARCHIVES

# Of the largest process: a wave of pieces, a window of rows, and what the libraries take; measured on 106 MB and 212 MB of text.
_MEMORY_BYTES = 1_000_000_000

# Keys that builds of earlier versions did not have: at their defaults they change nothing, so those builds are still recognised.
_NEW_SOURCE_KEYS = ("pair_column", "label_kind", "label_separator", "split_column", "group_column")
_NEW_KEYS = ("test_fraction", "checks", "train_tokenizer", "length_buckets")

State = Literal["new", "up to date", "different", "damaged"]
_REPLACE = "pass --replace to write it anew, or choose another folder"


@dataclass(frozen=True)
class BuildPlan:
    """What a build would do. Nothing has been written."""

    config: DataConfig
    tokenizer: TokenizerPlan | None
    """None: it is trained on the way, by ``config.train_tokenizer``."""
    inputs: dict[str, list[tuple[SourceFile | None, str]]]
    """Source to its files (None: a built-in source's archive) with their SHA-256."""
    evaluation: list[tuple[SourceFile, str]]
    """Files of evaluation texts that must not occur, with their SHA-256."""
    files: dict[str, dict[str, str]]
    """Source to file to SHA-256, as the manifest records it."""
    input_bytes: int
    """Of the files as they are stored; 0 for a built-in source."""
    memory_bytes: int
    """About what the largest process will take."""
    recipe_fingerprint: str
    state: State
    """What is at ``out`` now."""
    found: str
    """For the person: what is at ``out``, and what that means."""

    @property
    def out(self) -> str:
        """Folder to write."""
        return self.config.out

    def as_json(self) -> dict[str, Any]:
        """The plan for ``--dry-run``."""
        return {
            "out": self.out,
            "state": self.state,
            "found": self.found,
            "recipe": self.config.model_dump(mode="json"),
            "sources": self.files,
            "input_bytes": self.input_bytes,
            "estimated_memory_bytes": self.memory_bytes,
            "tokenizer": self._tokenizer_json(),
            "recipe_fingerprint": self.recipe_fingerprint,
        }

    def _tokenizer_json(self) -> dict[str, Any]:
        if self.tokenizer is not None:
            return self.tokenizer.record.model_dump(mode="json", exclude={"special_ids"})
        assert self.config.train_tokenizer is not None
        pii = self.config.cleaning.pii
        return {
            "trained_here": self.config.train_tokenizer.model_dump(mode="json"),
            "placeholders": placeholders_of(pii.kinds if pii else ()),
        }


def plan(config: DataConfig, tokenizer_folder: Path | None) -> BuildPlan:
    """Look at sources, tokenizer and the target folder.

    Args:
        config: The recipe.
        tokenizer_folder: What ``config.tokenizer`` names; None where the recipe trains one.

    Raises:
        DataError: A source is missing, or ``out`` is something that is not a build.
        EncoderError: No usable tokenizer.
    """
    pii = config.cleaning.pii
    if pii is not None:
        check_patterns(pii.national_ids.items(), key="cleaning.pii.national_ids")
    assert (tokenizer_folder is None) == (config.tokenizer is None)
    tokenizer = None if tokenizer_folder is None else open_tokenizer(tokenizer_folder, placeholders_of(pii.kinds if pii else ()))
    inputs = {name: _inputs(source) for name, source in config.sources.items()}
    evaluation = [(file, file.sha256) for path in config.cleaning.decontaminate for file in files_of(path)]
    files = {name: {_name(file): sha256 for file, sha256 in found} for name, found in inputs.items()}
    recipe_fingerprint = fingerprint_of(
        {
            "format": FORMAT_VERSION,
            "recipe": _deciding(config),
            "sources": files,
            "evaluation": [sha256 for _, sha256 in evaluation],
            # A trained one is decided by the recipe and the sources.
            "tokenizer": None if tokenizer is None else tokenizer.record.sha256,
        }
    )
    state, found = state_of(Path(config.out), recipe_fingerprint)
    size = sum(file.size for source in inputs.values() for file, _ in source if file is not None)
    return BuildPlan(config, tokenizer, inputs, evaluation, files, size, _MEMORY_BYTES, recipe_fingerprint, state, found)


class Planned(Protocol):
    """What is to be written, and what is there now: a ``BuildPlan``, or a ``merging.MergePlan``."""

    @property
    def out(self) -> str:
        """Folder to write."""

    @property
    def state(self) -> State:
        """What is there now."""

    @property
    def found(self) -> str:
        """The same for the person."""


def require_replaceable(plan: Planned, replace: bool) -> None:
    """Refuse to write over another build unless asked to.

    Raises:
        DataError: There is one, and ``replace`` is False.
    """
    if plan.state in ("different", "damaged") and not replace:
        raise DataError(f"{plan.out}: {plan.found}; {_REPLACE}")


def _deciding(config: DataConfig) -> dict[str, Any]:
    """The recipe without what cannot change the result: where files lie, where the result goes, how many work on it."""
    tree = config.model_dump(mode="json", exclude={"out", "tokenizer", "workers", "batch_documents"})
    for source in tree["sources"].values():
        del source["path"]
        _leave_out_defaults(source, SourceConfig, _NEW_SOURCE_KEYS)
    _leave_out_defaults(tree, DataConfig, _NEW_KEYS)
    del tree["cleaning"]["decontaminate"]
    return tree


def _leave_out_defaults(tree: dict[str, Any], model: type[DataConfig | SourceConfig], keys: tuple[str, ...]) -> None:
    for key in keys:
        if tree[key] == to_jsonable_python(model.model_fields[key].default):
            del tree[key]


def _inputs(source: SourceConfig) -> list[tuple[SourceFile | None, str]]:
    if source.path is None:
        return [(None, KNOWN_ARCHIVES[_archive()])]
    return [(file, file.sha256) for file in files_of(source.path, source.format)]


def _name(file: SourceFile | None) -> str:
    return _archive() if file is None else file.name


def _archive() -> str:
    name, version = movie_reviews.DISTRIBUTION
    return f"{name}-{version}.tar.gz".lower()


def state_of(out: Path, recipe_fingerprint: str) -> tuple[State, str]:
    """What is at ``out``, and the same for the person; a build there is verified.

    Raises:
        DataError: It is something that is not a build.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return "new", "nothing is there yet"
    if not is_build(out):
        raise DataError(f"{out}: exists and is not a data build; choose another folder with out=DIR")
    try:
        manifest = read_manifest(out)
        verify(out, manifest)
    except DataError as error:
        return "damaged", f"holds a damaged build ({error})"
    if manifest.recipe_fingerprint == recipe_fingerprint:
        return "up to date", "holds exactly this build, verified"
    return "different", f"holds another build, of {manifest.created}: its recipe, sources or tokenizer differ"
