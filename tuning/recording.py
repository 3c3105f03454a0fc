"""A study in MLflow: a run for the study, and below it one for each trial that has ended, with its hyperparameters and curves.

From the study's record, on a thread, so that trials never wait for, and never fail with, the tracking store. What a store did not take is
there again at the next try, or when the study is gone on with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundation import driving
from foundation.errors import first_line
from foundation.registry import quiet_mlflow
from training.recording import Curves, Recording, log_metrics
from tuning import studies
from tuning.record import Record, Trial, named

_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}  # MLflow's words; a stopped trial did what it was asked to
_ENDS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class StudyRuns:
    """The MLflow runs of one study.

    Args:
        folder: Of the study, whose ``study.json`` there is.
        record: Of the study.
    """

    def __init__(self, folder: Path, record: Record) -> None:
        self._folder, self._record = folder, record
        self._parent: Recording | None = None

    @contextmanager
    def following(self, every_s: float = 10.0) -> Iterator[None]:
        """Log trials as they end, within the block, and those that are left at its end."""
        with Curves(lambda _: self.log_ended(), every_s=every_s):
            yield

    def log_ended(self) -> None:
        """Log the trials that have ended and are not logged.

        Raises:
            Exception: Whatever the store, its driver or the network raises; what was logged is written down.
        """
        study = studies.open_study(str(self._folder))
        for trial in (*study.trials.values(), *study.repeats.values()):
            if trial.state != "unfinished" and trial.mlflow_run is None:
                self._record.logged(trial.number, self._log(self._study(), trial), trial.seed)

    def finish(self, state: str) -> None:
        """Close the study's run, if there is one."""
        if self._parent is not None:
            self._parent.finish(_ENDS[state])

    def _study(self) -> Recording:
        if self._parent is None:
            study = studies.open_study(str(self._folder))
            config = study.plan["config"]
            tags = {
                "raybert.verb": "tune",
                "raybert.sampler": config["sampler"]["kind"],
                "raybert.scheduler": config["scheduler"]["kind"],
                "raybert.data_fingerprint": study.plan["data_fingerprint"],
            }
            self._parent = Recording(study.study_id, config["recipe"], tags, resumes=study.about.get("mlflow_run"))
            driving.note(self._folder / studies.STUDY_FILE, mlflow_run=self._parent.mlflow_id)
        return self._parent

    def _log(self, parent: Recording, trial: Trial) -> str:
        """Log one trial; returns its run's id."""
        from mlflow.entities import Metric, Param

        client = parent.registry.client
        began = int(1000 * min(span.began for span in trial.spans)) if trial.spans else None
        ended = int(1000 * max(span.ended for span in trial.spans)) if trial.spans else None
        with quiet_mlflow():
            experiment = client.get_run(parent.mlflow_id).info.experiment_id
            tags = {
                "mlflow.parentRunId": parent.mlflow_id,
                "raybert.study": self._folder.name,
                "raybert.trial": str(trial.number),
                "raybert.state": trial.state,
            }
            if trial.cause:
                tags["raybert.cause"] = first_line(trial.cause)
            if trial.seed is not None:
                tags["raybert.seed"] = str(trial.seed)
            name = f"{self._folder.name}, {named(trial.number, trial.seed)}"
            run = client.create_run(experiment, start_time=began, tags=tags, run_name=name)
            metrics = [
                Metric(key, float(value), int(1000 * report.time), report.step)
                for report in trial.reports
                for key, value in report.figures.items()
                if key not in ("step", "steps") and isinstance(value, (int, float))
            ]
            params = [Param(key, str(value)[:500]) for key, value in trial.sampled.items()]
            client.log_batch(run.info.run_id, params=params)
            log_metrics(client, run.info.run_id, metrics)
            client.set_terminated(run.info.run_id, _STATUS[trial.state], end_time=ended)
        return str(run.info.run_id)
