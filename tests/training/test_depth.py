"""Where in an encoder a parameter lies is told from its name, for each family that is trained here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    RobertaConfig,
)

from foundation.errors import ConfigError
from training.depth import count_layers, depth_of, frozen_depths, multiplier, shares_by_depth

LAYERS = 3
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 16}
FAMILIES: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**SIZES),
    "roberta": lambda: RobertaConfig(**SIZES),
    "distilbert": lambda: DistilBertConfig(vocab_size=40, dim=16, n_layers=LAYERS, n_heads=2, hidden_dim=16),
    "modernbert": lambda: ModernBertConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The encoder's layers, found by structure and not by name."""
    (found,) = [module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == LAYERS]
    return list(found)


@pytest.mark.parametrize("task", [AutoModelForSequenceClassification, AutoModelForMaskedLM])
def test_every_parameter_has_the_depth_of_the_module_that_holds_it(family: str, task: Any) -> None:
    model = task.from_config(FAMILIES[family]())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert count_layers(names.values()) == LAYERS
    expected = dict.fromkeys(names, LAYERS + 1)
    expected |= {id(parameter): 0 for parameter in model.base_model.embeddings.parameters()}
    for depth, layer in enumerate(layers_of(model), 1):
        expected |= {id(parameter): depth for parameter in layer.parameters()}
    if family == "modernbert":
        expected |= {id(parameter): LAYERS for parameter in model.base_model.final_norm.parameters()}
    assert {name: depth_of(name, LAYERS) for name in names.values()} == {names[key]: depth for key, depth in expected.items()}


def test_a_pooler_belongs_to_the_head_and_an_unprefixed_encoder_is_read_alike() -> None:
    assert depth_of("bert.pooler.dense.weight", 12) == 13
    assert depth_of("encoder.layer.11.output.dense.bias", 12) == 12
    assert depth_of("embeddings.LayerNorm.weight", 12) == 0
    assert depth_of("electra.embeddings_project.weight", 12) == 0
    assert count_layers(["albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"]) == 0


def test_rates_fall_by_one_factor_a_layer_from_the_head_down() -> None:
    assert [multiplier(depth, 2, 0.5) for depth in range(4)] == [0.125, 0.25, 0.5, 1.0]
    assert {multiplier(depth, 2, 1.0) for depth in range(4)} == {1.0}


def test_shares_are_told_from_the_embeddings_up_with_0_for_what_is_frozen() -> None:
    assert shares_by_depth(2, 0.5, "embeddings") == {"embeddings": 0.0, "layer 1": 0.25, "layer 2": 0.5, "head": 1.0}
    with pytest.raises(ConfigError, match=r"optimiser\.layer_decay is 0\.5, but no layers are recognised"):
        shares_by_depth(0, 0.5, "none")


def test_freezing_counts_from_the_embeddings_up() -> None:
    assert list(frozen_depths("none", 3)) == []
    assert list(frozen_depths("embeddings", 3)) == [0]
    assert list(frozen_depths(2, 3)) == [0, 1, 2]
    assert list(frozen_depths("encoder", 3)) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="freeze: 4, but the encoder has 3 layers"):
        frozen_depths(4, 3)
    with pytest.raises(ConfigError, match="freeze: encoder, but no layers are recognised"):
        frozen_depths("encoder", 0)
