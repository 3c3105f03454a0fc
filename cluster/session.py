"""How a verb gets its Ray: an address that was given, the job it runs in, a recorded local cluster, or a private one.

The only file that calls ``ray.init``. Whatever is private is taken down on the way out, also after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster import autoscaling, processes, ray_settings, signals
from cluster.ports import free_port
from cluster.topology import Topology, check_fits, topology_of
from foundation.errors import ClusterError, first_line

Origin = Literal["given", "job", "local", "private"]
_REACH_S = 5.0
_ALIVE = 0  # GcsNodeInfo.GcsNodeState
_LOOPBACK = {"127.0.0.1"}
_OBJECT_STORE_BYTES = 500_000_000
# Ray sets its mode itself when it starts a private cluster.
_REMEMBERED = ("RAY_AUTH_MODE",)


@dataclass(frozen=True)
class Session:
    """A connection to Ray."""

    address: str
    origin: Origin
    topology: Topology


@contextlib.contextmanager
def session(
    address: str | None = None,
    *,
    cpus: float = 0,
    gpus: float = 0,
    cpus_each: float = 0,
    lower: str = "workers.count or workers.cpus_each",
) -> Iterator[Session]:
    """Connect to Ray, or start a private one, for the length of the block.

    Args:
        address: ``HOST:PORT`` of a cluster's GCS; None: the job that this process runs in, else a running local cluster of this home, else
            a private Ray with this machine's CPUs.
        cpus: What the work needs at once.
        gpus: What the work needs at once.
        cpus_each: One worker's share of ``cpus``, which has to fit on one node; 0: no matter where.
        lower: What the user can make smaller, named when it does not fit.

    Raises:
        ClusterError: No cluster there, a wrong token, or more wanted than there is and than its autoscaler can start; while it can, this
            waits and tells for what.
    """
    ray_settings.apply(ray_settings.driver_environment())
    origin, target = _choose(address)
    if origin == "private":
        check_private(cpus, gpus, lower=lower)
    with _connected(origin, target):
        import ray

        topology = topology_of(ray.nodes())
        try:
            check_fits(topology, cpus=cpus, gpus=gpus, cpus_each=cpus_each, lower=lower)
        except ClusterError as refusal:
            if origin == "private" or not autoscaling.is_on():
                raise
            topology = autoscaling.wait_for(autoscaling.bundles_of(cpus, gpus, cpus_each), refusal)
        yield Session(address=target or "a private Ray on this machine", origin=origin, topology=topology)


def check_private(cpus: float, gpus: float, *, lower: str = "workers.count or workers.cpus_each") -> None:
    """Refuse what this machine cannot give before anything is started on it."""
    from cluster.topology import Node

    machine = Topology((Node("this machine", float(os.cpu_count() or 1), float("inf") if ray_settings.has_gpu() else 0.0),))
    check_fits(machine, cpus=cpus, gpus=gpus, lower=lower)


def _choose(address: str | None) -> tuple[Origin, str | None]:
    if address:
        return "given", address
    inherited = os.environ.get("RAY_ADDRESS")
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return "job", inherited or "auto"
    if inherited:
        return "given", inherited
    from cluster.state import running

    for state in running():
        return "local", state.address
    return "private", None


@contextlib.contextmanager
def _connected(origin: Origin, target: str | None) -> Iterator[None]:
    """Connected within the block; environment and signal handler are put back behind it, so that the next session finds its own."""
    environment: dict[str, str] = {}
    ended_behind: AbstractContextManager[None] = contextlib.nullcontext()
    if origin == "private":
        mark = f"private-{uuid.uuid4().hex}"
        environment, ended_behind = {processes.MARK: mark}, processes.ended_behind(mark)
    elif origin != "job":
        environment = _access(str(target))
    with _environment(environment, _REMEMBERED), signals.put_back(signal.SIGTERM):
        try:
            # Cut between the making of its driver in C++ and Python's knowing it, Ray would not shut it down, and the process would crash.
            with signals.held_back("interrupted: stopping as soon as Ray has started"):
                _initialise(origin, target)
            # Ray has put its own handlers in place by now, and they end the process before any clean-up.
            signals.terminate_as_interrupt()
            yield
        finally:
            with signals.uninterrupted(), ended_behind:
                # An import that was cut is not there, and imported again it fails, by what it left in sys.modules.
                if (ray := sys.modules.get("ray")) is not None:
                    ray.shutdown()


def _initialise(origin: Origin, target: str | None) -> None:
    import ray

    # A process that talks to a second cluster would go on with the first one's token and mode.
    native: Any = importlib.import_module("ray._raylet")  # its type stub leaves these two out
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(constants.ENABLE_RAY_CLUSTERS_ENV_VAR, True)  # as a fresh process on Linux has it
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": bool(os.environ.get("RAYBERT_WORKER_LOGS"))}
    if origin == "private":
        logging.getLogger("ray").setLevel(logging.ERROR)
        ray.init(
            "local",
            include_dashboard=False,
            num_cpus=os.cpu_count(),
            object_store_memory=_OBJECT_STORE_BYTES,
            _metrics_export_port=free_port(),
            **options,
        )
        return
    if origin != "job" and _require_cluster(str(target)) <= _LOOPBACK:
        # Else Ray puts this machine's network address in the place of 127.0.0.1, where such a cluster does not listen. In a job the
        # environment of the nodes has said so already.
        constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(address=target, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(f"{target}: could not connect: {first_line(error)}") from None


def _access(target: str) -> dict[str, str]:
    """What the environment has to say for this address: the token, and for a cluster of this home its MLflow server.

    What the user has set already wins.
    """
    from cluster.state import running

    wanted: dict[str, str] = {}
    recorded = next((state for state in running() if state.address == target), None)
    if recorded is not None:
        wanted = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(recorded.token_file)}
        if recorded.tracking_uri:
            wanted["MLFLOW_TRACKING_URI"] = recorded.tracking_uri
    elif "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ or (Path.home() / ".ray" / "auth_token").is_file():
        wanted = {"RAY_AUTH_MODE": "token"}
    if "RAY_AUTH_TOKEN" in os.environ:
        wanted.pop("RAY_AUTH_TOKEN_PATH", None)
    return {name: value for name, value in wanted.items() if not os.environ.get(name)}


@contextlib.contextmanager
def _environment(values: Mapping[str, str], remembered: Sequence[str]) -> Iterator[None]:
    """Variables for the length of the block; ``remembered`` ones are put back too, whoever changes them."""
    before = {name: os.environ.get(name) for name in {*values, *remembered}}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _require_cluster(target: str) -> set[str]:
    """Ask the address one question; Ray's own attempt to connect takes from twenty seconds to minutes before it gives up.

    Returns:
        The addresses of the living nodes.

    Raises:
        ClusterError: Not an address, nothing there, something else than Ray there, or the token is refused.
    """
    import grpc  # type: ignore[import-untyped]
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
    from ray.exceptions import AuthenticationError

    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"{target}: not an address; expected HOST:PORT of a cluster's GCS, for example 127.0.0.1:6379")
    try:
        with init_grpc_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            answer = NodeInfoGcsServiceStub(channel).GetAllNodeInfo(GetAllNodeInfoRequest(), timeout=_REACH_S)
            return {node.node_manager_address for node in answer.node_info_list if node.state == _ALIVE}
    except (AuthenticationError, RuntimeError) as error:  # the token file that was named cannot be read
        raise ClusterError(f"{target}: no token to show there: {first_line(error)}") from None
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise ClusterError(
                f"{target}: the cluster refuses {_token_source()}; give the cluster's own with RAY_AUTH_TOKEN_PATH=FILE"
            ) from None
        raise ClusterError(
            f"{target}: no cluster answers there; start one with `raybert cluster up` or check --address ({first_line(error.details())})"
        ) from None


def _token_source() -> str:
    """Where the token came from, as Ray looks for it."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return "a connection without a token"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the token in RAY_AUTH_TOKEN"
    return f"the token in {os.environ.get('RAY_AUTH_TOKEN_PATH') or '~/.ray/auth_token'}"
