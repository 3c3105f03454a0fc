"""Who goes on from whose checkpoint in a population, and what a model's way through it was."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.records import read_rows
from tuning.bandit import Bandit, place_of, value_at
from tuning.config import Space, StudyConfig
from tuning.evolving import boundaries, first_members
from tuning.population import Exploit, Gain, Standing, Stretch, decide, explored, gains, lineage
from tuning.record import Record, Story, trials_of
from tuning.scheduler_config import PopulationConfig

CONFIG = PopulationConfig(kind="pbt", max_steps=100, exploit_every_steps=25)
TREE: dict[str, Any] = {
    "schedule.peak_lr": {"kind": "log_uniform", "low": 1e-5, "high": 1e-3},
    "dropout": {"kind": "uniform", "low": 0.0, "high": 0.3, "step": 0.1},
    "schedule.decay": {"kind": "choice", "values": ["linear", "cosine"]},
    "label_smoothing": {"kind": "uniform", "low": 0.0, "high": 0.2, "when": {"schedule.decay": ["cosine"]}},
    "tokens_per_microbatch": {"kind": "integer", "low": 512, "high": 4096, "step": 512},
}


def study(**more: Any) -> StudyConfig:
    scheduler = {"kind": "pbt", "max_steps": 100, "exploit_every_steps": 25}
    return StudyConfig.model_validate({"recipe": {"data": {"train": "x.csv"}}, "space": TREE, "trials": 6, "scheduler": scheduler} | more)


SPACE: Space = study().space
MEMBERS = first_members(study())


def decided(scores: dict[int, float | None], step: int = 25, *, mode: str = "max", seed: int = 0, **config: Any) -> dict[int, Exploit]:
    standings = [Standing(number, score, MEMBERS[number % len(MEMBERS)]) for number, score in scores.items()]
    explore = partial(explored, config=CONFIG.model_copy(update=config), space=SPACE, draw=first_value)
    return decide(standings, step, quantile=0.25, seed=seed, mode=mode, explore=explore)


def first_value(key: str, number: int) -> Any:
    points = SPACE[key].points
    return points[number % len(points)] if points else SPACE[key].samples[number % 2]


scores = st.dictionaries(st.integers(0, 50), st.one_of(st.none(), st.floats(0, 1)), min_size=2, max_size=20)


@given(scores, st.sampled_from([25, 50]), st.integers(0, 3), st.sampled_from(["max", "min"]))
def test_the_worst_go_on_from_the_best_and_nobody_else_changes(found: dict[int, float | None], step: int, seed: int, mode: str) -> None:
    exploits = decided(found, step, mode=mode, seed=seed)
    assert exploits == decided(dict(reversed(found.items())), step, mode=mode, seed=seed), "whoever reported first"
    donors = {exploit.donor for exploit in exploits.values()}
    assert not donors & exploits.keys()
    sign = 1 if mode == "max" else -1
    for number, exploit in exploits.items():
        donor, member = found[exploit.donor], found[number]
        assert donor is not None
        assert member is None or sign * donor >= sign * member
        assert all(SPACE[key].holds(value) for key, value in exploit.sampled.items()), exploit.sampled
    if all(score is not None for score in found.values()):
        assert len(exploits) == max(1, len(found) // 4)


def test_a_member_alone_goes_on_as_it_is_and_so_do_all_when_none_has_a_score() -> None:
    assert decided({3: 0.5}) == {}
    assert decided({1: None, 2: None}) == {}
    assert [*decided({1: None, 2: 0.1})] == [1]


@given(st.integers(0, 2**32), st.integers(0, 5))
def test_what_is_explored_lies_in_the_space_and_keeps_to_its_conditions(seed: int, number: int) -> None:
    changed = explored(MEMBERS[number], np.random.default_rng(seed), CONFIG, SPACE, first_value)
    assert ("label_smoothing" in changed) == (changed["schedule.decay"] == "cosine")
    assert all(SPACE[key].holds(value) for key, value in changed.items()), changed


def test_without_drawing_anew_a_number_moves_by_the_factor_and_a_value_in_a_row_to_its_neighbour() -> None:
    config = CONFIG.model_copy(update={"resample": 0.0})
    before = {"schedule.peak_lr": 1e-4, "dropout": 0.1, "schedule.decay": "linear", "tokens_per_microbatch": 1024}
    seen = [explored(before, np.random.default_rng(seed), config, SPACE, first_value) for seed in range(40)]
    assert {round(one["schedule.peak_lr"], 9) for one in seen} == {round(1e-4 * 1.2, 9), round(1e-4 / 1.2, 9)}
    assert {round(one["dropout"], 9) for one in seen} == {0.0, 0.2}
    assert {one["tokens_per_microbatch"] for one in seen} == {512, 1536}
    assert {one["schedule.decay"] for one in seen} == {"linear", "cosine"}


def test_stretches_end_where_members_are_compared_and_at_the_last_step() -> None:
    assert boundaries(CONFIG, 100) == [25, 50, 75, 100]
    assert boundaries(CONFIG, 60) == [25, 50, 60]
    assert boundaries(CONFIG, 20) == [20]


def test_first_members_follow_from_the_seed_and_begin_with_the_first_points() -> None:
    point = {"schedule.peak_lr": 1e-4, "dropout": 0.1}
    given_first = first_members(study(start_with=[point]))
    assert given_first[0] == point
    assert [given_first[number] for number in range(1, 6)] == [MEMBERS[number] for number in range(1, 6)]
    assert first_members(study(seed=1)) != MEMBERS


def test_a_models_way_leads_back_through_its_donors(tmp_path: Path) -> None:
    record = Record(tmp_path / "study.jsonl")
    for number in range(4):
        record.begun(number, {"dropout": number / 10}, is_member=True)
    story = Story(record.path, "max")
    for step in (25, 50, 75):
        for number in range(4):
            figures = {"step": step, "steps": 75, "trial_seconds": 1.0, "worker": "host:1"}
            record.reported(number, step / 100 + number / 1000, figures, goes_on=True)
        if step == 25:
            record.compared(25, {0: {"donor": 3, "sampled": {"dropout": 0.25}}})
        elif step == 50:
            record.compared(50, {1: {"donor": 0, "sampled": {"dropout": 0.22}}, 3: {"donor": 2, "sampled": {"dropout": 0.15}}})
    assert story.compared() == [25, 50]
    trials = trials_of(read_rows(record.path), "max")
    assert trials == story.trials()
    assert lineage(trials, 1) == (
        Stretch(3, 0, 25, {"dropout": 0.3}),
        Stretch(0, 25, 50, {"dropout": 0.25}),
        Stretch(1, 50, 75, {"dropout": 0.22}),
    )
    found = {(gain.since, gain.sampled["dropout"]): gain.gained for gain in gains(trials.values(), [25, 50, 75], "max")}
    assert found[25, 0.25] == pytest.approx(0.5 - 0.253), "of trial 0, against its donor's checkpoint"
    assert found[50, 0.22] == pytest.approx(0.751 - 0.5)
    assert len(gains(trials.values(), [25, 50, 75], "min")) == 8
    assert lineage(trials, 2) == (Stretch(2, 0, 75, {"dropout": 0.2}),)
    assert lineage(trials, 3) == (Stretch(2, 0, 50, {"dropout": 0.2}), Stretch(3, 50, 75, {"dropout": 0.15}))
    assert trials[1].score == pytest.approx(0.751), "of a member the last report counts, whose checkpoint there is"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"trials": 1}, "members of a population learn from one another; give at least 2"),
        ({"space": {"seed": {"kind": "integer", "low": 0, "high": 9}}}, "space.seed: cannot change while a model trains"),
        ({"space": {"data.split_seed": {"kind": "integer", "low": 0, "high": 9}}}, "space.data.split_seed: cannot change"),
        ({"space": {"dropout": TREE["dropout"]}, "sampler": {"kind": "gp"}}, "sampler.kind: gp learns from trials that ended"),
        ({"repeat": {"top": 1}}, "a member of a population has changed its own on the way"),
        ({"report_every_steps": 10}, "exploit_every_steps is 25, no multiple of report_every_steps, 10"),
    ],
)
def test_what_a_population_cannot_do_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(**more)


@given(st.sampled_from([*SPACE]), st.floats(0, 1))
def test_a_number_is_found_again_at_its_place(key: str, place: float) -> None:
    dimension = SPACE[key]
    if dimension.kind == "choice":
        return
    value = value_at(dimension, place)
    assert dimension.holds(value)
    assert value_at(dimension, place_of(dimension, value)) == pytest.approx(value)
    assert place_of(dimension, dimension.samples[0]) == pytest.approx(0)
    assert place_of(dimension, dimension.samples[1]) == pytest.approx(1)


def test_a_gaussian_process_goes_where_stretches_gained_most_and_two_members_do_not_go_the_same_way() -> None:
    space = {key: SPACE[key] for key in ("schedule.peak_lr", "schedule.decay")}
    random = np.random.default_rng(0)
    # The gain is highest at a place of 0.8.
    seen = []
    for number in range(24):
        rate = value_at(space["schedule.peak_lr"], float(random.random()))
        place = place_of(space["schedule.peak_lr"], rate)
        seen.append(Gain(25 * (number % 3), {"schedule.peak_lr": rate, "schedule.decay": "linear"}, -((place - 0.8) ** 2)))
    bandit = Bandit(seen, 75, space, lambda sampled, _: {**sampled, "schedule.decay": "cosine"})
    donor = {"schedule.peak_lr": 1e-5, "schedule.decay": "linear"}
    first, second = (bandit(donor, np.random.default_rng(seed)) for seed in range(2))
    assert abs(place_of(space["schedule.peak_lr"], first["schedule.peak_lr"]) - 0.8) < 0.15
    assert first["schedule.decay"] == "cosine", "what is no number is left to the other"
    assert first["schedule.peak_lr"] != second["schedule.peak_lr"]
    alone = Bandit(seen[:3], 75, space, lambda sampled, _: dict(sampled))
    assert alone(donor, np.random.default_rng(0)) == donor, "too little to learn from"
