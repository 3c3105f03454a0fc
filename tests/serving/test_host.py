"""One replica's inside: it follows the alias, swaps without losing a request, and never swaps to a bad bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from foundation.bundle import Bundle
from foundation.errors import RegistryError
from foundation.registry import Registry
from serving.config import ServiceConfig
from serving.errors import NotReady
from serving.host import ModelHost
from serving.schema import ClassifyRequest
from tests.support.tiny import make_classifier_bundle

pytestmark = pytest.mark.slow
REQUEST = ClassifyRequest(inputs=["this is a good product", "bad"])


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Registry()


def register(registry: Registry, bundle: Bundle, name: str = "reviews") -> int:
    experiment = registry.client.get_experiment_by_name("tests")
    experiment_id = experiment.experiment_id if experiment else registry.client.create_experiment("tests")
    run = registry.client.create_run(experiment_id)
    return registry.register(name, bundle, source=str(bundle.path), run_id=run.info.run_id).version


def hosted(talk: Callable[[ModelHost], Awaitable[None]]) -> None:
    async def run() -> None:
        host = ModelHost(ServiceConfig(model="reviews@champion", follow_every_s=3600))
        await host.start()
        try:
            await talk(host)
        finally:
            await host.close()

    asyncio.run(run())


def test_it_follows_the_champion_while_requests_are_running(registry: Registry, tmp_path: Path) -> None:
    register(registry, make_classifier_bundle(tmp_path / "one", seed=1))
    register(registry, make_classifier_bundle(tmp_path / "two", seed=2))
    registry.promote("reviews", 1)

    async def talk(host: ModelHost) -> None:
        assert (await host.classify(REQUEST)).version == "1"
        assert not await host.follow_once()
        versions: set[str] = set()
        stop = asyncio.Event()

        async def ask() -> None:
            while not stop.is_set():
                answer = await host.classify(REQUEST)
                versions.add(answer.version)
                assert len(answer.results) == 2

        async def seen(version: str) -> None:
            async with asyncio.timeout(20):
                while version not in versions:
                    await asyncio.sleep(0.001)

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        await seen("1")
        await asyncio.to_thread(registry.promote, "reviews", 2)
        assert await host.follow_once()
        await seen("2")
        stop.set()
        await asyncio.gather(*asking)
        assert versions == {"1", "2"}
        assert 'raybert_model_swaps_total{outcome="done"} 1.0' in host.metrics.page().decode()
        assert host.models()[0].version == "2"

    hosted(talk)


def test_a_bundle_altered_after_it_was_promoted_never_replaces_the_one_that_answers(registry: Registry, tmp_path: Path) -> None:
    register(registry, make_classifier_bundle(tmp_path / "one", seed=1))
    bad = make_classifier_bundle(tmp_path / "two", seed=2)
    register(registry, bad)
    registry.promote("reviews", 1)

    async def talk(host: ModelHost) -> None:
        await asyncio.to_thread(registry.promote, "reviews", 2)
        with (bad.path / "model.safetensors").open("r+b") as weights:
            weights.seek(-8, 2)
            weights.write(b"\x00" * 8)
        assert not await host.follow_once()
        assert not await host.follow_once()
        assert (await host.classify(REQUEST)).version == "1"
        assert 'raybert_model_swaps_total{outcome="refused"} 1.0' in host.metrics.page().decode()
        await asyncio.to_thread(registry.rollback, "reviews")
        assert not await host.follow_once()
        assert (await host.classify(REQUEST)).version == "1"

    hosted(talk)


def test_an_unreachable_registry_ends_nothing(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(registry, make_classifier_bundle(tmp_path / "one", seed=1))
    registry.promote("reviews", 1)

    def unreachable(*_: object) -> None:
        raise RegistryError("the registry does not answer")

    async def talk(host: ModelHost) -> None:
        monkeypatch.setattr(Registry, "at", unreachable)
        assert not await host.follow_once()
        assert (await host.classify(REQUEST)).version == "1"

    hosted(talk)


def test_the_canary_runs_and_a_closed_host_is_not_ready(bundle: Bundle) -> None:
    async def run() -> None:
        host = ModelHost(ServiceConfig(model=str(bundle.path)))
        with pytest.raises(NotReady, match="still loading"):
            await host.check()
        await host.start()
        await host.check()
        answer = asyncio.create_task(host.classify(REQUEST))
        await asyncio.sleep(0)
        await host.close()
        assert len((await answer).results) == 2
        with pytest.raises(NotReady, match="shutting down"):
            await host.classify(REQUEST)

    asyncio.run(run())
