"""MLflow: one run per training run with parameters, curves, lineage and the bundle; the bundle becomes a model version.

Written by the driver from the run's own record, on a thread, so that training never waits for, and never fails with, the tracking store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from foundation.bundle import Bundle
from foundation.config import flat
from foundation.errors import first_line
from foundation.home import Home, home
from foundation.progress import say
from foundation.registry import Registry, quiet_mlflow
from foundation.versions import Version

EXPERIMENT = "raybert"
# What MLflow takes in one call.
_METRICS_PER_CALL = 1000
# Rows kept for a store that does not take them; later ones push out earlier ones.
_MOST_WAITING = 100_000
_NOT_CURVES = {"event", "time", "step", "attempt"}


class Recording:
    """One MLflow run."""

    def __init__(
        self, run_id: str, parameters: Mapping[str, Any], tags: Mapping[str, str], where: Home | None = None, *, resumes: str | None = None
    ) -> None:
        """``resumes``: an MLflow run to go on with; one that the store does not have is made anew, and told of."""
        from mlflow.entities import Param, RunTag
        from mlflow.exceptions import MlflowException

        where = where or home()
        self.registry = Registry(where=where)
        client = self.registry.client
        if resumes is not None:
            try:
                with quiet_mlflow():
                    client.update_run(resumes, status="RUNNING")
            except MlflowException as error:
                say(f"MLflow: {resumes} cannot be gone on with, so the run is recorded anew: {first_line(error)}")
            else:
                self.mlflow_id: str = resumes
                return
        with quiet_mlflow():
            experiment = client.get_experiment_by_name(EXPERIMENT)
            # A store of this home keeps artifacts in the home; a server keeps them where it was told to.
            location = where.artifacts.as_uri() if self.registry.tracking_uri.startswith("sqlite:///") else None
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT, artifact_location=location)
            run = client.create_run(experiment_id, run_name=run_id, tags={"raybert.run_id": run_id})
            self.mlflow_id = run.info.run_id
            client.log_batch(
                self.mlflow_id,
                params=[Param(key, str(value)[:500]) for key, value in flat(parameters).items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run; a store that fails is told of."""
        with _told("a tag"), quiet_mlflow():
            self.registry.client.set_tag(self.mlflow_id, key, value)

    def log_missing(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log those of an earlier driver's rows that it had no time for; a store that fails is told of."""
        with _told("the curves of the earlier command"), quiet_mlflow():
            logged = max((point.step for point in self.registry.client.get_metric_history(self.mlflow_id, "loss")), default=-1)
            self.log_rows([row for row in rows if row.get("step", -1) > logged])

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
            log_metrics(self.registry.client, self.mlflow_id, metrics)

    def log_bundle(self, bundle: Bundle, register_as: str | None) -> Version | None:
        """Keep the bundle as an artifact and, if named, as the next version of a registered model.

        Without a name, a store that fails is told of: the bundle is in the run's folder.
        """
        client = self.registry.client
        if register_as is None:
            with _told("the bundle"), quiet_mlflow():
                client.log_artifacts(self.mlflow_id, str(bundle.path), "bundle")
            return None
        with quiet_mlflow():
            client.log_artifacts(self.mlflow_id, str(bundle.path), "bundle")
            source = f"{client.get_run(self.mlflow_id).info.artifact_uri}/bundle"
        return self.registry.register(register_as, bundle, source=source, run_id=self.mlflow_id)

    def finish(self, status: str) -> None:
        """Close the MLflow run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        with _told("the end of the run"), quiet_mlflow():
            self.registry.client.set_terminated(self.mlflow_id, status)


def log_metrics(client: Any, mlflow_id: str, metrics: Sequence[Any]) -> None:
    """Log MLflow's metrics of a run, as many in one call as MLflow takes."""
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(mlflow_id, metrics=metrics[start : start + _METRICS_PER_CALL])


class Curves:
    """Hands a run's rows to ``log`` as they come, every few seconds, on a thread of its own.

    A call that fails is told of once; its rows are tried again with the next. Leaving the block logs the rest, and waits a while for it.
    """

    def __init__(self, log: Callable[[Sequence[Mapping[str, Any]]], None], *, every_s: float = 10.0, wait_s: float = 60.0) -> None:
        """``wait_s``: how long the end of the block waits for the store; after an error in it, a tenth of that."""
        self._log, self._every_s, self._wait_s = log, every_s, wait_s
        self._rows: list[Mapping[str, Any]] = []
        self._lock, self._over, self._is_told = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="raybert-curves", daemon=True)

    def __enter__(self) -> Curves:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join(self._wait_s if kind is None else self._wait_s / 10)
        if self._thread.is_alive():
            self._tell("it does not answer")

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in new rows; returns at once."""
        with self._lock:
            self._rows = (self._rows + list(rows))[-_MOST_WAITING:]

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            rows, self._rows = self._rows, []
        try:
            self._log(rows)
        except Exception as error:  # whatever a store, its driver or the network raises
            self._tell(error)
            with self._lock:
                self._rows = (rows + self._rows)[-_MOST_WAITING:]

    def _tell(self, reason: object) -> None:
        if not self._is_told:
            self._is_told = True
            say(f"MLflow: curves could not be logged, the run goes on without: {first_line(reason)}")


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell of whatever a store, its driver or the network raises, and go on."""
    try:
        yield
    except Exception as error:
        say(f"MLflow: {what} could not be recorded: {first_line(error)}")
