"""Ports: found free, refused when taken."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

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


def test_a_taken_port_is_refused_with_the_way_out(taken: int) -> None:
    assert not is_free(taken)
    with pytest.raises(ClusterError, match=rf"127\.0\.0\.1:{taken}: in use, needed for the dashboard; .*dashboard_port=8266"):
        require_free(taken, "the dashboard", "dashboard_port=8266")
