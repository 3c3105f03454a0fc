"""Moves through an MLflow server that is a process of its own, where no transaction spans a move."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.ports import free_port
from foundation.alias_store import Decide, RemoteAliases
from foundation.champions import Aliases, Move, broken_links, promoted
from foundation.errors import RegistryError
from foundation.home import Home, now_utc
from foundation.registry import Registry
from foundation.versions import Version
from tests.conftest import wait_for

pytestmark = pytest.mark.slow
_names = (f"served-{number}" for number in itertools.count())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry behind a server."""
    root, port = tmp_path_factory.mktemp("server"), free_port()
    store = [
        "--backend-store-uri",
        f"sqlite:///{root / 'mlflow.db'}",
        "--no-serve-artifacts",
        "--default-artifact-root",
        str(root / "artifacts"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(lambda: _answers(f"http://127.0.0.1:{port}"), 120, "MLflow's server to answer")
            yield Registry(f"http://127.0.0.1:{port}", Home(root))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def server_store(server: Registry) -> str:
    """The database behind the server."""
    return f"sqlite:///{server.home.root / 'mlflow.db'}"


@pytest.fixture
def name(server: Registry, register_uploaded: Callable[[Registry, str], Version]) -> str:
    """A model with three versions."""
    model = next(_names)
    for _ in range(3):
        register_uploaded(server, model)
    return model


def to(version: int, *, meanwhile: Callable[[], object] = lambda: None) -> Decide:
    """A promotion, during whose decision something else happens."""

    def decide(aliases: Aliases, number: int) -> Move:
        meanwhile()
        return Move(
            number=number,
            action="promote",
            version=version,
            before=aliases.get("champion"),
            aliases=promoted(aliases, version),
            at=now_utc(),
            by="somebody@somewhere",
        )

    return decide


class Slow:
    """A client that lets something else happen right before its first call of one kind."""

    def __init__(self, client: Any, before: str, happens: Callable[[], object]) -> None:
        self._client, self._before, self._happens = client, before, [happens]

    def __getattr__(self, called: str) -> Any:
        if called == self._before and self._happens:
            self._happens.pop()()
        return getattr(self._client, called)


def test_a_promotion_through_a_server_is_kept_like_one_at_the_database(server: Registry, name: str) -> None:
    server.promote(name, 1, reason="first")
    server.challenge(name, 3)
    server.promote(name, 3)
    server.rollback(name)
    assert (server.champion(name), server.at(name, "previous").version) == (1, 3)
    history = server.history(name)
    assert [(move.number, move.action, move.champion) for move in history] == [
        (1, "promote", 1),
        (2, "challenge", 1),
        (3, "promote", 3),
        (4, "rollback", 1),
    ]
    assert broken_links(history) == []


def test_nobody_begins_a_move_while_another_one_is_under_way(server: Registry, name: str) -> None:
    server.promote(name, 1)
    told = []

    def other() -> None:
        for registry in (server, Registry(server_store(server), server.home)):  # through the server, and at its database
            with pytest.raises(RegistryError, match="somebody else is moving its aliases; nothing was changed"):
                registry.promote(name, 2)
        told.append(server.champion(name))

    RemoteAliases(server.client).move(name, to(3, meanwhile=other))
    assert told == [1]
    assert (server.champion(name), [move.champion for move in server.history(name)]) == (3, [1, 3])


def test_who_died_with_a_claim_does_not_stop_others_for_ever_and_is_told_if_it_comes_back(
    server: Registry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.promote(name, 1)

    def other() -> None:
        monkeypatch.setattr("foundation.champions.PATIENCE_S", 0.0)
        server.promote(name, 2)

    slow: Any = Slow(server.client, "set_registered_model_alias", other)
    with pytest.raises(RegistryError, match="moved its aliases meanwhile: champion is version"):
        RemoteAliases(slow).move(name, to(3))


def test_of_several_that_move_at_once_who_succeeds_is_never_undone_unawares(server: Registry, name: str) -> None:
    server.promote(name, 1)
    done, start = [], threading.Barrier(4)

    def mover(version: int) -> None:
        store = RemoteAliases(server.client)
        start.wait()
        for _ in range(4):
            with contextlib.suppress(RegistryError):
                done.append(store.move(name, to(version)).number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mover, (1, 2, 3, 2)))
    history = server.history(name)
    assert [move.number for move in history] == [1, *sorted(done)]
    assert broken_links(history) == []
    assert server.champion(name) == history[-1].champion


def test_the_decisions_own_error_comes_through_and_nothing_is_claimed(server: Registry, name: str, tmp_path: Path) -> None:
    server.promote(name, 1)
    with pytest.raises(RegistryError, match="champion is version 1, not 2 as expected"):
        server.promote(name, 3, expected=2)
    assert len(server.history(name)) == 1
