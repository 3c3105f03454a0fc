"""The processes of one local cluster or private Ray, found by what they inherited, and ended by pid.

Ray's processes are not all children of the supervisor, some rewrite their environment with their title, and job drivers lead sessions of
their own. Two inherited marks find them all: the cluster's id in the environment and the process session of the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator

import psutil

from cluster.state import ClusterState

MARK = "RAYBERT_CLUSTER_ID"
"""In the environment of every process that a local cluster or a private Ray starts."""
_TERM_S = 3.0
_KILL_S = 7.0
_POLL_S = 0.05


def members(state: ClusterState) -> list[psutil.Process]:
    """Living processes of a cluster, its supervisor included; never this process."""
    # A session keeps its leader's pid from being used again while it has members; a stranger with that pid means that it has none.
    has_session = state.is_alive or not psutil.pid_exists(state.pid)

    def belongs(process: psutil.Process) -> bool:
        in_session = has_session and os.getsid(process.pid) == state.pid and process.create_time() >= state.pid_started - 2
        return in_session or _mark_of(process) == state.cluster_id

    return _with_children(belongs)


def end(state: ClusterState) -> list[psutil.Process]:
    """End every process of a cluster: asked first, then killed.

    Returns:
        What still lives after that: normally nothing.
    """
    return _end(lambda: members(state))


@contextlib.contextmanager
def ended_behind(mark: str) -> Iterator[None]:
    """A block that shuts a private Ray down; behind it, whatever inherited ``mark`` and still lives is ended.

    Ray ends its servers and trusts the rest to follow. A worker or an agent that is just starting looks for them for a minute first, and
    an interrupted ``ray.init`` does not know its servers yet.
    """

    def marked() -> list[psutil.Process]:
        return _with_children(lambda process: _mark_of(process) == mark)

    known = marked()  # by now: some lose the mark with their parent, by their title
    try:
        yield
    finally:
        _end(lambda: {*filter(_is_alive, known), *marked()})


def _with_children(belongs: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Living processes that belong, and their descendants; never this process."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if belongs(process):
                for one in (process, *process.children(recursive=True)):
                    found[one.pid] = one
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _is_alive(process)]


def _end(find: Callable[[], Collection[psutil.Process]]) -> list[psutil.Process]:
    """Ask what ``find`` finds to end, then kill it; returns what still lives after that."""
    for signalled, patience_s in ((psutil.Process.terminate, _TERM_S), (psutil.Process.kill, _KILL_S)):
        deadline = time.monotonic() + patience_s
        told: set[int] = set()
        while left := find():
            for process in left:
                if process.pid not in told:  # what was started meanwhile is told too
                    told.add(process.pid)
                    with contextlib.suppress(psutil.Error):
                        signalled(process)
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
    return list(find())


def _mark_of(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(MARK)
    return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
