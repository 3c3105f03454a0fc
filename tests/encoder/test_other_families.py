"""Families that the code does not name: each is found out at the start of a run, computed without padding where it can be, else in padded
rows. Their weights are untrained, with which attention to other documents shows least."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from encoder.loading import new_classifier, new_masked_lm
from encoder.padding_free import check_same
from foundation.errors import EncoderError
from tests.support.tiny import write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # of an untrained MobileBERT
VOCABULARY = 128
"""Of ``write_tokenizer``."""
SMALL = {
    **{"pad_token_id": 0, "max_position_embeddings": 80, "type_vocab_size": 2},
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 32},
    **{"num_key_value_heads": 2, "head_dim": 16, "attention_window": [16, 16]},
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "emb_dim": 32, "n_layers": 2, "n_heads": 2},
}
WITHOUT_PADDING = ("albert", "electra", "ernie", "gte", "nomic_bert", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
"""Two of them normalise before the attention, so that a last layer in BERT's form would be wrong; ALBERT pools in a form of its own."""
PADDED = (
    *("bart", "big_bird", "convbert", "deberta-v2", "flaubert", "fnet", "longformer", "megatron-bert", "mobilebert", "mpnet"),
    *("roformer", "squeezebert"),
)


def untrained(family: str, folder: Path) -> tuple[Any, Any]:
    """A masked-language model and a classifier."""
    from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

    kind = CONFIG_MAPPING[family]
    known = kind().to_dict().keys() | kind.attribute_map.keys()
    given = {name: value for name, value in SMALL.items() if name in known} | {"vocab_size": VOCABULARY}
    assert write_tokenizer(folder) == VOCABULARY
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_config(kind(**given)).save_pretrained(folder)
    return new_masked_lm(str(folder), seed=1), new_classifier(str(folder), ["a", "b", "c"], seed=1)


@pytest.mark.parametrize("family", WITHOUT_PADDING)
def test_a_family_of_berts_kin_is_computed_without_padding(family: str, tmp_path: Path) -> None:
    masked_lm, classifier = untrained(family, tmp_path)
    for kind in ("runs", "block", "padded"):
        check_same(masked_lm, kind, vocabulary=VOCABULARY, is_classifier=False)
        check_same(classifier, kind, vocabulary=VOCABULARY, is_classifier=True)


@pytest.mark.parametrize("family", PADDED)
def test_a_family_with_attention_of_its_own_is_found_out_though_untrained_and_takes_padded_rows(family: str, tmp_path: Path) -> None:
    masked_lm, classifier = untrained(family, tmp_path)
    for model, is_classifier in ((masked_lm, False), (classifier, True)):
        with pytest.raises(EncoderError, match=rf"model_type {family}: (logits without padding differ by|cannot be computed without)"):
            check_same(model, "runs", vocabulary=VOCABULARY, is_classifier=is_classifier)
        check_same(model, "padded", vocabulary=VOCABULARY, is_classifier=is_classifier)


def test_what_is_no_encoder_of_texts_is_refused_with_the_reason(tmp_path: Path) -> None:
    masked_lm, _ = untrained("xmod", tmp_path)
    with pytest.raises(EncoderError, match=r"model_type xmod: transformers cannot compute it from token ids alone: Input language unknown"):
        check_same(masked_lm, "padded", vocabulary=VOCABULARY, is_classifier=False)


def test_the_trial_leaves_weights_and_buffers_as_they_were(tmp_path: Path) -> None:
    masked_lm, classifier = untrained("albert", tmp_path)
    for model, is_classifier in ((masked_lm, False), (classifier, True)):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        check_same(model, "runs", vocabulary=VOCABULARY, is_classifier=is_classifier)
        after = model.state_dict()
        assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())
        assert not model.training


def test_embeddings_that_a_family_cannot_be_given_are_refused(tmp_path: Path) -> None:
    untrained("ibert", tmp_path)
    with pytest.raises(EncoderError, match=r"the data's tokenizer makes 135 ids, the model has 128 embeddings.*model_type ibert"):
        new_masked_lm(str(tmp_path), seed=0, vocabulary=VOCABULARY + 7)


def test_a_family_whose_own_version_takes_a_number_only_is_given_embeddings(tmp_path: Path) -> None:
    untrained("mobilebert", tmp_path)
    assert new_masked_lm(str(tmp_path), seed=0, vocabulary=VOCABULARY + 7).config.vocab_size == 192
