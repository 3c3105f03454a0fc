"""What a training run would take, as frozen data that ``--dry-run`` prints: run id, steps, resources, DeepSpeed JSON, memory. No torch."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from corpus.checks import TokenCounter, long_texts
from corpus.findings import Finding, refuse
from corpus.labelled import LabelledData, load_labelled
from corpus.shards import PackedRows
from corpus.tokenizer import token_counter
from encoder.config import AttentionKind
from foundation.errors import ConfigError, DataError, EncoderError, InputError
from foundation.home import home, new_run_id
from foundation.references import check_model_folder, resolve
from training.beginning_checks import check_checkpoint, check_embeddings, check_length, check_next_sentence, check_start
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.deepspeed_json import deepspeed_config
from training.depth import count_layers, shares_by_depth
from training.fitting import fitting
from training.footprint import state_bytes
from training.hardware import Decisions, Hardware, decide
from training.probe import probe_plan
from training.verb_config import Verb
from training.vocabulary import check_encoder
from training.workload import Workload, labelled_lengths, packed_lengths, workload

_BYTES = 4  # fp32
_CHECKPOINT_STATES = 3  # parameters and two moments


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on that was begun by an earlier command."""

    step: int
    """Steps that its checkpoint has behind it; 0 when there is none yet."""
    checkpoint: str | None
    """The folder; None begins from the first step."""
    damaged: tuple[str, ...]
    """What is wrong with later checkpoints, which are passed over."""
    changes: dict[str, tuple[Any, Any]]
    """Keys of the recipe that differ: what the run had, and what it goes on with."""


@dataclass(frozen=True)
class TrainPlan:
    """A run before it is started."""

    verb: Verb
    run_id: str
    run_folder: str
    recipe: dict[str, Any]
    location: str
    """The encoder's folder or hub id."""
    steps: int
    rows: int
    engine: str
    hardware: dict[str, Any] | None
    """What the decisions are made for; None when only the workers will know their GPUs."""
    decisions: dict[str, Any] | str
    """Precision, attention, compilation and communication, each with its reason; or that they are made on the workers."""
    deepspeed: dict[str, Any] | None
    cpus: float
    """Of all workers; of an elastic gang, of the most."""
    gpus: float
    cpus_at_least: float
    """Without which the run cannot begin."""
    gpus_at_least: float
    parameters: int | None
    """None when the weights are not on this machine yet."""
    state_bytes_per_worker: int | None
    """Parameters, gradients and optimiser state by ZeRO's formula; activations come on top."""
    disk_bytes: int | None
    """What the run folder may hold at once: checkpoints and bundle."""
    data_fingerprint: str
    """Of the labelled rows, or of the packed ones."""
    outputs: int
    """Logits of a token that is asked for: the vocabulary, or one for each class."""
    work: Workload | None = None
    """A step, from a sample of the rows; None when only transformers can count their tokens."""
    learning_rates: dict[str, float] | None = None
    """Share of the schedule's learning rate by depth of the encoder, 0 where it is frozen; None when all are alike, or when the weights
    are not on this machine yet."""
    findings: tuple[dict[str, Any], ...] = ()
    """What the checks of labelled rows warn of: kind, severity, message, count and the first rows of each."""
    resumes: Resumption | None = None
    """None for a run that is yet to begin."""
    study: str | None = None
    """Whose recipe this is, if it is a study's."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plan(verb: Verb, recipe: RunConfig, hardware: Hardware | None = None, *, run_id: str | None = None) -> TrainPlan:
    """Check a recipe against its data and its encoder, and say what the run would take. Starts and writes nothing.

    Args:
        verb: What it is a recipe of.
        recipe: The recipe.
        hardware: What to decide for; None looks at this machine.
        run_id: The run's name; None makes one up.

    Raises:
        InputError: What is wrong with recipe, data or encoder.
    """
    new_model = recipe.new_model if isinstance(recipe, PretrainConfig) else None
    location = resolve(recipe.encoder).location if new_model is None else ""
    if new_model is None:
        check_model_folder(location)
        check_embeddings(location)
    check_start(recipe)
    findings: tuple[Finding, ...] = ()
    if isinstance(recipe, FinetuneConfig):
        check_length(location, recipe.max_length)
        data = read_labelled(recipe)
        recipe = fitting(recipe, data)
        check_checkpoint(recipe, location, data)
        rows, findings, longest = len(data.train), findings_of(data, recipe, counter := counter_of(location)), recipe.max_length
        outputs, fingerprint = max(1, len(data.labels)), data.fingerprint
        lengths = documents = labelled_lengths(recipe, data.train, counter) if counter else None
    else:
        assert isinstance(recipe, PretrainConfig)
        packed = _packed_rows(recipe, location)
        check_checkpoint(recipe, location, packed)
        rows, longest = packed.order(recipe.seed, short_first=recipe.curriculum == "short_first").rows, packed.sequence_length
        outputs, fingerprint = packed.manifest.tokenizer.vocabulary, packed.manifest.fingerprint
        lengths, documents = packed_lengths(packed)
    if recipe.tokens_per_microbatch < longest:
        raise ConfigError(
            f"tokens_per_microbatch: found {recipe.tokens_per_microbatch}, but a row may have {longest} tokens, which would fit no "
            f"micro-batch; give at least {longest}"
        )
    hardware = hardware or probe_plan(recipe)
    decisions = decide(hardware, recipe) if hardware else None
    deepspeed = deepspeed_config(recipe, decisions) if recipe.engine == "deepspeed" else None
    run_id = run_id or new_run_id(verb)
    parameters = count_parameters(Path(location)) if new_model is None else new_model.parameters(outputs)
    disk = None if parameters is None else run_bytes(parameters, recipe)
    check_room(home().runs, disk or 0)
    steps = total_steps(recipe, rows)
    return TrainPlan(
        verb=verb,
        run_id=run_id,
        run_folder=str(home().runs / run_id),
        recipe=recipe.model_dump(mode="json"),
        location=location,
        steps=steps,
        rows=rows,
        engine=recipe.engine,
        hardware=asdict(hardware) if hardware else None,
        decisions=decisions.as_json() if decisions else "decided on the workers, whose GPUs are not known here",
        deepspeed=deepspeed,
        cpus=recipe.workers.most * recipe.workers.cpus_each,
        gpus=recipe.workers.most * recipe.workers.gpus_each,
        cpus_at_least=recipe.workers.least * recipe.workers.cpus_each,
        gpus_at_least=recipe.workers.least * recipe.workers.gpus_each,
        parameters=parameters,
        state_bytes_per_worker=None if parameters is None else state_bytes(recipe.stage, parameters, recipe.workers.least),
        disk_bytes=disk,
        data_fingerprint=fingerprint,
        outputs=outputs,
        work=workload(recipe, steps, lengths, documents, attention_of(recipe, decisions)) if lengths and documents else None,
        learning_rates=learning_rates(recipe, Path(location)) if new_model is None else None,
        findings=tuple(finding.as_json() for finding in findings),
    )


def attention_of(recipe: RunConfig, decisions: Decisions | None) -> AttentionKind:
    """How documents are kept apart; where only the workers will decide, what the recipe says, or else what every GPU can."""
    if decisions:
        return decisions.attention.value
    return "block" if recipe.attention == "auto" else recipe.attention


def read_labelled(recipe: FinetuneConfig) -> LabelledData:
    """The recipe's labelled rows, with a class to tell from another."""
    data = load_labelled(recipe.data)
    if data.kind == "single" and len(data.labels) < 2:
        raise DataError(f"{recipe.data.train}: every row has the label {data.labels[0]!r}; a classifier needs at least two classes")
    return data


def counter_of(location: str) -> TokenCounter | None:
    """Counts tokens with an encoder's tokenizer; None for a hub id, which has none here, and for a form that only transformers opens."""
    return token_counter(Path(location)) if Path(location).is_dir() else None


def findings_of(data: LabelledData, recipe: FinetuneConfig, counter: TokenCounter | None) -> tuple[Finding, ...]:
    """What the checks warn of, texts that the model will cut among it.

    Args:
        data: The recipe's rows.
        recipe: The recipe.
        counter: Counts tokens; without one, long texts are not looked for.

    Raises:
        DataError: Texts are too long, and the recipe refuses that.
    """
    if counter is None:
        return data.findings
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    if data.trains_on_validation:
        del splits["validation"]
    long = long_texts(splits, counter, recipe.max_length, recipe.data.checks.long_texts)
    return (*data.findings, *refuse(long, recipe.data.train))


def total_steps(recipe: RunConfig, rows: int) -> int:
    """Optimiser steps of a whole run over ``rows`` training rows."""
    if isinstance(recipe, PretrainConfig):
        return recipe.steps
    assert isinstance(recipe, FinetuneConfig)
    return max(1, math.ceil(recipe.epochs * rows / recipe.rows_per_step))


def count_parameters(folder: Path) -> int | None:
    """Parameters in the folder's safetensors files, read from their headers; None when its weights are of another form or not here.

    Raises:
        EncoderError: A local folder without weights, or a damaged file.
    """
    if not folder.is_dir():
        return None
    files = sorted(folder.glob("*.safetensors"))
    if not files and not any(folder.glob("*.bin")):
        raise EncoderError(f"{folder}: holds no weights (no *.safetensors); copy the model's weights there")
    total = 0
    for file in files:
        size = file.stat().st_size
        try:
            with file.open("rb") as opened:
                header_bytes = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(min(header_bytes, size)))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            total += sum(math.prod(entry["shape"]) for entry in tensors)
            end = 8 + header_bytes + max((entry["data_offsets"][1] for entry in tensors), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EncoderError(f"{file}: not a readable safetensors file; copy the model's weights again") from None
        if end != size:
            raise EncoderError(f"{file}: holds {size:,} bytes, its header says {end:,}: cut off or damaged; copy the model's weights again")
    return total if files else None


def learning_rates(recipe: RunConfig, folder: Path) -> dict[str, float] | None:
    """Share of the schedule's learning rate by depth, from the names in the folder's safetensors files; None when there are none, or when
    nothing differs by depth.

    Raises:
        ConfigError: More layers are to be frozen than there are, or no layers are recognised.
    """
    freeze = recipe.freeze if isinstance(recipe, FinetuneConfig) else "none"
    files = sorted(folder.glob("*.safetensors"))
    if not files or (freeze == "none" and recipe.optimiser.layer_decay == 1):
        return None
    names = [name for file in files for name in safe_open(file, framework="numpy").keys()]  # type: ignore[no-untyped-call]  # noqa: SIM118
    return shares_by_depth(count_layers(names), recipe.optimiser.layer_decay, freeze)


def checkpoint_bytes(parameters: int) -> int:
    """Bytes of one checkpoint: parameters and two moments in fp32."""
    return _CHECKPOINT_STATES * _BYTES * parameters


def run_bytes(parameters: int, recipe: RunConfig) -> int:
    """Bytes that a run folder may hold at once: checkpoints of parameters and two moments (those kept, the latest, one being written),
    and the bundle."""
    return (recipe.checkpoint.keep + 2) * checkpoint_bytes(parameters) + _BYTES * parameters


def check_room(folder: Path, needed: int) -> None:
    """Refuse a run that would fill the disk.

    Args:
        folder: Where the run will write; need not exist yet.
        needed: Bytes.

    Raises:
        InputError: Says how much is needed, how much is free, and how to go elsewhere.
    """
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    if free < needed:
        raise InputError(
            f"{folder}: no room on the disk: checkpoints and bundle need about {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; "
            "free some space, lower checkpoint.keep, or point RAYBERT_HOME to a folder on a larger disk"
        )


def _packed_rows(recipe: PretrainConfig, location: str) -> PackedRows:
    packed = PackedRows.open(Path(recipe.data))
    if recipe.new_model is None:
        check_encoder(recipe, packed, location)
        check_length(location, packed.sequence_length, f"sequence_length of {recipe.data}")
        if recipe.next_sentence:
            check_next_sentence(location)
    elif packed.sequence_length > recipe.new_model.positions:
        raise ConfigError(
            f"new_model.positions: found {recipe.new_model.positions}, but rows of {recipe.data} have up to {packed.sequence_length} tokens"
        )
    if not len(packed):
        raise DataError(f"{recipe.data}: holds no packed rows; build it with a larger source")
    return packed
