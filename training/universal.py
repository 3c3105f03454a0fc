"""DeepSpeed's universal checkpoints, written from ours and read into ours; needs no DeepSpeed.

The form, as DeepSpeed 0.19 loads it with ``checkpoint: {load_universal: true}``: a folder with ``latest_universal``, which names a folder
with the state of the run (``mp_rank_00_model_states.pt``; at ZeRO-3 ``zero_pp_rank_0_mp_rank_00_model_states.pt``) and, in ``zero/NAME/``,
each parameter's ``fp32.pt``, ``exp_avg.pt``, ``exp_avg_sq.pt`` and ``step.pt``.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import torch

from foundation.errors import DataError, first_line
from foundation.folders import new_folder
from training.checkpoint import MOMENTS, Checkpoint, Fragment, Progress, write_fragments, write_manifest

LATEST = "latest_universal"
_STATES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
_FILES = {"param": "fp32.pt", **{kind: f"{kind}.pt" for kind in MOMENTS}}
_BYTES_PER_ELEMENT = 12  # fp32, two moments


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    folder: Path
    progress: Progress
    tensors: int
    parameters: int
    """Elements of them."""


def tag_of(step: int) -> str:
    """The folder's name that DeepSpeed itself gives."""
    return f"global_step{step}"


def check_exportable(checkpoint: Checkpoint) -> None:
    """Refuse what the universal form has no place for.

    Raises:
        DataError: The optimiser kept other state than Adam's two moments.
    """
    for name in checkpoint.shapes:
        if others := checkpoint.kinds(name) - {"param", *MOMENTS}:
            raise DataError(
                f"{checkpoint.folder}: holds {min(others)} of {name}, for which the universal form has no place; it takes the state of "
                "optimiser.kind adamw, lamb and stable_adamw"
            )


def export_universal(checkpoint: Checkpoint, target: Path) -> Converted:
    """Write ``target``, which must not exist, whole or not at all.

    Frozen parameters have their values only. Groups are empty, one for each parameter at most: DeepSpeed overwrites what the loading
    program has set with what they hold (at stage 3 with that of the first group, for all), and leaves alone groups that are not there.

    Raises:
        DataError: As ``check_exportable`` says.
        InputError, RunError: There is too little room.
    """
    check_exportable(checkpoint)
    progress = checkpoint.progress
    size = sum(map(prod, checkpoint.shapes.values()))
    steps = torch.tensor(float(progress.optimiser_steps))
    with new_folder(target, _BYTES_PER_ELEMENT * size) as part:
        folder = part / tag_of(progress.step)
        for name, shape in checkpoint.shapes.items():
            place = folder / "zero" / name
            place.mkdir(parents=True)
            kinds = _kinds_of(checkpoint, name)
            for kind in kinds:
                held = checkpoint.read(kind, name) if checkpoint.holds(kind, name) else torch.zeros(prod(shape))
                torch.save({"param": held.reshape(shape).contiguous()}, place / _FILES[kind])
            if len(kinds) > 1:
                torch.save(steps, place / "step.pt")
        groups: list[dict[str, Any]] = [{} for _ in checkpoint.shapes]
        optimiser = {
            "ds_version": version("deepspeed"),
            "param_groups": groups,
            # Of stage 3, which takes the number of steps from here.
            "optimizer_state_dict": {"state": {0: {"step": steps}}, "param_groups": groups},
        }
        torch.save(optimiser, folder / "zero" / "optimizer_state.pt")
        states = {
            "module": {},
            "param_shapes": [{name: torch.Size(shape) for name, shape in checkpoint.shapes.items()}],
            "lr_scheduler": {"last_batch_iteration": progress.step - 1},
            "global_steps": progress.step,
            "global_samples": 0,
            "skipped_steps": progress.step - progress.optimiser_steps,
            "dp_world_size": 1,
            "mp_world_size": 1,
            "ds_version": version("deepspeed"),
        }
        for name in _STATES:
            torch.save(states, folder / name)
        (part / LATEST).write_text(folder.name, encoding="utf-8")
    return Converted(target, progress, len(checkpoint.shapes), size)


def _kinds_of(checkpoint: Checkpoint, name: str) -> tuple[str, ...]:
    """What is written of a parameter; moments of one that is stepped also before the first step, when they are 0."""
    is_stepped = checkpoint.holds(MOMENTS[0], name) or not checkpoint.has_moments()
    return ("param", *MOMENTS) if is_stepped else ("param",)


class Universal:
    """A universal checkpoint, open for reading. Nothing in it is executed: what a pickle names besides tensors is refused."""

    def __init__(self, folder: Path) -> None:
        """``folder``: the one with ``latest_universal``, or the one that it names.

        Raises:
            DataError: It is none, or its files cannot be read.
        """
        self.folder = _tagged(folder)
        file = next((file for name in _STATES if (file := self.folder / name).is_file()), None)
        if file is None or not (self.folder / "zero").is_dir():
            raise DataError(
                f"{folder}: no universal checkpoint: expected {LATEST}, or {' or '.join(_STATES)} beside a folder zero; DeepSpeed's "
                "ds_to_universal.py makes one of its own checkpoints (with --inject_missing_state when it asks for it)"
            )
        states = _load(file)
        try:
            self.shapes = {name: tuple(map(int, shape)) for name, shape in _shapes(states)}
            self.step = int(states["global_steps"])
            self.optimiser_steps = self.step - int(states["skipped_steps"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{file}: lacks what a DeepSpeed checkpoint has ({type(error).__name__}: {error})") from None

    def read(self, kind: str, name: str) -> torch.Tensor | None:
        """A flattened fp32 tensor; None where nothing of this kind is kept.

        Raises:
            DataError: Its file cannot be read, or holds another number of elements than the parameter has.
        """
        file = self.folder / "zero" / name / _FILES[kind]
        if not file.is_file():
            return None
        found = _load(file)
        tensor = found.get("param") if isinstance(found, Mapping) else found  # of ZeRO-3 DeepSpeed writes the bare tensor
        elements = prod(self.shapes[name])
        if not isinstance(tensor, torch.Tensor) or tensor.numel() != elements:
            raise DataError(f"{file}: expected a tensor of {elements} elements, as the shape of {name} says")
        return tensor.detach().float().reshape(-1)


def import_universal(source: Universal, target: Path, *, step: int | None = None, strip: str = "") -> Converted:
    """Write a checkpoint of ours to ``target``, which must not exist, whole or not at all.

    Args:
        source: What to read.
        target: The folder, for ``start_from``.
        step: Where the recipe's schedule and order of rows go on; default: the steps that were done.
        strip: Taken off the beginning of every parameter's name.

    Raises:
        DataError: A parameter has no values, moments are missing of some that others have, or a name has another beginning.
        InputError, RunError: There is too little room.
    """
    odd = [name for name in source.shapes if not name.startswith(strip)]
    if odd:
        raise DataError(f"{source.folder}: {odd[0]} does not begin with {strip!r}, which is to be taken off")
    progress = Progress(source.step if step is None else step, source.optimiser_steps)
    shapes = {name.removeprefix(strip): shape for name, shape in source.shapes.items()}
    size = sum(map(prod, shapes.values()))
    with new_folder(target, _BYTES_PER_ELEMENT * size) as part:
        files = write_fragments(part, 0, _fragments(source, strip))
        write_manifest(part, progress, files, shapes, {"imported_from": str(source.folder), "world_size": 1})
    return Converted(target, progress, len(shapes), size)


def _fragments(source: Universal, strip: str) -> Iterator[Fragment]:
    for name in source.shapes:
        found = {kind: tensor for kind in _FILES if (tensor := source.read(kind, name)) is not None}
        if "param" not in found or len(found) == 2:
            missing = next(file for kind, file in _FILES.items() if kind not in found)
            raise DataError(f"{source.folder / 'zero' / name / missing}: missing; the checkpoint is damaged")
        yield Fragment(name.removeprefix(strip), 0, found)


def _tagged(folder: Path) -> Path:
    file = folder / LATEST
    return folder / file.read_text(encoding="utf-8").strip() if file.is_file() else folder


def _shapes(states: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Of all parameters; those that share another's tensor are not among them."""
    for group in states["param_shapes"]:
        yield from group.items()
    yield from (states.get("frozen_param_shapes") or {}).items()


def _load(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{file}: cannot be read as tensors and plain values: {first_line(error)}") from None
