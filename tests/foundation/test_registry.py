"""Against a real MLflow store on SQLite."""

from __future__ import annotations

import getpass
import multiprocessing
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foundation.bundle import Bundle, reseal
from foundation.champions import broken_links
from foundation.errors import BundleError, GateError, RegistryError
from foundation.evidence import Evaluation
from foundation.home import Home, now_utc
from foundation.registry import Registry
from foundation.versions import GOING, Version

Register = Callable[..., Version]


def test_versions_count_up_and_are_listed_newest_first(registry: Registry, register: Register, model_name: str) -> None:
    first, second = register(), register()
    assert (first.ref, second.ref) == (f"{model_name}/1", f"{model_name}/2")
    assert [item.version for item in registry.versions(model_name)] == [2, 1]
    assert model_name in registry.names()


def test_a_registered_version_is_fetched_and_verified_against_its_recorded_hash(registry: Registry, register: Register) -> None:
    version = register()
    bundle = registry.fetch(version)
    assert bundle.digest == version.digest
    reseal(bundle, metrics={"accuracy": 1.0})
    with pytest.raises(BundleError, match="altered since it was registered"):
        registry.fetch(version)


def test_promoting_sets_champion_and_remembers_the_previous_one(registry: Registry, register: Register, model_name: str) -> None:
    register(), register()
    assert registry.champion(model_name) is None
    registry.promote(model_name, 1)
    moved = registry.promote(model_name, 2, reason="better recall")
    assert registry.version(model_name, 2).aliases == ("champion",)
    assert registry.at(model_name, "previous").version == 1
    assert (moved.before, moved.champion, moved.why, moved.forced) == (1, 2, "better recall", False)
    assert moved.by.startswith(getpass.getuser() + "@")
    assert [(move.number, move.version) for move in registry.history(model_name)] == [(1, 1), (2, 2)]


def test_promoting_the_champion_again_keeps_the_previous_one(registry: Registry, register: Register, model_name: str) -> None:
    register(), register()
    for version in (1, 2, 2):
        registry.promote(model_name, version)
    assert registry.at(model_name, "previous").version == 1


@pytest.mark.parametrize(("gate", "found"), [(False, "accuracy is 0.5000, wanted 0.8000"), (None, "no gate was checked")])
def test_a_version_whose_gates_did_not_pass_is_not_promoted(
    registry: Registry, register: Register, model_name: str, gate: bool | None, found: str
) -> None:
    register(gate)
    with pytest.raises(GateError, match=found) as caught:
        registry.promote(model_name, 1)
    assert caught.value.exit_code == 3
    assert registry.champion(model_name) is None


def test_force_promotes_a_failed_version_but_only_with_a_reason(registry: Registry, register: Register, model_name: str) -> None:
    register(False)
    with pytest.raises(RegistryError, match="--force needs --reason"):
        registry.promote(model_name, 1, force=True)
    assert registry.champion(model_name) is None
    registry.promote(model_name, 1, force=True, reason="demo")
    (kept,) = registry.history(model_name)
    assert kept.forced
    assert kept.objections == ("accuracy is 0.5000, wanted 0.8000",)


def test_force_that_was_not_needed_is_not_recorded_as_force(registry: Registry, register: Register, model_name: str) -> None:
    register()
    assert not registry.promote(model_name, 1, force=True, reason="to be sure").forced


def test_a_promotion_that_lost_the_race_changes_nothing(registry: Registry, register: Register, model_name: str) -> None:
    for _ in range(3):
        register()
    registry.promote(model_name, 1, expected=None)
    registry.promote(model_name, 2, expected=1)
    with pytest.raises(RegistryError, match="champion is version 2, not 1 as expected"):
        registry.promote(model_name, 3, expected=1)
    assert registry.champion(model_name) == 2
    assert registry.at(model_name, "previous").version == 1


def test_rollback_swaps_champion_and_previous(registry: Registry, register: Register, model_name: str) -> None:
    register(), register()
    registry.promote(model_name, 1)
    registry.promote(model_name, 2)
    assert registry.rollback(model_name, reason="complaints").version == 1
    assert (registry.champion(model_name), registry.at(model_name, "previous").version) == (1, 2)
    assert registry.rollback(model_name).version == 2


def test_rollback_without_a_previous_champion_is_refused(registry: Registry, register: Register, model_name: str) -> None:
    register()
    registry.promote(model_name, 1)
    with pytest.raises(RegistryError, match="no previous champion"):
        registry.rollback(model_name)


def test_an_altered_bundle_is_neither_promoted_nor_rolled_back_to(registry: Registry, register: Register, model_name: str) -> None:
    first = register()
    register()
    registry.promote(model_name, 1)
    registry.promote(model_name, 2)
    weights = registry.fetch(first).path / "model.safetensors"
    weights.write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.safetensors: altered"):
        registry.promote(model_name, 1)
    with pytest.raises(BundleError, match=r"model\.safetensors: altered"):
        registry.rollback(model_name)
    assert registry.champion(model_name) == 2


def test_unknown_names_versions_and_aliases_say_what_is_known(registry: Registry, register: Register, model_name: str) -> None:
    register()
    registry.promote(model_name, 1)
    with pytest.raises(RegistryError, match=f"no such model.*{model_name}"):
        registry.versions("nobody")
    with pytest.raises(RegistryError, match=f"{model_name}/9: no such version"):
        registry.version(model_name, 9)
    with pytest.raises(RegistryError, match=r"no such alias; known aliases of .*: champion"):
        registry.at(model_name, "challenger")


@pytest.mark.parametrize("name", ["a/b", "a@b", ""])
def test_names_that_a_reference_could_not_hold_are_refused(registry: Registry, register: Register, name: str) -> None:
    bundle = registry.fetch(register())
    with pytest.raises(RegistryError, match="neither '/' nor '@'"):
        registry.register(name, bundle, source=str(bundle.path), run_id="0" * 32)


def test_a_reason_that_cannot_be_kept_whole_is_refused(registry: Registry, register: Register, model_name: str) -> None:
    register()
    with pytest.raises(RegistryError, match="2,001 characters, at most 2,000"):
        registry.promote(model_name, 1, reason="x" * 2001)
    assert registry.champion(model_name) is None


def test_a_challenger_stands_beside_the_champion_until_it_becomes_champion(registry: Registry, register: Register, model_name: str) -> None:
    register(), register()
    registry.promote(model_name, 1)
    registry.challenge(model_name, 2, reason="canary")
    assert (registry.champion(model_name), registry.at(model_name, "challenger").version) == (1, 2)
    with pytest.raises(RegistryError, match="cannot challenge itself"):
        registry.challenge(model_name, 1)
    registry.promote(model_name, 2)
    assert registry.version(model_name, 2).aliases == ("champion",)
    assert [move.action for move in registry.history(model_name)] == ["promote", "challenge", "promote"]


def _measure(registry: Registry, version: Version, data: str, accuracy: float) -> None:
    evaluation = Evaluation(at=now_utc(), data=data * 64, options=f"--data {data}.parquet", rows=10, metrics={"accuracy": accuracy})
    registry.record_evaluation(version, evaluation)


def test_a_version_that_was_not_measured_on_the_champions_data_is_not_promoted(
    registry: Registry, register: Register, model_name: str
) -> None:
    first, second = register(), register()
    _measure(registry, first, "a", 0.8)
    registry.promote(model_name, 1)
    _measure(registry, second, "b", 0.9)
    with pytest.raises(GateError, match=rf"raybert evaluate --model {model_name}/2 --data a\.parquet"):
        registry.promote(model_name, 2)
    _measure(registry, registry.version(model_name, 2), "a", 0.85)
    moved = registry.promote(model_name, 2)
    assert moved.compared == {"accuracy": (0.85, 0.8)}
    assert moved.data == "a" * 64


def test_a_cached_copy_that_was_damaged_is_fetched_again(
    registry: Registry, register_uploaded: Callable[[Registry, str], Version], model_name: str
) -> None:
    version = register_uploaded(registry, model_name)
    elsewhere = replace(version, source=f"runs:/{version.run_id}/bundle")
    copy = registry.fetch(elsewhere).path
    assert copy.is_relative_to(registry.home.cache)
    (copy / "model.safetensors").write_bytes(b"cut")
    assert registry.fetch(elsewhere).digest == version.digest


def test_an_upload_that_is_not_whole_is_not_registered(
    registry: Registry, make_bundle: Callable[..., Bundle], model_name: str, tmp_path: Path
) -> None:
    bundle = make_bundle()
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    (copy / "model.safetensors").write_bytes(b"wei")
    with pytest.raises(RegistryError, match=r"copy/model\.safetensors: found 3 bytes, expected 63 bytes; nothing was registered"):
        registry.register(model_name, bundle, source=str(copy), run_id="0" * 32)
    (copy / "model.safetensors").unlink()
    with pytest.raises(RegistryError, match="found nothing"):
        registry.register(model_name, bundle, source=str(copy), run_id="0" * 32)
    assert model_name not in registry.names()


def test_versions_are_found_by_the_data_and_the_run_that_they_came_from(registry: Registry, register: Register, model_name: str) -> None:
    version = register()
    assert version in registry.find(data="000", run="run-1")
    assert registry.find(data="1") == []
    assert registry.find(run="nobody") == []


def test_a_removed_version_takes_its_files_along_and_one_with_an_alias_stays(
    registry: Registry, register_uploaded: Callable[[Registry, str], Version], model_name: str
) -> None:
    first, second = register_uploaded(registry, model_name), register_uploaded(registry, model_name)
    registry.promote(model_name, 1)
    with pytest.raises(RegistryError, match="is champion, and stays"):
        registry.remove(first)
    assert registry.version(model_name, 1) == registry.at(model_name, "champion")
    files = registry.fetch(second).path
    assert registry.bytes_of(second) > 63
    assert registry.remove(second) is None
    assert not files.exists()
    assert [item.version for item in registry.versions(model_name)] == [1]


def test_files_that_another_version_has_too_stay(
    registry: Registry, register_uploaded: Callable[[Registry, str], Version], model_name: str
) -> None:
    first = register_uploaded(registry, model_name)
    again = registry.register(model_name, registry.fetch(first), source=first.source, run_id=first.run_id or "")
    assert registry.remove(again) == "another version has the same"
    registry.fetch(first)


def test_a_version_that_is_being_removed_is_not_promoted(registry: Registry, register: Register, model_name: str) -> None:
    register()
    registry.client.set_model_version_tag(model_name, "1", GOING, now_utc())
    with pytest.raises(RegistryError, match="is being removed"):
        registry.promote(model_name, 1)


# Fork, not spawn: each contender has MLflow imported already, so that they really meet at the store.
_FORK = multiprocessing.get_context("fork")


def _move_at_random(uri: str, home: Home, name: str, seed: int, moves: int, start: Any, outcomes: Any) -> None:
    registry, draw = Registry(uri, home), random.Random(seed)
    start.wait()
    for _ in range(moves):
        try:
            expected = registry.champion(name)
            promotes, version = draw.random() < 0.7, draw.choice((1, 2, 3, 4))
            moved = registry.promote(name, version, expected=expected) if promotes else registry.rollback(name)
        except RegistryError as error:
            outcomes.put(("lost", str(error)))
        else:
            outcomes.put(("moved", moved.number))


def _look_until(uri: str, home: Home, name: str, over: Any, outcomes: Any) -> None:
    registry, looks, faults = Registry(uri, home), 0, []
    while not over.is_set():
        looks += 1
        if registry.champion(name) not in (1, 2, 3, 4):
            faults.append(registry.champion(name))
    outcomes.put(("looked", looks, faults))


@pytest.mark.slow
def test_of_many_promotions_and_rollbacks_at_once_none_is_lost_and_there_is_always_one_champion(
    registry: Registry, register: Register, model_name: str, tmp_path: Path
) -> None:
    for _ in range(4):
        register()
    registry.promote(model_name, 1)
    registry.promote(model_name, 2)
    homes = [Home(tmp_path / f"home-{number}") for number in range(8)]  # of different users: nothing but the store is shared
    start, over, outcomes = _FORK.Barrier(8), _FORK.Event(), _FORK.Queue()
    movers = [
        _FORK.Process(target=_move_at_random, args=(registry.tracking_uri, home, model_name, seed, 7, start, outcomes))
        for seed, home in enumerate(homes)
    ]
    looker = _FORK.Process(target=_look_until, args=(registry.tracking_uri, homes[0], model_name, over, outcomes))
    for process in (*movers, looker):
        process.start()
    found = [outcomes.get(timeout=120) for _ in range(8 * 7)]
    over.set()
    (_, looks, faults) = outcomes.get(timeout=60)
    for process in (*movers, looker):
        process.join(timeout=60)
    moved = sorted(number for what, number in found if what == "moved")
    assert {what if what == "moved" else "somebody else" in told for what, told in found} <= {"moved", True}
    history = registry.history(model_name)
    assert [move.number for move in history] == [1, 2, *moved]
    assert broken_links(history) == []
    assert registry.champion(model_name) == history[-1].champion
    assert len(moved) >= 8
    assert looks >= 5
    assert faults == []
