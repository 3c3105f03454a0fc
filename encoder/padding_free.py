"""Models computed without padding: documents one behind the other, logits only where they count, for any encoder of transformers.

The model's own ``forward`` runs, head included. What changes is what its last layer computes (``last_layer.py``), and what its head gets
to see: a hook on the base model (or on its pooler) hands on the hidden states of the masked tokens, or of each document's first token. So
no family needs code here. Whether a family bears it is not believed but tried, by ``check_same``, when a run starts.

Shapes: N tokens, K of them asked for, D documents, M masked tokens, h width, V vocabulary, C classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from encoder.attention import ATTENTION, register
from encoder.config import AttentionKind
from encoder.dropout import quicken
from encoder.last_layer import asking
from encoder.layout import Layout, Numbers, layout, positions
from encoder.loading import positions_of
from foundation.errors import EncoderError, first_line

_TOLERANCE = 1e-4  # on fp32 logits; rounding alone is two orders below
_EXACT_TOLERANCE = 1e-6  # on fp64 ones, of the largest; rotary positions and some softmaxes are fp32 in any case
_Select = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Documents:
    """Tokenised documents, shortest first, one behind the other."""

    ids_N: torch.Tensor
    """int64."""
    positions_N: torch.Tensor
    """int64, counted from 0 in each document."""
    types_N: torch.Tensor
    """int64 token types, all 0 where the texts of a pair are not told apart."""
    layout: Layout
    asked_K: torch.Tensor
    """int64, ascending: the tokens whose last hidden states are asked for."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Documents:
        """The documents on ``device``."""
        return Documents(**{name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items()})

    def __len__(self) -> int:
        return len(self.layout.lengths)

    def asking(self, asked_K: Numbers) -> Documents:
        """The documents with other tokens asked for, ascending."""
        return replace(self, layout=self.layout.asking(asked_K), asked_K=torch.from_numpy(asked_K))


class Placed(NamedTuple):
    """Where things went when documents were put in the order of their lengths."""

    documents_D: npt.NDArray[np.int64]
    """Which of the given documents each one is."""
    tokens_N: npt.NDArray[np.int64]
    """Which of the given tokens each one is."""

    def places(self, given: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where given tokens are now."""
        now_N = np.empty_like(self.tokens_N)
        now_N[self.tokens_N] = np.arange(len(now_N))
        return now_N[given]


def documents(
    ids_N: npt.NDArray[Any], sizes_D: npt.NDArray[np.int64], kind: AttentionKind, types_N: npt.NDArray[Any] | None = None
) -> tuple[Documents, Placed]:
    """Put documents that lie one behind the other in the order of their lengths; the first token of each is asked for.

    Args:
        ids_N: Their token ids.
        sizes_D: Tokens of each, N in all, none 0.
        kind: How attention will keep them apart.
        types_N: Token types; None is all 0.
    """
    order_D = np.argsort(sizes_D, kind="stable")
    sorted_D = sizes_D[order_D]
    offset_N = positions(sorted_D)
    tokens_N = np.repeat((np.cumsum(sizes_D) - sizes_D)[order_D], sorted_D) + offset_N
    sorted_N = np.asarray(ids_N, dtype=np.int64)[tokens_N]
    sorted_types_N = np.zeros_like(sorted_N) if types_N is None else np.asarray(types_N, dtype=np.int64)[tokens_N]
    ids, places, types = (torch.from_numpy(array) for array in (sorted_N, offset_N, sorted_types_N))
    firsts_D = np.cumsum(sorted_D) - sorted_D
    found = Documents(ids, places, types, layout(sorted_D.tolist(), kind).asking(firsts_D), torch.from_numpy(firsts_D))
    return found, Placed(order_D, tokens_N)


def prepare(model: Any) -> Any:
    """Let ``model`` take documents without padding; it takes padded rows as before. Returns it."""
    register()
    quicken(model)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)
    return model


def masked_logits(model: Any, found: Documents) -> torch.Tensor:
    """Vocabulary logits_KV of a masked-language model at the tokens asked for; computed nowhere else."""
    with asking(model, found.asked_K, found.layout) as is_asked, _handing_on(model.base_model, _asked(found, is_asked)):
        logits: torch.Tensor = _forward(model, found).logits
    return logits.squeeze(0)


def pretraining_logits(model: Any, found: Documents, masked_M: torch.Tensor, firsts_D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vocabulary logits_MV, and logits (D, 2) of whether each document's second half is its own; for models with both heads.

    Args:
        model: With both heads.
        found: Documents of which the masked tokens and the first ones are asked for.
        masked_M: Which of those asked for are masked.
        firsts_D: Which of them begin documents.
    """
    with asking(model, found.asked_K, found.layout) as is_asked, ExitStack() as hooks:
        asked = _asked(found, is_asked)
        hooks.enter_context(_handing_on(model.base_model, lambda hidden: asked(hidden).index_select(1, masked_M)))
        if found.layout.kind != "padded":  # else each row begins with its document's first token already
            hooks.enter_context(_pooling(model, lambda hidden: asked(hidden)[0].index_select(0, firsts_D).unsqueeze(1)))
        output = _forward(model, found)
    return output.prediction_logits.squeeze(0), output.seq_relationship_logits


def class_logits(model: Any, found: Documents) -> torch.Tensor:
    """Logits_DC of a sequence classifier, its head applied to every document; the first tokens are asked for."""
    if found.layout.kind == "padded":
        padded: torch.Tensor = _forward(model, found).logits
        return padded
    if averages(model):
        with _handing_on(model.base_model, _mean(found)):
            averaged: torch.Tensor = _forward(model, found).logits
        return averaged
    has_pooler = getattr(model.base_model, "pooler", None) is not None
    with asking(model, found.asked_K, found.layout) as is_asked:
        asked = _asked(found, is_asked)
        # A pooler works inside of the base model, on the first token of each row.
        hook = _pooling if has_pooler else lambda model, select: _handing_on(model.base_model, select)
        with hook(model, lambda hidden: asked(hidden).transpose(0, 1)):
            logits: torch.Tensor = _forward(model, found).logits
    return logits


def averages(model: Any) -> bool:
    """Whether a classifier's head reads the mean of a document's tokens, not its first one."""
    return getattr(model.config, "classifier_pooling", "cls") == "mean"


def check_same(model: Any, kind: AttentionKind, *, vocabulary: int, is_classifier: bool) -> None:
    """Compute three made-up documents as training will, and as transformers does, and compare.

    transformers computes each document alone; for padded rows, the same padded rows. Both in fp64, where rounding hides nothing: an
    untrained model attends much the same everywhere, and what it gets wrong in fp32 looks like rounding until it has learnt something.

    Args:
        model: A masked-language model or a sequence classifier, fp32, on its device.
        kind: How attention keeps documents apart.
        vocabulary: Ids to draw from.
        is_classifier: Which of the two it is.

    Raises:
        EncoderError: The logits differ: this family's attention or head cannot be computed so; or transformers cannot compute it from token
            ids either.
    """
    generator = np.random.default_rng(0)
    # Padding is left out: RoBERTa's family does not count it among the positions. BART's classifiers read the last token if it ends a text.
    end = getattr(model.config, "eos_token_id", None)
    known = np.setdiff1d(np.arange(vocabulary), [padding_of(model.config), -1 if end is None else end])
    limit = positions_of(model.config) or 512
    rows = [generator.choice(known, min(size, limit)) for size in (5, 9, 9)]
    if isinstance(end, int) and end < vocabulary:
        for row in rows:
            row[-1] = end
    device = next(model.parameters()).device
    found, placed = documents(np.concatenate(rows), np.array([len(row) for row in rows]), kind)
    given = (found.to(device), [rows[i] for i in placed.documents_D], is_classifier)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            try:
                with _in_double(model):
                    ours, theirs = _both(model, *given)
                most = _EXACT_TOLERANCE * float(theirs.abs().max())
            except EncoderError:  # perhaps only because some of it insists on fp32
                ours, theirs = _both(model, *given)
                most = _TOLERANCE
    finally:
        model.train(was_training)
    difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
    if not difference <= most:
        raise EncoderError(f"{_family(model)}: logits {_how(kind)} differ by {difference:.2g} from those of {_reference(kind)}")


def _both(model: Any, found: Documents, rows: Sequence[npt.NDArray[Any]], is_classifier: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits as training computes them, and as transformers does, at every other token or of each document."""
    kind = found.layout.kind
    odd_K = np.arange(1, len(found.ids_N), 2)
    try:
        if kind == "padded":
            padded = _vocabulary_logits(_forward(model, found))
            theirs = padded if is_classifier else padded.flatten(0, 1)[found.layout.fold.places_N][odd_K]
        else:
            alone = [_vocabulary_logits(model(input_ids=_row(ids, found.ids_N.device))) for ids in rows]
            theirs = torch.cat(alone) if is_classifier else torch.cat([logits[0] for logits in alone])[odd_K]
    except Exception as error:
        raise EncoderError(f"{_family(model)}: transformers cannot compute it from token ids alone: {first_line(error)}") from None
    try:
        if is_classifier:
            return class_logits(model, found), theirs
        asked, everything = found.asking(odd_K).to(found.ids_N.device), torch.arange(len(odd_K), device=found.ids_N.device)
        if "PreTraining" in type(model).__name__:
            return pretraining_logits(model, asked, everything, everything[: len(rows)])[0], theirs
        return masked_logits(model, asked), theirs
    except Exception as error:  # whatever a family is not made for: a missing attribute, an argument it does not take, another shape
        raise EncoderError(f"{_family(model)}: cannot be computed {_how(kind)}: {first_line(error)}") from None


@contextmanager
def _in_double(model: Any) -> Iterator[None]:
    """While it lasts, the model computes in fp64; fp32 weights come back as they were, bit for bit."""
    model.double()
    try:
        yield
    finally:
        model.float()


def _how(kind: AttentionKind) -> str:
    return "in padded rows" if kind == "padded" else "without padding"


def _reference(kind: AttentionKind) -> str:
    return "transformers' own" if kind == "padded" else "each document alone"


def padding_of(config: Any) -> int:
    """The id of padding; 0 where a configuration has none, for what stands in padding is never read."""
    found = getattr(config, "pad_token_id", None)
    return 0 if found is None else int(found)


def position_offset(model: Any) -> int:
    """What is added to positions: RoBERTa's family counts them from one past the padding id."""
    padding = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def _forward(model: Any, found: Documents) -> Any:
    given = {name: value for name, value in _inputs(model, found).items() if name in _parameters(type(model))}  # type: ignore[arg-type]
    if found.layout.kind == "padded":
        return model(**given)
    with ExitStack() as hooks:
        if getattr(model.config, "sliding_window", None) is not None:
            # Built by transformers, its masks would be N × N; ``attend`` knows window and documents. Not given to the head, which may pool
            # by them.
            hooks.callback(model.base_model.register_forward_pre_hook(_without_masks, with_kwargs=True).remove)
        return model(**given, layout=found.layout)


@cache
def _parameters(kind: type) -> frozenset[str]:
    """What the forward call of a class of models takes; asked once, for it is slow to ask."""
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]


def _inputs(model: Any, found: Documents) -> dict[str, torch.Tensor]:
    """What a model may take of the documents."""
    if found.layout.kind != "padded":
        return {
            "input_ids": found.ids_N.unsqueeze(0),
            "position_ids": (found.positions_N + position_offset(model)).unsqueeze(0),
            "token_type_ids": found.types_N.unsqueeze(0),
        }
    fold = found.layout.fold
    is_token_BT = fold.document_BT >= 0
    ids_BT, types_BT = (tokens[fold.sources_BT].view(is_token_BT.shape) for tokens in (found.ids_N, found.types_N))
    return {
        "input_ids": torch.where(is_token_BT, ids_BT, padding_of(model.config)),
        "attention_mask": is_token_BT.long(),
        "token_type_ids": torch.where(is_token_BT, types_BT, 0),
    }


def _without_masks(_: Any, inputs: Any, given: dict[str, Any]) -> Any:
    return inputs, given | {"attention_mask": {"full_attention": None, "sliding_attention": None}}


def _asked(found: Documents, is_asked: bool) -> _Select:
    """Hidden states of all tokens, or already of those asked for, to (1, K, h)."""
    if is_asked:
        return lambda hidden: hidden
    places_K = found.asked_K if found.layout.kind != "padded" else found.layout.fold.places_N[found.asked_K]
    return lambda hidden: hidden.flatten(0, 1).index_select(0, places_K).unsqueeze(0)


def _mean(found: Documents) -> _Select:
    """Hidden states (1, N, h) to the mean of each document's (D, 1, h)."""
    sizes_D = found.layout.ends.diff()
    owner_N = torch.repeat_interleave(torch.arange(len(found), device=sizes_D.device), sizes_D)

    def mean(hidden: torch.Tensor) -> torch.Tensor:
        sums = hidden.new_zeros(len(found), hidden.shape[-1]).index_add(0, owner_N, hidden.squeeze(0))
        return (sums / sizes_D.unsqueeze(1)).unsqueeze(1)

    return mean


@contextmanager
def _pooling(model: Any, select: _Select) -> Iterator[None]:
    """While it lasts, the pooler gets what ``select`` takes of the hidden states that it is given."""
    if isinstance(model.base_model.pooler, torch.nn.Linear):  # ALBERT's, which is given the first token only
        with _handing_on(model.base_model.encoder, select):
            yield
        return
    handle = model.base_model.pooler.register_forward_pre_hook(lambda _, inputs: (select(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _handing_on(base: Any, select: _Select) -> Iterator[None]:
    """While it lasts, ``base`` answers with what ``select`` takes of its last hidden states."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (select(output[0]), *output[1:])
        output["last_hidden_state"] = select(output["last_hidden_state"])
        return output

    handle = base.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _row(ids: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64)).unsqueeze(0).to(device)


def _vocabulary_logits(output: Any) -> torch.Tensor:
    logits: torch.Tensor = output.prediction_logits if "prediction_logits" in output else output.logits
    return logits


def _family(model: Any) -> str:
    return f"model_type {model.config.model_type}"
