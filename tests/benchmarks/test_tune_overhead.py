"""The peers of ``tune_overhead`` train what a study's trials train."""

from __future__ import annotations

from pathlib import Path

from benchmarks import tune_overhead
from benchmarks.harness import call
from tests.support.tiny import make_encoder, write_reviews


def test_a_plain_process_trains_its_trials_and_tells_when_each_began(tmp_path: Path) -> None:
    encoder = str(make_encoder(tmp_path / "encoder", layers=1))
    recipe = {"data": {"train": str(write_reviews(tmp_path / "r.csv", 60))}, "encoder": encoder, "rows_per_step": 8, "max_length": 32}
    spec = {"mode": "plain", "recipe": recipe, "encoder": encoder, "rates": [1e-3, 1e-2], "steps": 4, "every": 2, "folder": str(tmp_path)}
    found = call(tune_overhead.program(spec), threads=1)
    assert len(found["starts"]) == 2
    assert min(found["starts"]) > 0
