"""Length buckets: short documents in short rows; every row once an epoch, short ones first, for any world size and after any restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from corpus import report, windows
from corpus.build import apply
from corpus.config import DataConfig
from corpus.manifest import BuildManifest, PackedRecord, read_manifest
from corpus.mixture import CurriculumOrder
from corpus.order import UniformOrder
from corpus.packing import FRAME
from corpus.planning import _deciding as deciding
from corpus.planning import plan
from corpus.positions import constant, step_rows
from corpus.shards import PackedRows
from corpus.stages import map_here
from corpus.tokenizer import open_tokenizer
from corpus.windows import PackedWriter
from foundation.errors import DataError
from tests.corpus.test_windows import read_back

Recipe = Callable[..., DataConfig]


def build(config: DataConfig) -> BuildManifest:
    return apply(plan(config, Path(config.tokenizer)), map_here)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Six hundred texts of 1 to 100 words of one letter, so that words are tokens; no two alike."""
    random = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    sizes = np.concatenate([random.integers(1, 16, 400), random.integers(1, 100, 200)])
    file = tmp_path / "texts.txt"
    file.write_text("".join(" ".join(random.choice(letters, size)) + "\n" for size in sizes))
    return file


@pytest.fixture
def bucketed(recipe_for: Recipe, texts: Path) -> DataConfig:
    return recipe_for(sources={"texts": {"path": str(texts)}}, length_buckets=[16, 32], rows_per_shard=50)


def test_rows_of_a_bucket_lie_together_and_are_no_longer_than_it_says(bucketed: DataConfig) -> None:
    record = build(bucketed).packed["train"]
    rows = PackedRows.open(Path(bucketed.out))
    lengths = rows.lengths(np.arange(len(rows)))
    assert [bucket.longest for bucket in record.buckets] == [16, 32, 64]
    assert sum(bucket.rows for bucket in record.buckets) == record.rows == len(rows)
    assert min(bucket.rows for bucket in record.buckets) > 20
    begin, places = 0, 0
    for bucket in record.buckets:
        inside = lengths[begin : begin + bucket.rows]
        assert inside.max() <= bucket.longest
        if bucket.longest < 64:
            assert inside.min() >= 0.95 * bucket.longest
        begin, places = begin + bucket.rows, places + bucket.rows * bucket.longest
    assert record.fill == pytest.approx(lengths.sum() / places, abs=1e-6)
    assert record.fill > 0.96
    assert "up to 16 tokens: " in report.text(read_manifest(Path(bucketed.out)))


def test_buckets_hold_the_documents_that_a_build_without_them_holds(bucketed: DataConfig, tmp_path: Path) -> None:
    plain = bucketed.model_copy(update={"length_buckets": (), "out": str(tmp_path / "plain")})
    manifests = {config.out: build(config) for config in (bucketed, plain)}
    found = [read_back(Path(out), manifest.packed["train"].shards) for out, manifest in manifests.items()]
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(ids, found[1][number]) for number, ids in found[0].items())
    records = [manifest.packed for manifest in manifests.values()]
    assert records[0]["train"].documents == records[1]["train"].documents
    assert records[0]["validation"].model_dump() == records[1]["validation"].model_dump()  # measured alike


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=60),
    buckets=st.sets(st.integers(8, 39), max_size=3).map(sorted),
    window_rows=st.sampled_from([3, 1_000]),
    rows_per_shard=st.sampled_from([2, 1_000]),
)
def test_every_document_is_in_one_bucket_whatever_the_lengths(
    recipe_for: Recipe,
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    buckets: list[int],
    window_rows: int,
    rows_per_shard: int,
) -> None:
    config = recipe_for(sequence_length=40, length_buckets=buckets, rows_per_shard=rows_per_shard)
    tokenizer = open_tokenizer(Path(config.tokenizer))
    random = np.random.default_rng(len(lengths))
    documents = {number: random.integers(5, tokenizer.record.vocabulary, size).astype(np.int32) for number, size in enumerate(lengths)}
    folder = tmp_path_factory.mktemp("packed")
    (folder / "packed").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_WINDOW_ROWS", window_rows)
        writer = PackedWriter(folder, "shard", config, tokenizer, buckets=config.length_buckets)
        waiting = set(documents)
        for longest in (*buckets, 10**6):
            for number in sorted(waiting):
                if len(documents[number]) + FRAME <= longest:
                    waiting.remove(number)
                    writer.add(number, documents[number])
            if longest < 40:
                waiting.update(writer.next_bucket())
        record = writer.close(len(documents))
    assert not waiting
    found = read_back(folder, record.shards)
    assert found.keys() == documents.keys()
    assert all(np.array_equal(ids, documents[number]) for number, ids in found.items())
    assert sum(bucket.rows for bucket in record.buckets) == (record.rows if buckets else 0)


@pytest.fixture
def rows(bucketed: DataConfig) -> PackedRows:
    build(bucketed)
    return PackedRows.open(Path(bucketed.out))


def test_a_curriculum_visits_every_row_once_an_epoch_and_short_ones_first(rows: PackedRows) -> None:
    order = rows.order(3, short_first=True)
    assert isinstance(order, CurriculumOrder)
    longest = np.repeat([16, 32, 64], order.buckets)
    for epoch in range(2):
        visited = order.rows_at(epoch * len(rows) + np.arange(len(rows))).rows
        assert sorted(visited.tolist()) == list(range(len(rows)))
        assert (np.diff(longest[visited]) >= 0).all()
        assert not np.array_equal(visited, np.sort(visited))
    first = step_rows(0, order, constant(8))
    assert rows.lengths(first.rows).max() <= 16
    assert isinstance(rows.order(3), UniformOrder)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(0, 400), per_step=st.integers(1, 90), world_size=st.integers(1, 64))
def test_a_curriculums_step_is_the_same_for_any_world_size_and_after_any_restart(
    rows: PackedRows, step: int, per_step: int, world_size: int
) -> None:
    order = rows.order(7, short_first=True)
    whole = step_rows(step, order, constant(per_step)).rows
    parts = [order.rows_at(step * per_step + np.arange(per_step)[rank::world_size]).rows for rank in range(world_size)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(whole.tolist())
    undisturbed = order.rows_at(np.arange((step + 1) * per_step)).rows
    assert np.array_equal(undisturbed[step * per_step :], whole)


def test_a_curriculum_over_rows_without_buckets_is_refused_with_what_to_do(recipe_for: Recipe) -> None:
    config = recipe_for()
    build(config)
    with pytest.raises(DataError, match=r"no length buckets.*length_buckets=\[32,64\]"):
        PackedRows.open(Path(config.out)).order(0, short_first=True)


@pytest.mark.parametrize("buckets", [[32, 32], [32, 16], [64], [16, 100], [4]])
def test_buckets_that_do_not_ascend_to_the_sequence_length_are_refused(recipe_for: Recipe, buckets: list[int]) -> None:
    with pytest.raises(ValidationError, match="length_buckets"):
        recipe_for(length_buckets=buckets)


def test_buckets_and_weights_together_are_refused(recipe_for: Recipe, texts: Path) -> None:
    with pytest.raises(ValidationError, match=r"length_buckets are set and sources\.texts has a weight.*remove one"):
        recipe_for(sources={"texts": {"path": str(texts), "weight": 1.0}}, length_buckets=[16])


def test_a_manifest_from_before_there_were_buckets_is_read_and_its_recipe_is_the_same(recipe_for: Recipe) -> None:
    config = recipe_for()
    build(config)
    file = Path(config.out) / "manifest.json"
    tree = json.loads(file.read_text())
    for record in tree["packed"].values():
        del record["buckets"]
    del tree["recipe"]["length_buckets"]
    file.write_text(json.dumps(tree))
    assert read_manifest(Path(config.out)).packed["train"].buckets == PackedRecord.model_fields["buckets"].default == ()
    assert len(PackedRows.open(Path(config.out)).order(0).rows_at([0]).rows) == 1
    assert "length_buckets" not in deciding(config)  # so its build is up to date
    assert deciding(recipe_for(length_buckets=[16]))["length_buckets"] == [16]
