"""A service on a real local cluster: up, asked, promoted under load without a failed request, looked at, down without a trace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.ports import free_port, is_free
from foundation.bundle import Bundle
from foundation.registry import Registry
from serving.client import AsyncClient, Client
from tests.conftest import Cli, wait_for
from tests.support.tiny import make_classifier_bundle

pytestmark = pytest.mark.ray


def register(registry: Registry, bundle: Bundle) -> None:
    experiment = registry.client.get_experiment_by_name("tests")
    experiment_id = experiment.experiment_id if experiment else registry.client.create_experiment("tests")
    run = registry.client.create_run(experiment_id)
    registry.register("reviews", bundle, source=str(bundle.path), run_id=run.info.run_id)


class Asking:
    """A thread that asks without pause and never retries; ``failures`` is what went wrong."""

    def __init__(self, url: str) -> None:
        self.versions: list[str] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(url,))

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _ask(self, url: str) -> None:
        with Client(url) as client:
            while not self._stop.is_set():
                try:
                    answer = client.classify(["this is a good product", "bad"])
                    assert len(answer.results) == 2
                    self.versions.append(answer.version)
                except Exception as error:  # whatever it is, it is a failed request
                    self.failures.append(error)


@pytest.fixture
def served_home(cli: Cli, raybert_home: Path) -> Iterator[Path]:
    """A home of which every service is taken down at the end, however the test ended."""
    yield raybert_home
    if list((raybert_home / "services").glob("*.json")):
        cli("serve", "down", timeout_s=90)


@pytest.mark.timeout(240)
def test_a_service_follows_its_champion_without_a_failed_request_and_leaves_nothing(
    cli: Cli, served_home: Path, tmp_path: Path, no_new_processes: Callable[[], list[psutil.Process]]
) -> None:
    registry, port = Registry(), free_port()
    for seed in (1, 2):
        register(registry, make_classifier_bundle(tmp_path / f"model-{seed}", seed=seed))
    registry.promote("reviews", 1)

    up = cli("serve", "up", "model=reviews@champion", f"port={port}", "follow_every_s=0.5", "--json")
    assert up.exit_code == 0, up.err
    url = up.json["url"]
    assert url == f"http://127.0.0.1:{port}"

    with Client(url) as client:
        answer = client.classify(["this is a good product", "this is a bad product"], top_k=1)
    assert (answer.model, answer.version, len(answer.results)) == ("reviews", "1", 2)

    async def ask_async() -> set[str]:
        async with AsyncClient(url) as client:
            return {answer.version for answer in await asyncio.gather(*(client.classify(["good", "bad"]) for _ in range(20)))}

    assert asyncio.run(ask_async()) == {"1"}

    with Asking(url) as one, Asking(url) as two:
        wait_for(lambda: len(one.versions) > 5 and len(two.versions) > 5, 20)
        registry.promote("reviews", 2)
        wait_for(lambda: one.versions[-1] == two.versions[-1] == "2", 30)
        after = len(one.versions)
        wait_for(lambda: len(one.versions) > after + 20, 20)
    assert (one.failures, two.failures) == ([], [])
    assert one.versions == sorted(one.versions)

    queried = cli("query", "this is a good product", "--json").json
    assert (queried["url"], queried["served"], len(queried["results"])) == (url, "reviews/2", 1)
    (status,) = cli("serve", "status", "--json").json["services"]
    assert (status["status"], status["version"], status["replicas"]) == ("ready", "2", {"running": 1})
    assert cli("models", "show", "reviews/2", "--json").json["served_by"] == [f"classifier at {url}"]
    would = cli("models", "prune", "--keep", "0", "--dry-run", "--json").json
    assert would["stay"][0] == {"ref": "reviews/2", "reason": "is champion"}
    again = cli("serve", "up", "model=reviews@champion", f"port={port}")
    assert (again.exit_code, "is up already" in again.error) == (2, True)

    down = cli("serve", "down")
    assert down.exit_code == 0, down.err
    assert is_free(port)
    wait_for(lambda: not no_new_processes(), 20, "every process of the service is gone")
    assert cli("serve", "status", "--json").json["services"] == []
