"""The peer of ``pretrain_throughput``: transformers' Trainer with ``DataCollatorForLanguageModeling``, as run_mlm.py has it.

Runs in the peer's environment; imports nothing of ours. Rows come tokenised, from a file with ``ids``, ``offsets`` and ``special``.
Requests: ``steps``, ``save``.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, TrainingArguments

from benchmarks.programs.trainer_turns import ARGUMENTS, CountingTrainer, Rows, Turns, train
from benchmarks.programs.turns import conversation


def to_longest(collator: DataCollatorForLanguageModeling, length: int, features: list[dict[str, Any]]) -> Any:
    """run_mlm's ``--pad_to_max_length``: every row as long as the longest may be."""
    first = features[0]
    missing = length - len(first["input_ids"])
    padded = dict(first)
    padded["attention_mask"] = [1] * len(first["input_ids"]) + [0] * missing
    padded["input_ids"] = first["input_ids"] + [collator.tokenizer.pad_token_id] * missing
    padded["special_tokens_mask"] = first["special_tokens_mask"] + [1] * missing
    return collator([padded, *({**feature, "attention_mask": [1] * len(feature["input_ids"])} for feature in features[1:])])


def main(spec: dict[str, Any]) -> None:
    """Train as far as is asked for."""
    requests, answer = conversation()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(spec["threads"])
    with np.load(spec["rows"]) as rows:
        data = Rows(rows["ids"], rows["offsets"], rows["special"])
    tokenizer = AutoTokenizer.from_pretrained(spec["tokenizer"])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec["hidden"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        intermediate_size=4 * spec["hidden"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(spec["seed"])
    model = BertForMaskedLM(config)
    collator: Any = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=spec["mask_share"])
    if spec["padding"] == "max_length":
        collator = partial(to_longest, collator, spec["length"])
    arguments = TrainingArguments(
        output_dir=str(Path(spec["rows"]).parent / "trainer"),
        per_device_train_batch_size=spec["batch_rows"],
        max_steps=spec["max_steps"],
        learning_rate=spec["learning_rate"],
        lr_scheduler_type=spec["decay"],
        warmup_steps=spec["warmup_steps"],
        dataloader_num_workers=spec["workers"],
        torch_compile=spec["compile"],
        seed=spec["seed"],
        **ARGUMENTS,
    )

    def save(folder: str) -> dict[str, str]:
        model.save_pretrained(folder)
        return {"folder": folder}

    turns = Turns(requests, answer, {"save": save})
    train(CountingTrainer(model=model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[turns]), turns)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
