"""Apply a ``TrainPlan``: Ray Train V2 runs the workers, the driver shows progress, exports the best checkpoint and records the run.

The driver follows the run's own record (``metrics.jsonl`` in the run folder); workers never talk to MLflow.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.background import Background
from cluster.session import Session
from foundation.bundle import Bundle
from foundation.config import dump_yaml
from foundation.errors import RaybertError, RunError
from foundation.home import git_revision, write_atomically, write_json
from foundation.progress import say
from foundation.records import Tail
from training import runs
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.goodput import Ledger
from training.live import watching
from training.phases import PhaseTime
from training.planning import TrainPlan, read_labelled
from training.telemetry import Telemetry
from training.worker import KINDS, run_worker

if TYPE_CHECKING:
    from training.recording import Curves

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
    restarts: int
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
    """
    from training.recording import Curves, Recording
    from training.report import write_report

    recipe = KINDS[plan.verb].model_validate(plan.recipe)
    folder = Path(plan.run_folder)
    folder.mkdir(parents=True)
    write_atomically(folder / "recipe.yaml", dump_yaml(recipe))
    say(f"{plan.verb}: run {plan.run_id} on {session.address}: {plan.steps} steps, {recipe.workers.count} worker(s), engine {plan.engine}")
    revision = git_revision(Path(__file__).parent) or "unknown"
    recording = Recording(plan.run_id, plan.recipe, {"raybert.verb": plan.verb, "raybert.git": revision})
    runs.begin(folder, plan.as_json(), score=recipe.score, score_order=recipe.score_order)
    state = "failed"
    try:
        with Curves(recording.log_rows) as curves:
            began = time.monotonic()
            outcome = _fit(plan, recipe, curves)
            train_seconds = time.monotonic() - began
        if message := outcome.return_value.get("gave_up"):
            raise RunError(f"{plan.verb}: run {plan.run_id}: {message}; run folder: {folder}")
        fingerprint = outcome.return_value["data_fingerprint"]
        recording.tag("raybert.data_fingerprint", fingerprint)
        checkpoint, metrics = _best(outcome, recipe)
        bundle = _export(plan, recipe, checkpoint, metrics, fingerprint)
        version = recording.log_bundle(bundle, recipe.register_as)
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        say(f"{plan.verb}: interrupted; the last committed checkpoint is kept in {folder}")
        raise
    finally:
        recording.finish(_STATUS[state])
        runs.end(folder, state)
        run = runs.open_run(str(folder))
        if state != "finished":
            write_report(run)
    result = RunResult(
        run_id=plan.run_id,
        run_folder=str(folder),
        bundle=str(bundle.path),
        checkpoint=str(checkpoint),
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


def _fit(plan: TrainPlan, recipe: RunConfig, curves: Curves) -> Any:
    """Run the trainer to its end, and show the run's record meanwhile."""
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpus = recipe.workers.gpus_each > 0
    resources = {"CPU": recipe.workers.cpus_each} | ({"GPU": recipe.workers.gpus_each} if on_gpus else {})
    payload = {"verb": plan.verb, "recipe": plan.recipe, "location": plan.location, "run_folder": plan.run_folder}
    trainer = TorchTrainer(
        run_worker,
        train_loop_config=payload,
        torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=recipe.workers.count, use_gpu=on_gpus, resources_per_worker=resources),
        run_config=RayRunConfig(
            # A run id is never used twice: Ray Train would resume the earlier run without a word.
            name=plan.run_id,
            storage_path=str(Path(plan.run_folder).parent),
            failure_config=FailureConfig(max_failures=recipe.workers.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=recipe.checkpoint.keep,
                checkpoint_score_attribute=recipe.score,
                checkpoint_score_order=recipe.score_order,
            ),
        ),
    )
    with Background(trainer.fit, name="ray-train") as work:
        _follow(plan, work, curves)
        try:
            return work.result()
        except Exception as error:
            raise _explained(error, plan) from None


def _follow(plan: TrainPlan, work: Background[Any], curves: Curves) -> None:
    """Show the run's record as it grows, log it, and tell Prometheus its goodput, until the trainer ends."""
    tail, ledger, telemetry = Tail(Path(plan.run_folder) / runs.METRICS_FILE), Ledger(time.time()), Telemetry(plan.run_id, "driver")
    told = time.monotonic()
    with watching(plan.verb, plan.run_id, plan.steps) as watch:
        while True:
            is_last = work.wait(0)
            rows = list(tail.rows())
            watch.show(rows)
            curves.add(rows)
            for row in rows:
                ledger.add(row)
            if is_last or time.monotonic() - told >= _TELL_S:
                told = time.monotonic()
                telemetry.tell("raybert_train_goodput", ledger.split(time.time()).share)
            if is_last:
                return
            work.wait(_POLL_S)


def _best(outcome: Any, recipe: RunConfig) -> tuple[Path, dict[str, float]]:
    """The kept checkpoint with the best score; the earliest of equals."""
    sign = 1 if recipe.score_order == "max" else -1
    kept = sorted(outcome.best_checkpoints, key=lambda item: item[1]["step"])
    checkpoint, metrics = max(kept, key=lambda item: sign * item[1][recipe.score])
    return Path(checkpoint.path), metrics


def _export(plan: TrainPlan, recipe: RunConfig, checkpoint: Path, metrics: dict[str, float], fingerprint: str) -> Bundle:
    from training.export import export_classifier, export_encoder

    target = Path(plan.run_folder) / "bundle"
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
        f"some, or lower tokens_per_microbatch ({recipe['tokens_per_microbatch']:,} now) or workers.count ({recipe['workers']['count']})"
    )
