"""TCP ports on this machine: is one free, find one, refuse a taken one with a message that says what to do."""

from __future__ import annotations

import random
import socket

from foundation.errors import ClusterError

_FOR_SERVERS = range(20_000, 30_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free at this moment and is likely to stay so.

    The system hands out ports from 32768 (Linux) to clients for their connections, and Ray those from 10002 to 19999 to its workers: a port
    from there can be gone when the server that it was found for starts, seconds or minutes later. So it is drawn at random from those
    between, below the ones that Kubernetes gives to services (30000).

    Raises:
        ClusterError: No port of a hundred drawn was free.
    """
    draw = random.SystemRandom()  # not the shared generator: runs with one seed would all draw the same ports
    for _ in range(100):
        port = draw.choice(_FOR_SERVERS)
        if is_free(port, host):
            return port
    raise ClusterError(f"{host}: of 100 ports drawn between {_FOR_SERVERS[0]} and {_FOR_SERVERS[-1]} none is free; end what listens there")


def require_free(port: int, what: str, option: str, host: str = "127.0.0.1") -> None:
    """Refuse a taken port.

    Args:
        port: Where ``what`` is to listen.
        what: Named in the message, for example ``the dashboard``.
        option: How to choose another, for example ``dashboard_port=8266``.
        host: The address.

    Raises:
        ClusterError: Something listens there.
    """
    if not is_free(port, host):
        raise ClusterError(f"{host}:{port}: in use, needed for {what}; end what listens there or choose another with {option}")
