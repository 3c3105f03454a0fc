"""Tiny real models: a BERT of a few thousand parameters with a WordPiece vocabulary, saved as transformers saves any model."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.bundle import Bundle, TaskKind, seal

_TEXT = """
this is a good bad product movie film great awful love hate the and of it was very not service fast slow happy sad nice poor
best worst wonderful terrible plot actor scene music story end time money price quality
"""
WORDS = tuple(_TEXT.split())


def make_encoder(folder: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0, positions: int = 64) -> Path:
    """Write an untrained BERT encoder (no head) with its tokenizer; returns ``folder``."""
    import torch
    from transformers import BertConfig, BertModel

    vocabulary = write_tokenizer(folder, positions=positions)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=hidden * 2,
        max_position_embeddings=positions,
        pad_token_id=0,
        initializer_range=0.3,  # wide, so that an untrained model tells texts apart
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, *, positions: int = 64) -> int:
    """Write a lower-case WordPiece tokenizer; returns its vocabulary's size."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = [*string.ascii_lowercase, *string.digits, *".,!?'-"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *dict.fromkeys(WORDS)]
    pieces = list(dict.fromkeys(pieces))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=positions)
    tokenizer.save_pretrained(folder)
    return len(pieces)


def make_classifier_bundle(
    folder: Path,
    labels: Sequence[str] = ("negative", "positive"),
    *,
    seed: int = 0,
    gates_passed: bool = True,
    spread: float = 3.0,
    task: TaskKind = "single_label",
    takes_pairs: bool = False,
    thresholds: Mapping[str, float] | None = None,
    encoder: Callable[..., Path] | None = None,
) -> Bundle:
    """Write a sealed bundle of an untrained classifier.

    Args:
        folder: Where; created.
        labels: Label names; a regression has one.
        seed: Other seeds answer otherwise.
        gates_passed: Whether its one recorded gate passed, so that it can be promoted.
        spread: Factor on the head's weights, so that scores differ visibly between texts.
        task: What it answers.
        takes_pairs: Whether its golden requests are pairs.
        thresholds: Of a multi-label model.
        encoder: Writes the encoder; default: ``make_encoder``.
    """
    import torch

    from encoder.classifier import SequenceClassifier, Text
    from encoder.loading import load_tokenizer, new_classifier
    from foundation.bundle import PROBLEM_TYPES, Gate

    (encoder or make_encoder)(folder, seed=seed)
    model = new_classifier(str(folder), labels, seed=seed, dropout=0.0)
    model.config.problem_type = PROBLEM_TYPES[task]
    head = [part for part in model.modules() if isinstance(part, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.weight.mul_(spread)
    model.save_pretrained(folder)
    classifier = SequenceClassifier(model, load_tokenizer(str(folder)), max_length=64)
    texts: list[Text] = ["this is a good product", "this is a bad product"]
    if takes_pairs:
        texts = [("this is a good product", "is it good?"), ("this is a bad product", "the best movie")]
    return seal(
        folder,
        task=task,
        max_length=64,
        run_id=f"test-{seed}",
        data_fingerprint="0" * 64,
        labels=tuple(labels),
        takes_pairs=takes_pairs,
        thresholds=thresholds,
        golden=classifier.golden(texts),
        gates=(Gate(metric="accuracy", wanted=0.5, found=0.9 if gates_passed else 0.1, passed=gates_passed),),
    )


def make_roberta_encoder(folder: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0, positions: int = 64) -> Path:
    """Write an untrained RoBERTa encoder with its byte-level tokenizer (trained on ``WORDS``); returns ``folder``."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([_TEXT] * 2, vocab_size=400, special_tokens=specials, show_progress=False)
    trained.save_model(str(folder))
    tokenizer = RobertaTokenizerFast(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=positions)
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=hidden * 2,
        max_position_embeddings=positions + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def make_distilbert(folder: Path, *, seed: int = 0) -> Path:
    """Write an untrained DistilBERT encoder with the tokenizer of ``make_encoder``; returns ``folder``."""
    from transformers import DistilBertConfig, DistilBertModel

    size = write_tokenizer(folder)
    config = DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64)
    return _save(DistilBertModel, config, folder, seed)


def make_modernbert(folder: Path, *, seed: int = 0) -> Path:
    """Write an untrained ModernBERT encoder with a window shorter than most rows; returns ``folder``."""
    from transformers import ModernBertConfig, ModernBertModel

    size = write_tokenizer(folder)
    config = ModernBertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        local_attention=8,  # shorter than the rows, so that the sliding window matters
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    )
    return _save(ModernBertModel, config, folder, seed)


def _save(kind: Any, config: Any, folder: Path, seed: int) -> Path:
    import torch

    config.initializer_range = 0.3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind(config).save_pretrained(folder)
    return folder


FAMILIES: dict[str, Callable[..., Path]] = {
    "bert": make_encoder,
    "roberta": make_roberta_encoder,
    "distilbert": make_distilbert,
    "modernbert": make_modernbert,
}


def write_reviews(file: Path, rows: int = 80, *, seed: int = 0) -> Path:
    """Write a labelled CSV that a tiny model can learn: a good or a bad word among neutral ones; returns ``file``."""
    from random import Random

    random = Random(seed)
    words = {"positive": ("good", "great", "love", "best"), "negative": ("bad", "awful", "hate", "worst")}
    lines = []
    for row in range(rows):
        label = "positive" if row % 2 else "negative"
        text = random.choices(("this", "movie", "plot", "the", "of", "music", "end"), k=random.randint(2, 12))
        text.insert(random.randrange(len(text)), random.choice(words[label]))
        lines.append(f"{' '.join(text)} {row},{label}")
    file.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return file


def make_packed(
    folder: Path,
    encoder: Path,
    *,
    rows: int = 80,
    sequence_length: int = 48,
    length_buckets: Sequence[int] = (),
    reviews: Path | None = None,
) -> Path:
    """Build packed rows, of unequal lengths, with an encoder's tokenizer and without Ray; returns ``folder``. ``reviews`` is a labelled CSV
    to build from instead of so many generated ``rows``."""
    from corpus.build import apply
    from corpus.config import DataConfig
    from corpus.planning import plan
    from corpus.stages import map_here

    folder.parent.mkdir(parents=True, exist_ok=True)
    tree = {
        "sources": {
            "reviews": {"path": str(reviews or write_reviews(folder.parent / f"{folder.name}.csv", rows)), "label_column": "label"}
        },
        "tokenizer": str(encoder),
        "out": str(folder),
        "sequence_length": sequence_length,
        "length_buckets": length_buckets,
    }
    config = DataConfig.model_validate(tree)
    apply(plan(config, Path(config.tokenizer)), map_here)
    return folder
