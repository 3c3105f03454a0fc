"""A classifier as an ONNX graph, kept only if ONNX Runtime computes what torch computes.

The graph takes any number of rows of any length and gives logits; thresholds and softmax stay with the reader. Beside it lie tokenizer and
configuration, as ONNX readers of Hugging Face models expect them, and ``export.json``: labels, thresholds and the difference found. Needs
the extra ``onnx``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder.batches import pad
from encoder.classifier import SequenceClassifier, Tokens
from encoder.plain_export import PARITY_TOLERANCE, Parity, difference
from foundation.bundle import Bundle
from foundation.errors import BundleError, ConfigError
from foundation.folders import new_folder
from foundation.home import write_json

# B rows, T tokens, C classes
GRAPH = "model.onnx"
_LARGEST_FILE_BYTES = 1_500_000_000
"""Weights beyond this go into a file beside the graph: a protobuf message ends at 2 GiB."""


def export_onnx(bundle: Bundle, target: Path, *, seed: int = 0) -> Parity:
    """Write ``target``, a folder that must not exist, whole or not at all.

    Args:
        bundle: A verified classifier's bundle.
        target: The folder.
        seed: Of the random rows that are compared besides the golden requests.

    Raises:
        ConfigError: The extra ``onnx`` is not installed.
        EncoderError: The bundle is an encoder's.
        BundleError: ONNX Runtime computes otherwise than torch; nothing is left behind.
    """
    _require_packages()
    classifier = SequenceClassifier.load(bundle.path)
    with new_folder(target) as part:
        classifier.model.config.save_pretrained(part)
        # Before anything is tokenised: a fast tokenizer would save the truncation that it was last used with.
        classifier.tokenizer.save_pretrained(part)
        write_graph(classifier, part / GRAPH)
        rows = [row for request in bundle.manifest.golden for row in classifier.tokenize([request.input])]
        found = parity(classifier, part / GRAPH, [*rows, *random_rows(classifier, seed=seed)])
        if not found.largest_difference <= PARITY_TOLERANCE:
            raise BundleError(
                f"{target}: not exported: ONNX Runtime's logits differ from torch's by {found.largest_difference:.2e}, at most "
                f"{PARITY_TOLERANCE:.0e} is accepted; export safetensors instead"
            )
        manifest = bundle.manifest
        about = {
            "format": "onnx",
            "task": manifest.task,
            "labels": list(classifier.labels),
            "thresholds": manifest.thresholds,
            "takes_pairs": manifest.takes_pairs,
            "max_length": classifier.max_length,
            "bundle": bundle.digest,
            "run_id": manifest.run_id,
            "parity": asdict(found),
        }
        write_json(part / "export.json", about)
    return found


def write_graph(classifier: SequenceClassifier, file: Path) -> None:
    """Write the graph: ``input_ids``, ``attention_mask`` and, where the model has them, ``token_type_ids`` (B, T) to ``logits`` (B, C)."""
    (row,) = classifier.tokenize(["an example that is long enough to have some tokens"])
    # Two rows of two lengths: an axis of size 1, or a mask without padding, would be taken for a constant.
    short = Tokens(row.ids[: max(2, len(row) // 2)], truncated=False, length=0)
    given = _tensors(classifier, [row, short])
    batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=2, max=classifier.max_length)
    size = sum(value.numel() * value.element_size() for value in classifier.model.state_dict().values())
    with _quiet_exporter(), torch.inference_mode():
        torch.onnx.export(
            classifier.model,
            kwargs=given,
            f=str(file),
            input_names=list(given),
            output_names=["logits"],
            dynamic_shapes={name: {0: batch, 1: tokens} for name in given},
            external_data=size > _LARGEST_FILE_BYTES,
            verbose=False,
        )


def parity(classifier: SequenceClassifier, graph: Path, rows: Sequence[Tokens], *, rows_per_batch: int = 4) -> Parity:
    """Run rows through both, padded in batches of unequal lengths and each alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    batches = [rows[start : start + rows_per_batch] for start in range(0, len(rows), rows_per_batch)] + [[row] for row in rows]
    worst = 0.0
    for batch in batches:
        wanted_BC = classifier.logits([row.ids for row in batch], [row.types for row in batch])
        (found_BC,) = session.run(["logits"], {name: value.numpy() for name, value in _tensors(classifier, batch).items()})
        worst = float(np.maximum(worst, difference(found_BC, wanted_BC)))  # Python's max() would lose NaN
    return Parity(len(rows), max(map(len, rows)), worst)


def random_rows(classifier: SequenceClassifier, *, seed: int, rows: int = 16) -> list[Tokens]:
    """Rows of random ids, from the shortest to the longest that the model takes."""
    random = np.random.default_rng(seed)
    lengths = [2, classifier.max_length, *random.integers(2, classifier.max_length, rows - 2, endpoint=True)]
    special = set(classifier.tokenizer.all_special_ids)
    ids = [number for number in range(min(len(classifier.tokenizer), classifier.model.config.vocab_size)) if number not in special]
    return [Tokens(random.choice(ids, length).tolist(), truncated=False, length=int(length)) for length in lengths]


def _tensors(classifier: SequenceClassifier, rows: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    """The graph's inputs, (B, T) each."""
    pad_id = classifier.tokenizer.pad_token_id
    ids_BT, mask_BT = pad([row.ids for row in rows], 0 if pad_id is None else pad_id)
    given = {"input_ids": ids_BT, "attention_mask": mask_BT}
    if classifier.has_types:
        types_BT, _ = pad([row.types or [0] * len(row) for row in rows], 0)
        given["token_type_ids"] = types_BT
    return given


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's warnings about packages and names of axes, which nobody here can act on, off the terminal."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _require_packages() -> None:
    from importlib.util import find_spec

    missing: list[Any] = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"export to onnx needs {', '.join(missing)}; install them with: pip install 'raybert[onnx]'")
