"""What lies in a folder that somebody else's training wrote: which model of it, its weights, labels and task. Reads JSON; loads no model.

Read next: ``importing.py``, which makes a bundle of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.bundle import PROBLEM_TYPES, TaskKind, is_bundle
from foundation.errors import EncoderError

CONVERT = (
    "convert it where you trust it, `AutoModelForSequenceClassification.from_pretrained(FOLDER).save_pretrained(NEW)`, or --allow-pickle "
    "to read its tensors only"
)
_TASKS = {problem_type: task for task, problem_type in PROBLEM_TYPES.items()}
_STATE = "trainer_state.json"
_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Chosen:
    """A folder with one model, and why it is that one."""

    folder: Path
    why: str


def find_model(source: Path) -> Chosen:
    """The model of a Hugging Face folder or of a Trainer run.

    A run's best checkpoint is taken if its state names one and it is still there, else what lies in the run folder itself, else the last
    checkpoint.

    Raises:
        EncoderError: No such folder, a bundle, or neither a model nor checkpoints in it.
    """
    if not source.is_dir():
        raise EncoderError(f"{source}: {'is a file; give its folder' if source.exists() else 'no such folder'}")
    if is_bundle(source):
        raise EncoderError(f"{source}: is a bundle already; `evaluate`, `serve up` and `models export` take its folder as it is")
    checkpoints = _checkpoints(source)
    if not checkpoints:
        if not (source / "config.json").is_file():
            raise EncoderError(f"{source}: holds neither config.json nor checkpoint-* folders; give a Hugging Face model or a Trainer run")
        return Chosen(source, "the folder itself")
    best = _best_of(checkpoints)
    missing = ""
    if best is not None:
        found = source / best
        if (found / "config.json").is_file():
            return Chosen(found, f"{best}, the best checkpoint by {_STATE}")
        missing = f" ({best}, the best one, is not there any more)"
    if (source / "config.json").is_file():
        return Chosen(source, f"the run folder's own model{missing}")
    return Chosen(checkpoints[-1], f"{checkpoints[-1].name}, the last of {len(checkpoints)} checkpoints{missing}")


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a sequence classifier.

    Raises:
        EncoderError: Not JSON, of another kind of model, or of one that brings code of its own.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise EncoderError(f"{path}: holds a {type(config).__name__}, expected an object")
    kinds = [str(kind) for kind in config.get("architectures") or []]
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        found = f"is a {kinds[0]}" if kinds else "names no architecture"
        raise EncoderError(
            f"{folder}: {found}, expected one that ends in ForSequenceClassification; "
            f"`raybert finetune encoder={folder} …` makes a classifier from an encoder"
        )
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        found = "brings code of its own, which is not run" if "auto_map" in config else "is unknown to transformers"
        raise EncoderError(f"{folder}: model_type {config.get('model_type')!r} {found}")
    return config


def find_weights(folder: Path, *, allow_pickle: bool) -> bool:
    """Whether the weights are a pickle.

    Raises:
        EncoderError: There are none, or they are a pickle and that is not allowed.
    """
    if any((folder / name).is_file() for name in _SAFE):
        return False
    pickled = next((name for name in _PICKLED if (folder / name).is_file()), None)
    if pickled is None:
        raise EncoderError(f"{folder}: holds no weights (none of {', '.join((*_SAFE, *_PICKLED))})")
    if not allow_pickle:
        raise EncoderError(f"{folder}: {pickled} is a pickle, which can run code when it is opened; {CONVERT}")
    return True


def labels_of(config: dict[str, Any], given: Sequence[str], folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Label names in the order of the logits, and what to warn of.

    Raises:
        EncoderError: Names are missing, come twice, or another number was given.
    """
    found = config.get("id2label")
    # transformers leaves both out where they are its defaults.
    count = int(config.get("num_labels") or (len(found) if found else 2))
    names = {str(key): str(value) for key, value in (found or {str(index): f"LABEL_{index}" for index in range(count)}).items()}
    missing = [str(index) for index in range(len(names)) if str(index) not in names]
    if missing or len(names) != count:
        where = f"id2label names {', '.join(sorted(names))} of {count} labels"
        raise EncoderError(f"{folder / 'config.json'}: {where}; it has to name 0 to {count - 1}")
    labels = tuple(names[str(index)] for index in range(count))
    if given:
        if len(given) != count:
            raise EncoderError(f"--labels: {len(given)} names for {count} labels ({', '.join(labels)}); give one each, in this order")
        labels = tuple(given)
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise EncoderError(f"{folder}: two labels are named {twice!r}; name them apart with --labels")
    if count > 1 and any(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        return labels, (
            f"labels are named {', '.join(labels[:3])}{', …' if count > 3 else ''}; --labels gives them names that mean something",
        )
    return labels, ()


def task_of(config: dict[str, Any], labels: Sequence[str], given: TaskKind | None, folder: Path) -> tuple[TaskKind, tuple[str, ...]]:
    """The task, and what to say of it where it was not told.

    Raises:
        EncoderError: The task does not go with the number of labels.
    """
    said = _TASKS.get(str(config.get("problem_type")))
    task, notes = given or said, tuple[str, ...]()
    if task is None:
        # As transformers' own losses choose.
        task = "regression" if len(labels) == 1 else "single_label"
        notes = (f"config.json has no problem_type; taken as {task} from {len(labels)} label(s), --task says otherwise",)
    fits = {"single_label": len(labels) > 1, "regression": len(labels) == 1}.get(task, True)
    if not fits:
        wanted = "one label" if task == "regression" else "two labels or more; one logit alone is --task regression or multi_label"
        raise EncoderError(f"{folder}: {task} with {len(labels)} label(s); it has {wanted}")
    return task, notes


def _checkpoints(source: Path) -> list[Path]:
    """Checkpoint folders with a model, by step."""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in source.iterdir() if (path / "config.json").is_file()}
    return sorted((path for path, match in steps.items() if match), key=lambda path: int(path.name.partition("-")[2]))


def _best_of(checkpoints: Sequence[Path]) -> str | None:
    """The name of the best checkpoint as the last one's state has it; the path is of the machine that trained."""
    try:
        state = json.loads((checkpoints[-1] / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    best = state.get("best_model_checkpoint") if isinstance(state, dict) else None
    return re.split(r"[/\\]", str(best).rstrip("/\\"))[-1] if best else None
