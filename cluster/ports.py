"""TCP ports on this machine: is one free, find one, refuse a taken one with a message that says what to do."""

from __future__ import annotations

import socket

from foundation.errors import ClusterError


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
    """A port that is free at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


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
