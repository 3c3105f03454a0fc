"""The peer of ``finetune_throughput``: transformers' Trainer with padding to the longest of a batch, rows at random or grouped by length.

Runs in the peer's environment; imports nothing of ours. Rows come tokenised: files with ``ids``, ``offsets`` and ``labels``.
Requests: ``steps``, ``test``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainingArguments

from benchmarks.programs.trainer_turns import ARGUMENTS, CountingTrainer, Rows, Turns, train
from benchmarks.programs.turns import conversation


def main(spec: dict[str, Any]) -> None:
    """Train as far as is asked for."""
    requests, answer = conversation()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(spec["threads"])
    data = {}
    for name in ("train", "test"):
        with np.load(spec[name]) as rows:
            data[name] = Rows(rows["ids"], rows["offsets"], labels=rows["labels"])
    labels = np.asarray(data["test"].labels)
    tokenizer = AutoTokenizer.from_pretrained(spec["encoder"])
    config = AutoConfig.from_pretrained(spec["encoder"], num_labels=spec["classes"])
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = spec["dropout"]
    config.problem_type = "single_label_classification"
    torch.manual_seed(spec["seed"])
    model = AutoModelForSequenceClassification.from_pretrained(spec["encoder"], config=config, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(Path(spec["train"]).parent / "trainer"),
        per_device_train_batch_size=spec["batch_rows"],
        per_device_eval_batch_size=spec["batch_rows"],
        num_train_epochs=spec["epochs"],
        learning_rate=spec["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=spec["warmup_share"],  # below 1 it is a share of all steps
        train_sampling_strategy=spec["sampling"],
        dataloader_num_workers=spec["workers"],
        seed=spec["seed"],
        **ARGUMENTS,
    )

    def test() -> dict[str, float]:
        by_length = sorted(range(len(data["test"])), key=lambda row: len(data["test"][row]["input_ids"]))
        right = 0
        model.eval()
        with torch.no_grad():
            for start in range(0, len(by_length), spec["batch_rows"]):
                rows = by_length[start : start + spec["batch_rows"]]
                batch = collator([data["test"][row] for row in rows])
                right += int((model(**batch).logits.argmax(dim=1).numpy() == labels[rows]).sum())
        model.train()
        return {"accuracy": right / len(labels)}

    collator = DataCollatorWithPadding(tokenizer)
    turns = Turns(requests, answer, {"test": test})
    trainer = CountingTrainer(model=model, args=arguments, train_dataset=data["train"], data_collator=collator, callbacks=[turns])
    train(trainer, turns)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
