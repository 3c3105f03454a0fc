"""MLflow: one run per training run with parameters, curves, lineage and the bundle; the bundle becomes a model version.

Written by the driver from the run's own record, so that training never waits for, and never fails with, the tracking store.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from foundation.bundle import Bundle
from foundation.home import Home, home
from foundation.registry import Registry, Version, quiet_mlflow

EXPERIMENT = "raybert"
# What MLflow takes in one call.
_METRICS_PER_CALL = 1000
_NOT_CURVES = {"event", "time", "step", "attempt"}


class Recording:
    """One MLflow run."""

    def __init__(self, run_id: str, parameters: Mapping[str, Any], tags: Mapping[str, str], where: Home | None = None) -> None:
        from mlflow.entities import Param, RunTag

        where = where or home()
        self.registry = Registry(where=where)
        client = self.registry.client
        with quiet_mlflow():
            experiment = client.get_experiment_by_name(EXPERIMENT)
            # A store of this home keeps artifacts in the home; a server keeps them where it was told to.
            location = where.artifacts.as_uri() if self.registry.tracking_uri.startswith("sqlite:///") else None
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT, artifact_location=location)
            run = client.create_run(experiment_id, run_name=run_id, tags={"raybert.run_id": run_id})
            self.mlflow_id: str = run.info.run_id
            client.log_batch(
                self.mlflow_id,
                params=[Param(key, str(value)[:500]) for key, value in flat(parameters).items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        with quiet_mlflow():
            self.registry.client.set_tag(self.mlflow_id, key, value)

    def log_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the numbers of a run's record as curves over the step."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), int(row.get("time", time.time()) * 1000), int(row["step"]))
            for row in rows
            if row["event"] in ("step", "evaluation")
            for key, value in row.items()
            if key not in _NOT_CURVES and isinstance(value, (int, float))
        ]
        with quiet_mlflow():
            for start in range(0, len(metrics), _METRICS_PER_CALL):
                self.registry.client.log_batch(self.mlflow_id, metrics=metrics[start : start + _METRICS_PER_CALL])

    def log_bundle(self, bundle: Bundle, register_as: str | None) -> Version | None:
        """Keep the bundle as an artifact and, if named, as the next version of a registered model."""
        client = self.registry.client
        with quiet_mlflow():
            client.log_artifacts(self.mlflow_id, str(bundle.path), "bundle")
            source = f"{client.get_run(self.mlflow_id).info.artifact_uri}/bundle"
        if register_as is None:
            return None
        return self.registry.register(register_as, bundle, source=source, run_id=self.mlflow_id)

    def finish(self, status: str) -> None:
        """Close the MLflow run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        with quiet_mlflow():
            self.registry.client.set_terminated(self.mlflow_id, status)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
