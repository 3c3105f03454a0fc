"""Ports: found free, refused when taken."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import ports
from cluster.ports import free_port, is_free, require_free
from foundation.errors import ClusterError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_found_port_can_be_listened_on() -> None:
    port = free_port()
    assert is_free(port)
    require_free(port, "the dashboard", "dashboard_port=1")


def test_a_found_port_is_none_that_clients_or_ray_workers_are_given() -> None:
    """A port found for the last stage of a long command was once an outgoing connection's when the stage came."""
    first_for_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(19_999 < free_port() < first_for_clients for _ in range(200))


def test_a_found_port_does_not_follow_the_seed() -> None:
    drawn = set()
    for _ in range(5):
        random.seed(0)
        drawn.add(free_port())
    assert len(drawn) > 1


def test_a_found_port_is_not_found_again_until_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands that start side by side once found one port, each for a server that it started a minute later."""
    monkeypatch.setattr(ports.tempfile, "gettempdir", lambda: str(tmp_path))
    free = [port for port in range(20_000, 20_100) if is_free(port)][:3]
    monkeypatch.setattr(ports, "_FOR_SERVERS", free)
    first, *_ = found = [free_port() for _ in free]
    assert sorted(found) == free
    with pytest.raises(ClusterError, match="none is free"):
        free_port()
    (kept,) = tmp_path.rglob(str(first))
    os.utime(kept, (time.time() - 1000, time.time() - 1000))
    assert free_port() == first


def test_a_taken_port_is_refused_with_who_has_it_and_the_way_out(taken: int) -> None:
    assert not is_free(taken)
    who = rf"in use by process {os.getpid()} \(\S+\)"
    with pytest.raises(ClusterError, match=rf"127\.0\.0\.1:{taken}: {who}, needed for the dashboard; .*dashboard_port=8266"):
        require_free(taken, "the dashboard", "dashboard_port=8266")
