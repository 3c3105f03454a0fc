"""What only Tune sees of a trial's end comes into the record once, and not too early."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from foundation.records import read_rows
from tuning.record import Record, Story
from tuning.watching import Watch


def test_a_trial_that_tune_gives_up_has_failed_only_when_it_may_lose_no_more_workers(tmp_path: Path) -> None:
    record = Record(tmp_path / "study.jsonl")
    story = Story(record.path, "max")
    record.begun(0, {})
    lost = SimpleNamespace(config={"number": 0, "seed": None}, error_file=None, last_result={})
    watch = Watch(record, lambda: story.trials().values(), count=1, max_failures=2, metric="accuracy", mode="max")
    for failed in (0, 1):
        watch.on_trial_recover(0, [], lost)
        watch.on_trial_error(0, [], lost)
        events = [row["event"] for row in read_rows(record.path)]
        assert events.count("failed") == failed
    assert (story.trials()[0].state, story.trials()[0].restarts) == ("failed", 2)
