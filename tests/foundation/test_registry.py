"""Against a real MLflow store on SQLite."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable

import pytest

from foundation.bundle import reseal
from foundation.errors import BundleError, GateError, RegistryError
from foundation.home import Home
from foundation.registry import Registry, Version

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
    promoted = registry.promote(model_name, 2, reason="better recall")
    assert promoted.aliases == ("champion",)
    assert registry.at(model_name, "previous").version == 1
    note = json.loads(promoted.tags["raybert.promoted"])
    assert note["why"] == "better recall"
    assert note["forced"] is False


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
    promoted = registry.promote(model_name, 1, force=True, reason="demo")
    assert json.loads(promoted.tags["raybert.promoted"])["forced"] is True


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


def _promote_once(uri: str, home: Home, name: str, version: int, start: object, outcomes: object) -> None:
    registry = Registry(uri, home)
    start.wait()  # type: ignore[attr-defined]
    try:
        registry.promote(name, version, expected=1)
        outcomes.put(version)  # type: ignore[attr-defined]
    except RegistryError:
        outcomes.put(None)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_of_processes_that_promote_at_once_exactly_one_wins(registry: Registry, register: Register, model_name: str) -> None:
    for _ in range(4):
        register()
    registry.promote(model_name, 1)
    # Fork, not spawn: each contender has MLflow imported already, so that they really meet at the lock.
    context = multiprocessing.get_context("fork")
    start, outcomes = context.Barrier(3), context.Queue()
    contenders = [
        context.Process(target=_promote_once, args=(registry.tracking_uri, registry.home, model_name, version, start, outcomes))
        for version in (2, 3, 4)
    ]
    for contender in contenders:
        contender.start()
    found = [outcomes.get(timeout=60) for _ in contenders]
    for contender in contenders:
        contender.join(timeout=60)
    winners = [version for version in found if version is not None]
    assert len(winners) == 1
    assert registry.champion(model_name) == winners[0]
    assert registry.at(model_name, "previous").version == 1
