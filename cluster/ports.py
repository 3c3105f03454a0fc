"""TCP ports on this machine: is one free, find one, refuse a taken one with a message that says what to do."""

from __future__ import annotations

import getpass
import random
import socket
import tempfile
import time
from pathlib import Path

import psutil

from foundation.errors import ClusterError

_FOR_SERVERS = range(20_000, 30_000)
_KEPT_S = 900.0


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
    between, below the ones that Kubernetes gives to services (30000), and none of this user's other processes finds it too within a quarter
    of an hour.

    Raises:
        ClusterError: No port of a hundred drawn was free.
    """
    draw = random.SystemRandom()  # not the shared generator: runs with one seed would all draw the same ports
    for _ in range(100):
        port = draw.choice(_FOR_SERVERS)
        if is_free(port, host) and _keep(port):
            return port
    raise ClusterError(f"{host}: of 100 ports drawn between {_FOR_SERVERS[0]} and {_FOR_SERVERS[-1]} none is free; end what listens there")


def _keep(port: int) -> bool:
    """Put the port aside for whoever found it; False if somebody else has. A file's age tells, so nobody has to give it back."""
    folder = Path(tempfile.gettempdir()) / f"raybert-ports-{getpass.getuser()}"
    kept = folder / str(port)
    try:
        folder.mkdir(exist_ok=True)
        if kept.exists() and time.time() - kept.stat().st_mtime > _KEPT_S:
            kept.unlink()
        kept.touch(exist_ok=False)
    except (FileExistsError, FileNotFoundError):  # another process is faster, in finding it or in forgetting it
        return False
    except OSError:  # no room, or a folder of somebody else's: found is found
        return True
    return True


def _holder(port: int) -> str:
    """Who listens there, as far as this user may know."""
    try:
        listening = [
            it.pid for it in psutil.net_connections("tcp") if it.status == psutil.CONN_LISTEN and it.laddr[1:] == (port,) and it.pid
        ]
        return "".join(f" by process {number} ({psutil.Process(number).name()})" for number in listening[:1])
    except psutil.Error:
        return ""


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
        raise ClusterError(
            f"{host}:{port}: in use{_holder(port)}, needed for {what}; end what listens there or choose another with {option}"
        )
