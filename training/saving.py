"""Checkpoints that are written while the next steps run: what the steps would change is copied first. Knows no Ray.

A checkpoint is begun between two steps. Each rank writes its share on a thread; the ranks learn from the sum that every step makes when
all have, and then rank 0 seals it with the manifest. What cannot be written (a full disk) leaves the checkpoint before, and the run goes
on.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from foundation.errors import first_line
from training.checkpoint import Fragment, Progress, write_fragments, write_manifest
from training.loop import Engine


@dataclass(frozen=True)
class Written:
    """What became of one rank's share."""

    entries: Mapping[str, Any] = field(default_factory=dict)
    """Of the manifest."""
    error: str | None = None
    """Why it could not be written."""
    seconds: float = 0.0
    """Of writing, behind the steps' back."""


class Writer:
    """Writes one share at a time on a thread."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank, self._device = rank, device
        # Kept from one checkpoint to the next: fresh memory costs more time than the copy.
        self._copies: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._written = Written()

    def begin(self, folder: Path, fragments: Iterable[Fragment]) -> None:
        """Copy the fragments, and write the copy to ``folder`` while the caller goes on. The one before must be finished."""
        assert self._thread is None
        copied = [self._copied(fragment) for fragment in fragments]
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._thread = threading.Thread(target=self._write, args=(folder, copied), name="raybert-checkpoint", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether something was begun, and ``finish`` would not wait."""
        return self._thread is not None and not self._thread.is_alive()

    def finish(self) -> Written:
        """Wait until what was begun is written, or cannot be."""
        assert self._thread is not None
        self._thread.join()
        self._thread = None
        return self._written

    def _copied(self, fragment: Fragment) -> Fragment:
        kept = {}
        for kind, tensor in fragment.tensors.items():
            key = f"{kind}:{fragment.name}"
            if key not in self._copies or self._copies[key].shape != tensor.shape:
                # From pinned memory the GPU copies without the CPU, all tensors in one go.
                self._copies[key] = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=self._device.type == "cuda")
            kept[kind] = self._copies[key].copy_(tensor.detach(), non_blocking=True)
        return Fragment(fragment.name, fragment.start, kept)

    def _write(self, folder: Path, fragments: list[Fragment]) -> None:
        began = time.perf_counter()
        try:
            self._written = Written(write_fragments(folder, self._rank, fragments), seconds=time.perf_counter() - began)
        except Exception as error:  # a full disk, mostly; the run has the checkpoint before
            self._written = Written(error=f"{type(error).__name__}: {first_line(error)}", seconds=time.perf_counter() - began)


@dataclass(frozen=True)
class Sealed:
    """A checkpoint that all ranks are done with."""

    step: int
    """Steps that were done when it was begun."""
    stalled_s: float
    """For which this rank's steps stood still."""
    written_s: float
    """That the slowest rank wrote behind the steps' back."""
    error: str | None
    """Why it is none; nothing is left of it then."""


@dataclass(frozen=True)
class _Begun:
    folder: Path
    progress: Progress
    figures: Mapping[str, float]
    stalled_s: float


class Saving:
    """The checkpoints of one attempt at a run, as one rank sees them: begun between two steps, sealed when every rank has written.

    ``begin``, ``seal`` and ``finish`` are collective.
    """

    def __init__(
        self,
        engine: Engine,
        device: torch.device,
        folder: Path,
        written_by: Mapping[str, Any],
        *,
        everyone: Callable[[dict[str, Any]], list[dict[str, Any]]],
        report: Callable[[Mapping[str, float], Path], None],
    ) -> None:
        """
        Args:
            engine: Gives the fragments.
            device: Where they are.
            folder: The run's, which all ranks see.
            written_by: Goes into manifests; its ``attempt`` into names, so that nothing of a dead attempt lies in the same folder.
            everyone: Gives all ranks each one's value, in the order of ranks.
            report: Told of each whole checkpoint: the figures that were measured at it, and its folder.
        """
        self._engine, self._folder, self._written_by = engine, folder, written_by
        self._everyone, self._report = everyone, report
        self._writer = Writer(engine.rank, device)
        self._begun: _Begun | None = None

    def begin(self, progress: Progress, figures: Mapping[str, float]) -> Sealed | None:
        """Begin a checkpoint of what the engine holds now. Returns the one before, if that had to be waited for."""
        before = self.finish()
        began = time.perf_counter()
        folder = self._folder / f"step-{progress.step:07d}-{self._written_by['attempt']}"
        self._writer.begin(folder, self._engine.fragments())
        self._begun = _Begun(folder, progress, figures, time.perf_counter() - began)
        return before

    @property
    def step(self) -> int | None:
        """Steps that were done when what is being written was begun; None while nothing is."""
        return self._begun.progress.step if self._begun else None

    def signal(self) -> float:
        """1 when this rank has written its share, else 0."""
        return float(self._writer.is_done)

    def seal(self, written: float) -> Sealed | None:
        """Seal what was begun if the sum of ``signal`` over ranks says that all have written."""
        return self.finish() if written >= self._engine.world_size else None

    def finish(self) -> Sealed | None:
        """Wait for what was begun, and seal it; None when nothing was."""
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        began, rank = time.perf_counter(), self._engine.rank
        written = self._writer.finish()
        shares = self._everyone({"entries": written.entries, "error": written.error, "seconds": written.seconds})
        errors = {number: share["error"] for number, share in enumerate(shares) if share["error"]}
        if not errors and (error := self._everyone({"error": self._write_manifest(begun, shares) if rank == 0 else None})[0]["error"]):
            errors = {0: error}
        if not errors:
            self._report({**begun.figures, "step": begun.progress.step}, begun.folder)
        elif rank == 0:
            shutil.rmtree(begun.folder, ignore_errors=True)
        return Sealed(
            step=begun.progress.step,
            stalled_s=begun.stalled_s + time.perf_counter() - began,
            written_s=max(share["seconds"] for share in shares),
            error="; ".join(f"rank {number}: {error}" for number, error in errors.items()) or None,
        )

    def _write_manifest(self, begun: _Begun, shares: Sequence[Mapping[str, Any]]) -> str | None:
        """Returns what went wrong: an exception on rank 0 alone would leave the others waiting."""
        files = {name: entry for share in shares for name, entry in sorted(share["entries"].items())}
        try:
            write_manifest(begun.folder, begun.progress, files, self._engine.shapes(), self._written_by)
        except OSError as error:
            return f"{type(error).__name__}: {first_line(error)}"
        return None
