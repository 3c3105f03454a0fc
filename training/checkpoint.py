"""Checkpoints that any engine and world size can read: fp32 fragments with their place in each tensor, as safetensors.

A checkpoint is a folder. Each rank writes ``rank-RRRRR.safetensors`` with the fragments it owns of every parameter and of what the
optimiser keeps of it (Adam's two moments, Muon's momentum; nothing of frozen parameters); rank 0 writes ``checkpoint.json`` last, with
sizes and SHA-256 of all files. A folder without it, or with a missing, altered or surplus file, is not a checkpoint. No pickle, no
conversion at another world size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from foundation.bundle import sha256_of
from foundation.errors import RunError
from foundation.home import write_json
from training.guard import FRESH, Memory
from training.loss_scale import LossScale
from training.runs import CHECKPOINT_FILE

MANIFEST = CHECKPOINT_FILE
FORMAT_VERSION = 1
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("param", *MOMENTS)
_KEYS = {"format_version", "step", "optimiser_steps", "evaluations", "shapes", "files"}


@dataclass(frozen=True)
class Fragment:
    """A stretch of one flattened tensor that this rank owns."""

    name: str
    start: int
    """Elements before it in the flattened tensor."""
    tensors: Mapping[str, torch.Tensor]
    """Kind (``param``, and the optimiser's: ``exp_avg``, ``exp_avg_sq``, …) to a 1-D view; the latter are absent before the first step."""

    @property
    def length(self) -> int:
        """Elements."""
        return self.tensors["param"].numel()


@dataclass(frozen=True)
class Progress:
    """Where a run stands: two integers, because a skipped step consumes data without moving the optimiser."""

    step: int
    """Data steps finished; the next step to run."""
    optimiser_steps: int
    """Steps that the optimiser applied."""
    evaluations: tuple[tuple[int, float], ...] = ()
    """(steps finished, score) of each evaluation so far; early stopping is a function of these."""
    guard: Memory = FRESH
    """What the guard remembers of the steps before, so that a resumed run skips the same ones."""
    loss_scale: LossScale | None = None
    """Of fp16, for the next step."""


def write_fragments(folder: Path, rank: int, fragments: Iterable[Fragment]) -> dict[str, Any]:
    """Write one rank's file; returns its manifest entry ``{name: {"bytes", "sha256"}}``, empty for a rank that owns nothing."""
    tensors, places = {}, {}
    for fragment in fragments:
        if fragment.length == 0:
            continue
        places[fragment.name] = str(fragment.start)
        for kind, tensor in fragment.tensors.items():
            tensors[f"{kind}:{fragment.name}"] = tensor.detach().float().cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    if not tensors:
        return {}  # safetensors writes a file without tensors that it cannot read again
    path = folder / f"rank-{rank:05d}.safetensors"
    save_file(tensors, path, metadata=places)
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}}


def write_manifest(
    folder: Path, progress: Progress, files: Mapping[str, Any], shapes: Mapping[str, Iterable[int]], written_by: Mapping[str, Any]
) -> None:
    """Write ``checkpoint.json``; the checkpoint exists from here on.

    Args:
        folder: The checkpoint.
        progress: Where the run stands.
        files: All ranks' entries.
        shapes: Parameter name to shape.
        written_by: Engine, world size and run, for people.
    """
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": progress.step,
        "optimiser_steps": progress.optimiser_steps,
        "evaluations": [list(item) for item in progress.evaluations],
        "guard": {"losses": list(progress.guard.losses), "skipped_in_a_row": progress.guard.skipped_in_a_row},
        "loss_scale": asdict(progress.loss_scale) if progress.loss_scale else None,
        "written_by": dict(written_by),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "files": dict(files),
    }
    write_json(folder / MANIFEST, manifest)


class Checkpoint:
    """A verified checkpoint, open for reading."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in manifest["shapes"].items()}
        self.progress = Progress(
            step=manifest["step"],
            optimiser_steps=manifest["optimiser_steps"],
            evaluations=tuple((int(step), float(score)) for step, score in manifest["evaluations"]),
            guard=_memory(manifest.get("guard", {})),
            loss_scale=LossScale(**manifest["loss_scale"]) if manifest.get("loss_scale") else None,
        )
        self._index: dict[str, list[tuple[int, Path]]] = {name: [] for name in self.shapes}
        self._kinds: dict[str, set[str]] = {name: set() for name in self.shapes}
        self._open = {name: safe_open(folder / name, framework="pt") for name in sorted(manifest["files"])}
        for name, file in self._open.items():
            for parameter, start in (file.metadata() or {}).items():  # type: ignore[no-untyped-call]
                self._index[parameter].append((int(start), folder / name))
            for key in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118
                kind, _, parameter = key.partition(":")
                self._kinds[parameter].add(kind)
        for places in self._index.values():
            places.sort()

    @classmethod
    def open(cls, folder: Path, *, is_verified: bool = False) -> Checkpoint:
        """Verify and open.

        Args:
            folder: The checkpoint.
            is_verified: The files' hashes have been compared already, by another rank; their sizes are compared all the same.

        Raises:
            RunError: No manifest, a newer format, or a missing, altered or surplus file, named.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{folder}: no {MANIFEST}; not a checkpoint, or one whose writing was cut off") from None
        except ValueError:
            raise RunError(f"{folder / MANIFEST}: not JSON; the checkpoint is damaged, use an earlier one") from None
        if not isinstance(manifest, dict) or not manifest.keys() >= _KEYS:
            raise RunError(f"{folder / MANIFEST}: lacks keys of a checkpoint; it is damaged, use an earlier one")
        if manifest["format_version"] > FORMAT_VERSION:
            raise RunError(f"{folder}: format_version is {manifest['format_version']}, this raybert reads up to {FORMAT_VERSION}")
        present = {path.name for path in folder.iterdir() if path.name.endswith(".safetensors")}
        for name, entry in manifest["files"].items():
            path = folder / name
            if name not in present:
                raise RunError(f"{path}: missing from the checkpoint; use an earlier one")
            if path.stat().st_size != entry["bytes"] or not (is_verified or sha256_of(path) == entry["sha256"]):
                raise RunError(f"{path}: altered or cut off (size or SHA-256 is not the manifest's); use an earlier checkpoint")
        if surplus := sorted(present - set(manifest["files"])):
            raise RunError(f"{folder / surplus[0]}: not part of the checkpoint; remove it")
        return cls(folder, manifest)

    def has_moments(self) -> bool:
        """Whether optimiser state is in it; not so at step 0."""
        return self.progress.optimiser_steps > 0

    def kinds(self, name: str) -> frozenset[str]:
        """What is kept of a tensor."""
        return frozenset(self._kinds[name])

    def holds(self, kind: str, name: str) -> bool:
        """Whether something of this kind is kept of the tensor."""
        return kind in self._kinds[name]

    def read(self, kind: str, name: str, start: int = 0, length: int | None = None) -> torch.Tensor:
        """Elements ``start`` to ``start + length`` of a flattened tensor (default: all of it), fp32, from whichever files hold them.

        Raises:
            RunError: Nothing of this kind is kept of the tensor, or a part of it is in no file.
        """
        total = 1
        for size in self.shapes[name]:
            total *= size
        end = total if length is None else start + length
        if end > start and not self.holds(kind, name):
            raise RunError(
                f"{self.folder}: holds no {kind} of {name}: it was written with another optimiser, or while this parameter was frozen; "
                "go on from it with the optimiser and the freezing of its own run"
            )
        parts = []
        reached = start
        for place, path in self._index[name]:
            view = self._open[path.name].get_slice(f"{kind}:{name}")  # type: ignore[no-untyped-call]
            (size,) = view.get_shape()
            low, high = max(start, place), min(end, place + size)
            if low < high:
                if low != reached:
                    break
                parts.append(view[low - place : high - place])
                reached = high
        if reached != end:
            raise RunError(f"{self.folder}: {kind} of {name}: elements {reached} to {end} are in no file; use an earlier checkpoint")
        return torch.cat(parts) if parts else torch.empty(0)

    def check_model(self, model: torch.nn.Module) -> None:
        """Compare names and shapes with an unsharded model's.

        Raises:
            RunError: The model has other parameters or shapes than the checkpoint.
        """
        mine = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        if mine != self.shapes:
            differing = sorted(name for name in mine.keys() | self.shapes.keys() if mine.get(name) != self.shapes.get(name))
            first = differing[0]
            found, wanted = self.shapes.get(first, "absent"), mine.get(first, "absent")
            raise RunError(f"{self.folder}: another model's checkpoint: {first} is {found} in it and {wanted} in the model")

    def load_parameters(self, model: torch.nn.Module) -> None:
        """Copy every parameter into an unsharded model.

        Raises:
            RunError: The model has other parameters or shapes than the checkpoint.
        """
        self.check_model(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.read("param", name).reshape(parameter.shape))


def first_whole(folders: Iterable[Path]) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The first of ``folders`` that is a whole checkpoint, None when none is; and what is wrong with those before it."""
    damaged: list[str] = []
    for folder in folders:
        try:
            return Checkpoint.open(folder), tuple(damaged)
        except RunError as error:
            damaged.append(str(error))
    return None, tuple(damaged)


def _memory(kept: Mapping[str, Any]) -> Memory:
    """The guard's memory in a manifest; older checkpoints hold none."""
    return Memory(tuple(float(loss) for loss in kept.get("losses", ())), int(kept.get("skipped_in_a_row", 0)))
