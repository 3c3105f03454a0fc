from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

from encoder.attention import ATTENTION
from encoder.padding_free import documents, masked_logits, prepare
from training.flops import Dimensions, attended_length, dimensions, flops_per_token, share_of_peak

H, LAYERS, V, T = 64, 3, 512, 32


def bert() -> Any:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=V,
            hidden_size=H,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=4 * H,
            attn_implementation="eager",
        )
    )


def distilbert() -> Any:
    return DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=V, dim=H, n_layers=LAYERS, n_heads=2, hidden_dim=4 * H, attn_implementation="eager")
    )


def modernbert() -> Any:
    return ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=V,
            hidden_size=H,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=96,
            attn_implementation="eager",
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        )
    )


@pytest.mark.parametrize("make", [bert, distilbert, modernbert])
def test_the_formula_counts_what_torch_counts(make: Any) -> None:
    model = make()
    ids = torch.randint(3, V, (2, T))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    found = counter.get_total_flops() / ids.numel()
    # The first layer's input needs no gradient in the embedding's place, small in any model: within two per cent.
    assert flops_per_token(dimensions(model.config), attended=T, mask_share=1.0) == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize("make", [bert, distilbert])
def test_it_counts_what_is_computed_for_the_tokens_that_are_asked_for(make: Any) -> None:
    model = prepare(make())
    model.set_attn_implementation(ATTENTION)
    odd_K = np.arange(1, 2 * T, 2)
    found, _ = documents(np.random.default_rng(0).integers(3, V, 2 * T), np.array([T, T]), "runs")
    with FlopCounterMode(display=False) as counter:
        masked_logits(model, found.asking(odd_K)).sum().backward()
    counted = flops_per_token(dimensions(model.config), attended=T, mask_share=0.5, asked_share=0.5)
    assert counted == pytest.approx(counter.get_total_flops() / (2 * T), rel=0.02)


def test_for_berts_shape_it_is_the_published_formula() -> None:
    size = Dimensions(hidden=512, intermediate=2048, layers=4, vocabulary=30_522)
    expected = 6 * 12 * 4 * 512**2 + 0.15 * 6 * (512**2 + 512 * 30_522) + 12 * 4 * 512 * 90
    assert flops_per_token(size, attended=90, mask_share=0.15) == pytest.approx(expected)
    assert flops_per_token(size, attended=90) < expected


def test_local_attention_reaches_no_further_than_its_window() -> None:
    whole = Dimensions(hidden=64, intermediate=96, layers=3, vocabulary=100, is_gated=True)
    local = Dimensions(hidden=64, intermediate=96, layers=3, vocabulary=100, is_gated=True, window=16, local_layers=2)
    assert flops_per_token(whole, attended=100) - flops_per_token(local, attended=100) == 12 * 64 * 2 * (100 - 16)
    assert flops_per_token(whole, attended=10) == flops_per_token(local, attended=10)


def test_what_a_token_attends_to_is_weighted_by_tokens() -> None:
    assert attended_length([10, 10]) == 10
    assert attended_length([1, 99]) == pytest.approx((1 + 99 * 99) / 100)
    assert attended_length([]) == 0.0


def test_the_share_of_peak_is_work_over_what_could_have_been_done() -> None:
    assert share_of_peak(3e9, 2.0, 1e10) == pytest.approx(0.15)
    assert share_of_peak(3e9, 0.0, 1e10) == 0.0
