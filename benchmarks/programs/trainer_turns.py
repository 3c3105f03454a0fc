"""What both of transformers' sides share: a Trainer that stops after some steps until it is asked for more. Imports nothing of ours."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

ARGUMENTS: dict[str, Any] = {
    # Everything that costs time and is not training, off; the rest as the Trainer has it.
    "use_cpu": True,
    "report_to": "none",
    "logging_strategy": "no",
    "save_strategy": "no",
    "eval_strategy": "no",
    "disable_tqdm": True,
    "logging_nan_inf_filter": False,
    "dataloader_pin_memory": False,
    "remove_unused_columns": False,
    "max_grad_norm": 1.0,
    "weight_decay": 0.01,
    "optim": "adamw_torch_fused",
}


class Rows(Dataset[dict[str, Any]]):
    """Token ids of ragged rows, kept as two arrays, and further columns."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, special: np.ndarray | None = None, labels: np.ndarray | None = None) -> None:
        self.ids, self.offsets, self.special, self.labels = ids, offsets, special, labels

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        part = slice(self.offsets[row], self.offsets[row + 1])
        found: dict[str, Any] = {"input_ids": self.ids[part].tolist()}
        if self.special is not None:
            found["special_tokens_mask"] = self.special[part].tolist()
        if self.labels is not None:
            found["labels"] = self.labels[row]
        return found


class CountingTrainer(Trainer):  # type: ignore[misc]
    """Counts real tokens, which costs nothing worth naming."""

    real_tokens = 0

    def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        """As the Trainer's."""
        mask = inputs.get("attention_mask")
        self.real_tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
        return super().training_step(model, inputs, *more, **named)


class Turns(TrainerCallback):  # type: ignore[misc]
    """Waits for a request before the first step and after the steps that one asked for."""

    def __init__(self, requests: Iterator[dict[str, Any]], answer: Callable[[dict[str, Any]], None], others: dict[str, Any]) -> None:
        """``others``: what answers requests that are not ``steps``."""
        self.requests, self.answer, self.others = requests, answer, others
        self.trainer: Any = None
        self.count, self.done, self.began, self.limit, self.tokens = 0, 0, 0.0, 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the first request."""
        self._wait(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count; answer when that was the last step asked for, and wait."""
        self.done += 1
        seconds = time.perf_counter() - self.began
        if self.done < self.count and seconds < self.limit and state.global_step < state.max_steps:
            return
        tokens = self.trainer.real_tokens - self.tokens
        self.answer({"steps": self.done, "tokens": tokens, "seconds": seconds, "is_last": state.global_step >= state.max_steps})
        self._wait(state, control)

    def _wait(self, state: Any, control: Any) -> None:
        for request in self.requests:
            do = request.pop("do")
            if do == "steps" and state.global_step >= state.max_steps:
                self.answer({"steps": 0, "tokens": 0, "seconds": 0.0, "is_last": True})
            elif do == "steps":
                self.count, self.limit = request["count"], request.get("seconds", float("inf"))
                self.done, self.tokens, self.began = 0, self.trainer.real_tokens, time.perf_counter()
                return
            else:
                self.answer(self.others[do](**request))
        control.should_training_stop = True


def train(trainer: Any, turns: Turns) -> None:
    """Train as far as is asked for."""
    turns.trainer = trainer
    trainer.train()
