"""Apply a ``TrainPlan``: Ray Train V2 runs the workers, the driver shows progress, exports the best checkpoint and records the run.

The driver follows the run's own record (``metrics.jsonl`` in the run folder); workers never talk to MLflow. A plan that resumes a run goes
on in its folder, under its id.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.background import Background
from cluster.session import Session
from foundation.bundle import Bundle
from foundation.config import dump_yaml
from foundation.driving import driven_folder
from foundation.errors import ConfigError, RaybertError, RunError
from foundation.home import git_revision, write_atomically, write_json
from foundation.progress import say
from foundation.records import Tail, read_rows
from foundation.versions import STUDY
from training import runs
from training.checkpoint import MANIFEST, Checkpoint, first_whole
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.goodput import Ledger
from training.live import watching
from training.phases import PhaseTime
from training.planning import TrainPlan, read_labelled
from training.resuming import forget_damaged
from training.telemetry import Telemetry
from training.verb_config import KINDS
from training.watchdog import last_words
from training.worker import run_worker

if TYPE_CHECKING:
    from training.recording import Curves, Recording

_POLL_S = 0.5
_TELL_S = 10.0
_NO_MEMORY = re.compile(r"Memory on the node \(IP: ([^,)]+).*?\) was ([\d.]+)GB used / ([\d.]+)GB")
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}  # MLflow's words


@dataclass(frozen=True)
class RunResult:
    """What a finished run left."""

    run_id: str
    run_folder: str
    bundle: str
    checkpoint: str
    """The best checkpoint's folder."""
    steps: int
    """Of the best checkpoint."""
    metrics: dict[str, float]
    """Of the best checkpoint, on held-out rows."""
    train_seconds: float
    """Of this command."""
    restarts: int
    """Attempts after the first, those that ``--resume`` began among them."""
    mlflow_run: str
    version: str | None
    """``NAME/version`` when the run registered its bundle."""
    data_fingerprint: str
    goodput: dict[str, float]
    """Seconds by what they were spent on, and ``share``: how much was computing steps which count."""
    phases: tuple[PhaseTime, ...]
    """Where a mean step went; empty without ``profile_steps``."""
    report: str
    """An HTML file."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def launch(plan: TrainPlan, session: Session) -> RunResult:
    """Run a plan to the end.

    Raises:
        RunError: The workers failed more often than the recipe allows; the message holds the cause.
        ConfigError: The run's name came into use since it was planned, or another process drives the run.
    """
    folder = Path(plan.run_folder)
    with driven_folder(folder, runs.RUN_FILE, is_new=plan.resumes is None):
        return _launch(plan, session, folder)


def _launch(plan: TrainPlan, session: Session, folder: Path) -> RunResult:
    from training.recording import Curves
    from training.report import write_report

    recipe = KINDS[plan.verb].model_validate(plan.recipe)
    say(f"{plan.verb}: run {plan.run_id} on {session.address}: {plan.steps} steps, {recipe.workers.told}, engine {plan.engine}")
    known, recording = _recorded(plan, recipe, folder)
    write_atomically(folder / runs.RECIPE_FILE, dump_yaml(recipe))
    state = "failed"
    try:
        with Curves(recording.log_rows) as curves:
            began = time.monotonic()
            outcome = _fit(plan, recipe, curves, known)
            train_seconds = time.monotonic() - began
        if message := outcome.return_value.get("refused"):
            raise ConfigError(message)
        if message := outcome.return_value.get("gave_up"):
            raise RunError(f"{plan.verb}: run {plan.run_id}: {message}; run folder: {folder}")
        fingerprint = outcome.return_value["data_fingerprint"]
        recording.tag("raybert.data_fingerprint", fingerprint)
        checkpoint, metrics = best_whole(outcome.best_checkpoints, recipe)
        bundle = _export(plan, recipe, checkpoint, metrics, fingerprint)
        version = recording.log_bundle(bundle, recipe.register_as)
        _remove_unfinished(folder)
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        if state != "finished" and runs.checkpoints(folder):
            say(f"{plan.verb}: {state}; to go on from the last checkpoint: raybert {plan.verb} --resume {plan.run_id}")
        recording.finish(_STATUS[state])
        runs.end(folder, state)
        run = runs.open_run(str(folder))
        if state != "finished":
            write_report(run)
    result = RunResult(
        run_id=plan.run_id,
        run_folder=str(folder),
        bundle=str(bundle.path),
        checkpoint=str(checkpoint.folder),
        steps=int(metrics["step"]),
        metrics={name: value for name, value in metrics.items() if name != "step"},
        train_seconds=round(train_seconds, 2),
        restarts=len(run.attempts) - 1,
        mlflow_run=recording.mlflow_id,
        version=version.ref if version else None,
        data_fingerprint=fingerprint,
        goodput=run.goodput().as_json(),
        phases=run.phases(),
        report=str(folder / runs.REPORT_FILE),
    )
    write_json(folder / runs.RESULT_FILE, result.as_json())
    write_report(runs.open_run(str(folder)))
    return result


def _remove_unfinished(folder: Path) -> None:
    """Remove checkpoints that attempts were still writing when they ended, and token ids, which only restarts need."""
    shutil.rmtree(folder / runs.TOKENS_FOLDER, ignore_errors=True)
    for path in runs.checkpoints(folder):
        if not (path / MANIFEST).exists():
            shutil.rmtree(path, ignore_errors=True)


def _recorded(plan: TrainPlan, recipe: RunConfig, folder: Path) -> tuple[int, Recording]:
    """Write down that the run begins, or goes on. Returns how many rows its record has from before, and its MLflow run."""
    from training.recording import Recording

    tags = {"raybert.verb": plan.verb, "raybert.git": git_revision(Path(__file__).parent) or "unknown"}
    tags |= {STUDY: plan.study} if plan.study else {}
    if plan.resumes is None:
        recording = Recording(plan.run_id, plan.recipe, tags)
        told = {"score": recipe.score, "score_order": recipe.score_order}
        runs.begin(folder, plan.as_json(), **told, mlflow_run=recording.mlflow_id)
        return 0, recording
    for reason in plan.resumes.damaged:
        say(f"warning: {reason}; an earlier checkpoint is taken")
    if plan.resumes.checkpoint is not None:
        forget_damaged(folder, Path(plan.resumes.checkpoint))
    recording = Recording(plan.run_id, plan.recipe, tags, resumes=runs.open_run(str(folder)).about.get("mlflow_run"))
    runs.go_on(folder, plan.as_json(), mlflow_run=recording.mlflow_id)
    rows = read_rows(folder / runs.METRICS_FILE)
    recording.log_missing(rows)
    return len(rows), recording


def _fit(plan: TrainPlan, recipe: RunConfig, curves: Curves, known: int) -> Any:
    """Run the trainer to its end, and show the run's record meanwhile; of that, ``known`` rows are from before."""
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig

    from training.elastic import ElasticTrainer
    from training.failures import Failures

    on_gpus = recipe.workers.gpus_each > 0
    resources = {"CPU": recipe.workers.cpus_each} | ({"GPU": recipe.workers.gpus_each} if on_gpus else {})
    payload = {"verb": plan.verb, "recipe": plan.recipe, "location": plan.location, "run_folder": plan.run_folder}
    workers = recipe.workers
    # Read by the controller, which takes it from the driver's environment.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(workers.start_timeout_s)
    record = Path(plan.run_folder) / runs.METRICS_FILE
    trainer = ElasticTrainer(
        run_worker,
        record=record,
        train_loop_config=payload,
        torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(workers.least, workers.most) if workers.is_elastic else workers.most,
            use_gpu=on_gpus,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=workers.resize_interval_s,
        ),
        run_config=RayRunConfig(
            # A run id is never used twice: Ray Train would resume the earlier run without a word.
            name=plan.run_id,
            storage_path=str(Path(plan.run_folder).parent),
            callbacks=[Failures(record)],
            failure_config=FailureConfig(max_failures=recipe.workers.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=recipe.checkpoint.keep,
                checkpoint_score_attribute=recipe.score,
                checkpoint_score_order=recipe.score_order,
            ),
        ),
    )
    with Background(trainer.fit, name="ray-train", end=trainer.end) as work:
        _follow(plan, work, curves, known)
        try:
            return work.result()
        except Exception as error:
            raise _explained(error, plan) from None


def _follow(plan: TrainPlan, work: Background[Any], curves: Curves, known: int) -> None:
    """Show the run's record as it grows, log it, and tell Prometheus its goodput, until the trainer ends."""
    run = runs.open_run(plan.run_folder)
    tail, ledger, telemetry = Tail(run.folder / runs.METRICS_FILE), Ledger(run.about["started"]), Telemetry(plan.run_id, "driver")
    told, words = time.monotonic(), LastWords(run.folder)
    with watching(plan.verb, plan.run_id, plan.steps) as watch:
        while True:
            is_last = work.wait(0)
            rows = list(tail.rows())
            for row in rows:
                ledger.add(row)
            rows, known = rows[known:], max(0, known - len(rows))
            watch.show(rows)
            words.follow(rows)
            curves.add(rows)
            if is_last or time.monotonic() - told >= _TELL_S:
                told = time.monotonic()
                telemetry.tell("raybert_train_goodput", ledger.split(time.time()).share)
            if is_last:
                return
            work.wait(_POLL_S)


class LastWords:
    """Tells what workers wrote that ended because they got nowhere, when the record says that their gang has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._gang = ("", 0)

    def follow(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in new rows."""
        for row in rows:
            if row["event"] == "attempt":
                self._gang = (row["attempt"], row["world_size"])
            elif row["event"] == "failure" and (words := last_words(self._folder, *self._gang)):
                say(f"warning: {words}")


def best_whole(kept: Iterable[tuple[Any, dict[str, float]]], recipe: RunConfig) -> tuple[Checkpoint, dict[str, float]]:
    """The checkpoint with the best score of those that are whole, the earliest of equals; what is passed over is told.

    Args:
        kept: Ray's checkpoints with their metrics.
        recipe: Says which metric, and which way it is better.

    Raises:
        RunError: None is whole.
    """
    sign = 1 if recipe.score_order == "max" else -1
    scored = [(checkpoint, metrics) for checkpoint, metrics in kept if abs(metrics[recipe.score]) < runs.UNRANKED]
    ranked = sorted(scored, key=lambda item: (-sign * item[1][recipe.score], item[1]["step"]))
    metrics_of = {Path(checkpoint.path): metrics for checkpoint, metrics in ranked}
    best, damaged = first_whole(metrics_of)
    if best is None:
        raise RunError(f"no checkpoint is whole, so there is no model to export: {'; '.join(damaged)}")
    for reason in damaged:
        say(f"warning: {reason}; the next best checkpoint is taken")
    return best, metrics_of[best.folder]


def _export(plan: TrainPlan, recipe: RunConfig, checkpoint: Checkpoint, metrics: dict[str, float], fingerprint: str) -> Bundle:
    from training.export import export_classifier, export_encoder

    target = Path(plan.run_folder) / "bundle"
    if plan.resumes is not None:
        shutil.rmtree(target, ignore_errors=True)  # of a driver that died before it could say that the run has finished
    kept = {name: value for name, value in metrics.items() if name != "step"}
    if isinstance(recipe, FinetuneConfig):
        return export_classifier(target, checkpoint, recipe, plan.location, read_labelled(recipe), run_id=plan.run_id, metrics=kept)
    assert isinstance(recipe, PretrainConfig)
    return export_encoder(target, checkpoint, recipe, plan.location, run_id=plan.run_id, data_fingerprint=fingerprint, metrics=kept)


def _explained(error: BaseException, plan: TrainPlan) -> RaybertError:
    """The worker's own error where it was raised as one of ours; else the last line of the traceback, with where to find the rest."""
    for failure in (getattr(error, "worker_failures", None) or {}).values():
        for cause in (failure, getattr(failure, "cause", None), getattr(failure, "__cause__", None)):
            if isinstance(cause, RaybertError):
                return cause
    log = Path(plan.run_folder) / "error.txt"
    write_atomically(log, f"{type(error).__name__}: {error}{os.linesep}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = out_of_memory(str(error), plan.recipe) or (lines[-1] if lines else type(error).__name__)
    return RunError(f"{plan.verb}: run {plan.run_id} failed: {reason}; all of it is in {log}")


def out_of_memory(told: str, recipe: Mapping[str, Any]) -> str | None:
    """What to do about it, if Ray's message tells that its monitor ended processes of the run for want of memory on their node."""
    found = _NO_MEMORY.search(told)
    if found is None:
        return None
    node, used, limit = found.groups()
    return (
        f"node {node} ran out of memory ({used} of {limit} GB were taken, by all that ran there), so Ray ended the run's processes; free "
        f"some, or lower tokens_per_microbatch ({recipe['tokens_per_microbatch']:,} now) or the number of workers"
    )
