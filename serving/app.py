"""Assembly: a recipe becomes one Ray Serve application. Below this line nothing knows that Serve exists.

Read next: ``service.py``, which starts and stops it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foundation.home import home
from serving.config import ServiceConfig, deployment_options

if TYPE_CHECKING:
    from ray.serve import Application


def build(config: ServiceConfig, *, cpus_available: float | None = None) -> Application:
    """Wrap the replica as the one deployment of an application.

    Args:
        config: The recipe.
        cpus_available: CPUs of the cluster; the largest number of replicas is cut to what fits.
    """
    from ray import serve

    from serving.replica import Replica

    options = deployment_options(config, cpus_available)
    actor = {"num_cpus": config.cpus_per_replica, "runtime_env": {"env_vars": replica_environment(config)}}
    # Requests are counted in our metrics; a log line for each would cost more than the edge does.
    quiet = {"enable_access_log": False}
    deployment = serve.deployment(serve.ingress()(Replica), ray_actor_options=actor, logging_config=quiet, **options)
    return deployment.bind(config.model_dump(mode="json"))


def replica_environment(config: ServiceConfig) -> dict[str, str]:
    """Environment of a replica: the home and registry of whoever started the service, and no more threads than it has CPUs."""
    here = home()
    environment = {
        "RAYBERT_HOME": str(here.root),
        "MLFLOW_TRACKING_URI": here.tracking_uri,
        "OMP_NUM_THREADS": str(config.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    code = Path(__file__).parents[1]
    if code.name != "site-packages":  # a checkout: replicas on this machine import the same files
        environment["PYTHONPATH"] = str(code)
    return environment
