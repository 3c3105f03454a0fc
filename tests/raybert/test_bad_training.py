"""Recipes of training whose parts do not belong together: one message, exit code 2, nothing written, started or held."""

from __future__ import annotations

import pytest

from tests.support.bad_input import Refusals

pytestmark = pytest.mark.slow  # a process for every case

FINETUNE = ("finetune", "encoder=tiny", "max_length=64")
TUNE = ("tune", "recipe.encoder=tiny", "recipe.max_length=64", "space={schedule.peak_lr: {kind: log_uniform, low: 1.0e-5, high: 1.0e-3}}")
PRETRAIN = ("pretrain", "encoder=tiny")
GOOD = "data.train=good.csv"
NEW = "new_model={layers: 1, hidden: 32}"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["metric=pearson"], ["metric: found pearson, but labels of kind single have macro_f1, accuracy, validation_loss"]),
        (["class_weights={neutral: 2}"], ["class_weights: found 'neutral', which is none of the classes: negative, positive"]),
        (["class_weights={negative: 0}"], ["the weight of 'negative' is 0.0; weights are above 0"]),
    ],
)
def test_what_these_labels_do_not_have_is_refused_by_every_verb_that_trains(
    assert_refused: Refusals, keys: list[str], says: list[str]
) -> None:
    assert_refused(*FINETUNE, GOOD, *keys, "--json", says=says)
    assert_refused(*TUNE, f"recipe.{GOOD}", *(f"recipe.{key}" for key in keys), says=says)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["label_smoothing=0.1"], ["stars.csv: labels are numbers, which have neither class_weights nor label_smoothing"]),
        (["metric=accuracy"], ["metric: found accuracy, but labels of kind number have pearson, mae, rmse, r2"]),
    ],
)
def test_what_numbers_do_not_have_is_refused(assert_refused: Refusals, keys: list[str], says: list[str]) -> None:
    assert_refused(*FINETUNE, "data.train=stars.csv", "data.label_kind=number", *keys, says=says)


def test_a_class_number_beyond_the_classes_of_a_build_is_refused(assert_refused: Refusals) -> None:
    says = ["one-class/labelled: a row has class number 1, but manifest.json names 1 classes, from 0 on: negative"]
    assert_refused(*FINETUNE, "data.train=one-class", says=says)
    assert_refused("evaluate", "--model", "bundle", "--data", "one-class", says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["pretrain", "data=packed", "encoder=few-positions"],
            ["sequence_length of ", "packed is 48 tokens, the model has positions for 32"],
        ),
        (
            ["pretrain", "data=packed", "new_model={layers: 1, hidden: 32, positions: 40}"],
            ["new_model.positions: found 40", "up to 48 tokens"],
        ),
        (["pretrain", "data=packed", "encoder=roberta"], ["packed: was tokenised with another vocabulary than the encoder's"]),
        (["pretrain", "data=packed", "encoder=few-embeddings"], ["few-embeddings: the tokenizer makes ", "the model has 60 embeddings"]),
        (["finetune", GOOD, "encoder=few-embeddings", "max_length=64"], ["the tokenizer makes ", "the model has 60 embeddings"]),
        ([*PRETRAIN, "data=packed", NEW], ["encoder and new_model are both given"]),
        ([*PRETRAIN, "data=packed", "tokens_per_microbatch=32"], ["tokens_per_microbatch: found 32, but a row may have 48 tokens"]),
        ([*FINETUNE, GOOD, "tokens_per_microbatch=63"], ["tokens_per_microbatch: found 63, but a row may have 64 tokens"]),
        (
            [*FINETUNE, GOOD, "start_from=of-wider"],
            ["start_from: ", "another model's checkpoint: bert.", "is (48,) in it and (32,) in the model"],
        ),
        ([*PRETRAIN, "data=packed", "start_from=of-wider"], ["start_from: ", "another model's checkpoint: "]),
        (
            ["pretrain", "data=packed", "next_sentence=true", "new_model={layers: 1, hidden: 32, family: roberta}"],
            ["next_sentence is for BERT, but new_model.family is roberta"],
        ),
    ],
)
def test_what_does_not_belong_together_is_refused_before_anything_starts(
    assert_refused: Refusals, arguments: list[str], says: list[str]
) -> None:
    assert_refused(*arguments, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            [*FINETUNE, GOOD, "optimiser.kind=muon", "workers.count=2"],
            ["optimiser.kind is muon", "zero_stage 2", "use sharding.zero_stage=0"],
        ),
        ([*PRETRAIN, "data=built", "optimiser.kind=lion"], ["optimiser.kind: found 'lion'", "'adamw', 'lamb', 'stable_adamw' or 'muon'"]),
        ([*FINETUNE, GOOD, "freeze=3"], ["freeze: 3, but the encoder has 2 layers; give at most 2"]),
        ([*PRETRAIN, "data=built", "schedule.decay=wsd", "schedule.warmup_share=0.95"], ["warmup_share is 0.95 and decay_share 0.1"]),
    ],
)
def test_an_optimiser_that_the_engine_cannot_carry_and_layers_that_are_not_there_are_refused(
    assert_refused: Refusals, arguments: list[str], says: list[str]
) -> None:
    assert_refused(*arguments, says=says)
