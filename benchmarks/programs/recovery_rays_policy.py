"""``raybert`` with Ray Train's own elastic policy in the place of ours, for what ``recovery`` compares."""

from __future__ import annotations

import sys
from typing import Any

from ray.train.torch import TorchTrainer

import training.elastic
from raybert.main import main


class PlainTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray's, which takes what ours does."""

    def __init__(self, *given: Any, record: Any, **named: Any) -> None:
        super().__init__(*given, **named)


if __name__ == "__main__":
    training.elastic.ElasticTrainer = PlainTrainer  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
