"""A classifier that was trained elsewhere becomes a bundle: the same model in safetensors, with golden requests and a sealed manifest.

Knows no registry and no MLflow; ``raybert/verbs/models.py`` registers what comes out. What lies in the folder is read by ``foreign.py``.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.classifier import SequenceClassifier, Text
from encoder.foreign import find_model, find_weights, labels_of, read_config, task_of
from encoder.loading import check_vocabulary, load_tokenizer, longest_input, positions_of, quieten_transformers
from foundation.bundle import PROBLEM_TYPES, Bundle, TaskKind, seal
from foundation.errors import DataError, EncoderError, first_line

UNKNOWN_DATA = "unknown"
"""The data fingerprint of a model whose training data nobody recorded."""
_GOLDEN_REQUESTS = 32
_SENTENCES: tuple[str, ...] = (
    "The meeting was moved to Thursday afternoon.",
    "I have read the whole report and have no further questions.",
    "It arrived two days late, and the box was damaged.",
    "Please send me the numbers for the last three months.",
)


@dataclass(frozen=True)
class ImportPlan:
    """A checked import: what is taken and as what."""

    source: Path
    folder: Path
    """Where the model lies."""
    chosen: str
    """Which model of the source that is, and why."""
    tokenizer: Path
    task: TaskKind
    labels: tuple[str, ...]
    max_length: int
    takes_pairs: bool
    is_pickle: bool
    examples: tuple[Text, ...]
    """Texts whose scores the bundle records."""
    notes: tuple[str, ...]
    """What was not told and had to be taken to be so, and what is odd."""


def plan_import(
    source: Path,
    *,
    task: TaskKind | None = None,
    labels: Sequence[str] = (),
    max_length: int | None = None,
    takes_pairs: bool = False,
    tokenizer: Path | None = None,
    examples: Path | None = None,
    allow_pickle: bool = False,
) -> ImportPlan:
    """Check a folder without loading its weights.

    Args:
        source: A Hugging Face sequence classifier's folder or a Trainer run's.
        task: What it answers; None: as its configuration says.
        labels: Names in the order of the logits; empty: its own.
        max_length: Longest input in tokens; None: the tokenizer's, at most the model's positions.
        takes_pairs: Whether it was trained on pairs; so are examples of pairs.
        tokenizer: The tokenizer's folder where it is not the model's.
        examples: Texts for golden requests: one a line, or JSON lines with ``text`` and perhaps ``text_pair``. None: neutral sentences.
        allow_pickle: Read weights from a pickle, tensors only.

    Raises:
        EncoderError: One message for each thing that can be wrong with the folder.
        DataError: The examples cannot be read.
    """
    chosen = find_model(source)
    folder = chosen.folder
    config = read_config(folder)
    is_pickle = find_weights(folder, allow_pickle=allow_pickle)
    names, warnings = labels_of(config, labels, folder)
    kind, notes = task_of(config, names, task, folder)
    texts = read_examples(examples, takes_pairs=takes_pairs) if examples else _sentences(takes_pairs)
    # Trainer saves a tokenizer into its checkpoints only if it was given one; the run folder may have it.
    found = tokenizer or (source if folder != source and not _has_tokenizer(folder) and _has_tokenizer(source) else folder)
    loaded, model_config = load_tokenizer(str(found)), _model_config(folder)
    check_vocabulary(model_config, loaded, str(folder))
    return ImportPlan(
        source=source.absolute(),
        folder=folder.absolute(),
        chosen=chosen.why,
        tokenizer=found.absolute(),
        task=kind,
        labels=names,
        max_length=_longest(model_config, loaded, max_length, folder),
        takes_pairs=takes_pairs or any(isinstance(text, tuple) for text in texts),
        is_pickle=is_pickle,
        examples=texts,
        notes=(*warnings, *notes),
    )


def import_model(plan: ImportPlan, target: Path, *, run_id: str) -> Bundle:
    """Write the bundle to ``target``, which must not exist; nothing is left behind when that fails.

    Raises:
        EncoderError: The weights cannot be read, or are not all there.
    """
    model = _load(plan)
    model.config.problem_type = PROBLEM_TYPES[plan.task]
    model.config.id2label = dict(enumerate(plan.labels))
    model.config.label2id = {label: index for index, label in enumerate(plan.labels)}
    tokenizer = load_tokenizer(str(plan.tokenizer))
    tokenizer.model_max_length = plan.max_length
    try:
        model.save_pretrained(target)
        # Before anything is tokenised: a fast tokenizer would save the truncation that it was last used with.
        tokenizer.save_pretrained(target)
        classifier = SequenceClassifier(model, tokenizer, max_length=plan.max_length, takes_pairs=plan.takes_pairs)
        return seal(
            target,
            task=plan.task,
            max_length=plan.max_length,
            run_id=run_id,
            data_fingerprint=UNKNOWN_DATA,
            labels=plan.labels,
            takes_pairs=plan.takes_pairs,
            golden=classifier.golden(plan.examples),
        )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def read_examples(path: Path, *, takes_pairs: bool) -> tuple[Text, ...]:
    """The first texts of a file: one a line, or JSON lines with ``text`` and perhaps ``text_pair``.

    Raises:
        DataError: Names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()][:_GOLDEN_REQUESTS]
    if not numbered:
        raise DataError(f"{path}: holds no text; give one text a line, or JSON lines with text and text_pair")
    is_json = path.suffix in (".jsonl", ".ndjson")
    texts = tuple(_from_json(path, number, line) if is_json else line.strip() for number, line in numbered)
    alone = next((number for (number, _), text in zip(numbered, texts, strict=True) if isinstance(text, str)), None)
    if takes_pairs and alone is not None:
        raise DataError(f"{path}: line {alone}: a single text, expected pairs; give JSON lines with text and text_pair")
    return texts


def _from_json(path: Path, number: int, line: str) -> Text:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}: line {number}: not JSON: {error}") from None
    first, second = (row.get("text"), row.get("text_pair")) if isinstance(row, dict) else (None, None)
    if not isinstance(first, str) or not isinstance(second, (str, type(None))):
        raise DataError(f"{path}: line {number}: expected an object with text and perhaps text_pair")
    return first if second is None else (first, second)


def _sentences(takes_pairs: bool) -> tuple[Text, ...]:
    return tuple(zip(_SENTENCES, reversed(_SENTENCES), strict=True)) if takes_pairs else _SENTENCES


def _has_tokenizer(folder: Path) -> bool:
    from foundation.references import check_tokenizer_folder

    try:
        check_tokenizer_folder(str(folder))
    except EncoderError:
        return False
    return True


def _model_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EncoderError(f"{folder}: config.json could not be read as a model: {first_line(error)}") from None


def _longest(config: Any, tokenizer: Any, wanted: int | None, folder: Path) -> int:
    if wanted is not None:
        return longest_input(config, wanted, str(folder))
    # A tokenizer without a limit says so by a very large number.
    return min(int(tokenizer.model_max_length), 512, positions_of(config) or 512)


def _load(plan: ImportPlan) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    quieten_transformers()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            str(plan.folder),
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=not plan.is_pickle,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise EncoderError(f"{plan.folder}: the weights could not be read: {first_line(error)}") from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise EncoderError(
            f"{plan.folder}: {len(missing)} weights of the model are not there ({', '.join(missing[:3])}); they would be random, so it is "
            "not a trained classifier"
        )
    return model
