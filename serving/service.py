"""A service's life: ``up`` checks all that can be wrong before it starts anything and waits for an answer; ``down`` leaves nothing.

Without a cluster to go to, ``up`` starts a background local one of its own, so that the command returns while the service lives; ``down``
then ends that too. Ray, and what goes wrong with it, is met here; the application is assembled in ``app.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foundation.errors import ClusterError, ConfigError, ServiceError
from foundation.home import now_utc
from foundation.progress import duration, say
from foundation.references import Resolved
from serving import state as records
from serving.client import Client
from serving.config import ServiceConfig, autoscaling_options
from serving.state import ServiceState

if TYPE_CHECKING:
    from cluster.session import Session

OWN_CLUSTER = "serve"
"""Name of the local cluster that ``up`` starts when there is none."""

_POLL_EVERY_S = 0.25


@dataclass(frozen=True)
class ServicePlan:
    """What ``up`` will do; ``serve up --dry-run`` prints it."""

    config: ServiceConfig
    model: Resolved
    cluster: str
    """Where it goes: an address, the local cluster that is up, or a new one."""
    autoscaling: dict[str, Any]


@dataclass(frozen=True)
class ServiceStatus:
    """What is found of a recorded service."""

    service: ServiceState
    status: str
    """``ready``; ``starting``, ``unhealthy`` or another of Serve's states in lower case; ``gone`` when nothing of it answers."""
    model: str | None = None
    version: str | None = None
    replicas: dict[str, int] = field(default_factory=dict)
    """Number of replicas by Serve's replica state."""
    message: str = ""


def plan(config: ServiceConfig, *, address: str | None = None) -> ServicePlan:
    """Check all that can be checked without starting anything.

    Raises:
        RegistryError, EncoderError, BundleError: The model cannot be served.
        ConfigError: The service is up already.
        ClusterError: The port is taken, or a new local cluster would have too few CPUs.
    """
    from cluster.ports import require_free
    from cluster.session import check_private
    from cluster.state import running
    from serving.classifier import resolve_bundle

    resolved = resolve_bundle(config.model)
    known = records.find(config.name)
    if known is not None and _is_alive(known):
        raise ConfigError(
            f"{config.name}: is up already at {known.url}, serving {known.model}; `raybert serve down {config.name}` ends it, "
            "`raybert models promote` changes its model"
        )
    if known is None or known.url != config.url:  # what is left of a dead one may hold its port; `up` removes it first
        require_free(config.port, f"the service {config.name}", "port=NUMBER", config.host)
    given = address or os.environ.get("RAY_ADDRESS")
    up_now = running()
    if not given and not up_now:
        check_private(config.cpus_per_replica * config.autoscaling.replicas[0], 0, lower="cpus_per_replica or autoscaling.min_replicas")
    where = given or (f"{up_now[0].address} (local cluster {up_now[0].name})" if up_now else f"a new local cluster {OWN_CLUSTER!r}")
    return ServicePlan(config, resolved, where, autoscaling_options(config))


def up(config: ServiceConfig, *, address: str | None = None, ready_timeout_s: float = 300.0) -> ServiceState:
    """Start a service and wait until it answers.

    Args:
        config: The recipe.
        address: Ray cluster HOST:PORT. Default: ``RAY_ADDRESS``, else the local cluster that is up, else a new one.
        ready_timeout_s: How long the first replica may take.

    Raises:
        ServiceError: It did not become ready; everything that was started is taken down again.
        Others: As ``plan``.
    """
    from cluster.ports import require_free

    plan(config, address=address)
    if (remains := records.find(config.name)) is not None:
        _remove_remains(remains)
        require_free(config.port, f"the service {config.name}", "port=NUMBER", config.host)
    with contextlib.ExitStack() as undo:
        cluster_name, cluster_address = _choose_cluster(config, address, undo)
        with _session(cluster_address, config.cpus_per_replica * config.autoscaling.replicas[0]) as session:
            undo_app = contextlib.ExitStack()
            with undo_app:
                _deploy(config, session, undo_app)
                service = ServiceState(
                    name=config.name,
                    url=config.url,
                    model=config.model,
                    address=_address_of(session),
                    cluster=cluster_name,
                    max_texts_per_request=config.max_texts_per_request,
                    started=now_utc(),
                )
                _wait_until_ready(service, ready_timeout_s)
                records.save(service)
                undo_app.pop_all()
        undo.pop_all()
    return service


def down(name: str) -> ServiceState:
    """End a service: requests in progress are finished, its port is released, and its own cluster goes too.

    Raises:
        ServiceError: No such service was started from this home.
    """
    service = records.find(name)
    if service is None:
        known = ", ".join(state.name for state in records.recorded()) or "none"
        raise ServiceError(f"{name}: no such service was started from this home; recorded: {known}")
    _remove_remains(service)
    return service


def status(name: str | None = None) -> list[ServiceStatus]:
    """Look at one recorded service, or at all of them."""
    return [_look_at(state) for state in records.recorded() if name in (None, state.name)]


def _choose_cluster(config: ServiceConfig, address: str | None, undo: contextlib.ExitStack) -> tuple[str | None, str | None]:
    """Name of the cluster that the service owns, if it does, and the address to go to; None lets the session choose."""
    from cluster import local
    from cluster.config import LocalClusterSpec
    from cluster.ports import free_port
    from cluster.state import running

    if address or os.environ.get("RAY_ADDRESS"):
        return None, address
    for cluster in running():
        return (OWN_CLUSTER if cluster.name == OWN_CLUSTER else None), cluster.address
    say("no cluster is up: starting a local one for the service")
    undo.callback(local.down, OWN_CLUSTER)
    started = local.up(LocalClusterSpec(name=OWN_CLUSTER, nodes=1, dashboard_port=free_port(), mlflow_port=None))
    return OWN_CLUSTER, started.address


@contextlib.contextmanager
def _session(address: str | None, cpus: float = 0) -> Iterator[Session]:
    from cluster.session import session

    with session(address, cpus=cpus) as opened:
        from ray import serve

        # Serve tells its driver about every step; the person at the terminal is told by this module. Importing it resets the level.
        logging.getLogger(serve.__name__).setLevel(logging.ERROR)
        yield opened


def _address_of(session: Session) -> str:
    """HOST:PORT, also where the session was found as ``auto``: the service outlives what it was found by."""
    import ray

    return session.address if ":" in session.address else str(ray.get_runtime_context().gcs_address)


def _deploy(config: ServiceConfig, session: Session, undo: contextlib.ExitStack) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.context import _get_global_client

    from serving.app import build

    cpus = float(ray.cluster_resources().get("CPU", 0))
    least, most = config.autoscaling.replicas
    fitting = int(cpus / config.cpus_per_replica + 1e-9)
    if fitting < most:
        say(f"the cluster has {cpus:g} CPUs: at most {max(least, fitting)} replicas of {config.cpus_per_replica:g} CPU, not {most}")
    others = sorted(name for name in serve.status().applications if name != config.name)
    if others:
        raise ClusterError(
            f"{session.address}: serves {', '.join(others)} already; one service fits on a cluster, take that one down first"
        )
    # Undone in any case: Serve's proxy would hold the port without an application behind it.
    undo.callback(serve.shutdown)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(
            host=config.host, port=config.port, request_timeout_s=config.request_timeout_s + 5, keep_alive_timeout_s=90
        ),
    )
    listening = _get_global_client().http_config
    if listening.port != config.port:
        undo.pop_all()  # that Serve is somebody else's
        raise ClusterError(
            f"{session.address}: Serve listens on port {listening.port} there and cannot change; use that port, or another cluster"
        )
    say(f"deploying {config.name}: {config.model}")
    target = serve.RunTarget(build(config, cpus_available=cpus), name=config.name, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _wait_until_ready(service: ServiceState, timeout_s: float) -> None:
    from ray import serve

    started = time.monotonic()
    told_s = 0.0
    with Client(service.url, timeout_s=5.0) as client:
        while True:
            application = serve.status().applications.get(service.name)
            state = application.status.value if application else "NOT_STARTED"
            if state == "DEPLOY_FAILED" and application is not None:
                raise ServiceError(f"{service.name}: could not be deployed: {_reason(application)}")
            if state == "RUNNING" and client.is_ready():
                say(f"ready after {duration(time.monotonic() - started)}")
                return
            waited_s = time.monotonic() - started
            if waited_s > timeout_s:
                why = _reason(application) if application else "Serve does not know it"
                raise ServiceError(f"{service.name}: not ready after {duration(timeout_s)} ({state.lower()}): {why}")
            if waited_s - told_s >= 5:
                told_s = waited_s
                say(f"{service.name}: {state.lower()}, {duration(waited_s)}")
            time.sleep(_POLL_EVERY_S)


def _reason(application: Any) -> str:
    """The most telling line of what Serve says about a failure: the last one of the replica's exception."""
    messages = [application.message, *(deployment.message for deployment in application.deployments.values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return str((errors or lines or ["no reason given; see Ray's logs"])[-1])


def _look_at(service: ServiceState) -> ServiceStatus:
    model = version = None
    try:
        with Client(service.url, timeout_s=5.0) as client:
            (card,) = client.models()
            model, version = card.model, card.version
    except ServiceError:
        pass
    try:
        with _session(service.address):
            from ray import serve

            application = serve.status().applications.get(service.name)
    except ClusterError as error:
        return ServiceStatus(service, "gone", model, version, message=str(error))
    if application is None:
        return ServiceStatus(service, "gone", model, version, message="its cluster is up, but does not know it any more")
    replicas = {
        str(getattr(state, "value", state)).lower(): count
        for deployment in application.deployments.values()
        for state, count in deployment.replica_states.items()
        if count
    }
    found = application.status.value.lower()
    is_ready = found == "running" and model is not None
    return ServiceStatus(service, "ready" if is_ready else found, model, version, replicas, "" if is_ready else _reason(application))


def _is_alive(service: ServiceState) -> bool:
    with Client(service.url, timeout_s=5.0) as client:
        return client.is_ready()


def _remove_remains(service: ServiceState) -> None:
    """Take down whatever is left of a service, drained if it still runs, and forget it."""
    from cluster import local

    shared = any(other.cluster == service.cluster and other.name != service.name for other in records.recorded())
    takes_cluster_along = service.cluster is not None and not shared
    # Refused: its cluster is gone, and the service with it.
    with contextlib.suppress(ClusterError), _session(service.address):
        from ray import serve

        if service.name in serve.status().applications:
            serve.delete(service.name)
        if not takes_cluster_along and not serve.status().applications:
            serve.shutdown()  # releases the port
    if takes_cluster_along and service.cluster is not None:
        local.down(service.cluster)
    records.forget(service.name)
