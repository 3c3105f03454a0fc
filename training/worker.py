"""What each Ray Train worker runs: recipe → assembly → engine → loop → reports. The only file that talks to ``ray.train`` inside a run.

It runs in a thread of the worker (no signal handlers) and in a folder that is not the user's (no relative paths). ``ray.train.report`` is a
barrier over all ranks, so it is called at the checkpoint cadence only, which is a function of the step.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, assert_never

import torch

from foundation.records import Recorder
from training import leaving
from training.assembly import Assembly, assemble, engine_of, evaluate, is_stale, loop_arguments
from training.checkpoint import Checkpoint, Progress, first_whole
from training.config import RunConfig
from training.disk_offload import own_folder, unusable
from training.guard import Apply, Decision, GiveUp, GuardError, Rescale, Skip
from training.hardware import decide
from training.kept_tokens import Keeper
from training.loop import Engine, Hook, StepReport, Stop, every, train
from training.loss_scale import LossScale
from training.measuring import Meter, measured_peak, memory
from training.memory import Trimming, give_freed_memory_back, keep_freed_memory
from training.phases import Phases
from training.probe import probe_gang
from training.profiling import StepProfiler, window
from training.ranks import agreed, gathered, out_of_reach
from training.runs import METRICS_FILE, TOKENS_FOLDER, TRACE_FILE, UNRANKED, checkpoints_up_to
from training.saving import Saving, Sealed
from training.straggler import Paces
from training.telemetry import Telemetry
from training.verb_config import KINDS
from training.watchdog import Watchdog
from training.workload import limits_of

APPLIED_FOLDER = "applied"


def run_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Train to the end, resuming from the run's last whole checkpoint when there is one.

    Args:
        payload: ``verb``, ``recipe`` (plain values), ``location`` (the encoder), ``run_folder``.
    """
    from ray import train as ray_train

    recipe = KINDS[payload["verb"]].model_validate(payload["recipe"])
    rank, folder = ray_train.get_context().get_world_rank(), Path(payload["run_folder"])
    with own_folder(recipe.sharding.offload_folder, folder.name, rank) as disk:
        return _train(payload, recipe, disk)


def _train(payload: dict[str, Any], recipe: RunConfig, disk: Path | None) -> dict[str, Any]:
    from ray import train as ray_train

    torch.set_num_threads(max(1, int(recipe.workers.cpus_each)))
    keep_freed_memory()
    context = ray_train.get_context()
    if refused := out_of_reach(Path(payload["run_folder"]), context.get_world_rank(), context.get_world_size()):
        return {"refused": refused}
    if refused := unusable(disk, context.get_world_rank(), context.get_world_size()):
        return {"refused": refused}
    device = _device(recipe)
    hardware = probe_gang(device)
    decisions = decide(hardware, recipe)
    keeper = Keeper(Path(payload["run_folder"]) / TOKENS_FOLDER, writes=context.get_world_rank() == 0)
    assembly = assemble(recipe, payload["location"], attention=decisions.attention.value, keeper=keeper)
    checkpoint, damaged = _beginning(recipe, context.get_world_rank(), context.get_world_size())
    if damaged and checkpoint is None:
        # Returned, not raised, as below: a restart would find the same.
        return {"gave_up": f"no checkpoint is whole, so there is nothing to go on from: {'; '.join(damaged)}"}
    engine = engine_of(recipe, assembly, decisions, device=device, checkpoint=checkpoint, disk=disk)
    progress = checkpoint.progress if checkpoint else Progress(0, 0)
    attempt = agreed(secrets.token_hex(3), context.get_world_size())
    last = min(assembly.steps, recipe.stop_after_steps or assembly.steps)
    run = _Run(recipe, assembly, engine, Path(payload["run_folder"]), attempt, progress, last)
    run.record_damage(damaged)
    run.record_attempt(context.get_world_size(), hardware=asdict(hardware), decisions=decisions.as_json())
    hooks: list[Hook] = [run.record_step, run.seal, run.look_at_paces, run.cadence(last), run.leave]
    is_resumed = ray_train.get_checkpoint() is not None
    if progress.step >= last and not is_resumed:
        run.commit(train_loss=None)  # start_from has had its whole budget; without a checkpoint of its own the run could export nothing
    # An attempt that died after its last decision was to stop, stops again.
    is_over = is_resumed and run.is_stale()
    steps = train(
        engine,
        assembly.objective,
        steps=progress.step if is_over else last,
        start_step=progress.step,
        optimiser_steps=progress.optimiser_steps,
        memory=progress.guard,
        signals=run.signals,
        hooks=hooks,
        order=assembly.order,
        **loop_arguments(recipe, assembly.steps, assembly.attention),
    )
    outcome = {"steps": run.progress.step, "data_fingerprint": assembly.data_fingerprint, "labels": list(assembly.labels)}
    dog = Watchdog(run.folder, attempt, engine.rank, recipe.workers.stall_timeout_s)
    dog.follow(engine)
    dog.follow(run.saving)
    with dog, run.profiled(hooks):
        try:
            for report in steps:
                dog.step = report.step + 1
                outcome["steps"] = run.progress.step
        except GuardError as error:
            # Returned, not raised: Ray Train would restart the workers, which would come to the same step and end alike.
            outcome["gave_up"] = str(error)
        if unwritten := run.finish():
            outcome.setdefault("gave_up", unwritten)
    return outcome


def skipped(decision: Decision) -> dict[str, Any]:
    """What a step's row in the record says of a step that was not applied; nothing of one that was."""
    match decision:
        case Apply():
            return {}
        case Skip() | Rescale() | GiveUp():
            return {"skipped": decision.reason, "skipped_rows": list(decision.row_ids)}
        case _:
            assert_never(decision)


def ranked(figures: dict[str, float], recipe: RunConfig) -> dict[str, float]:
    """Those figures that are numbers, and a score in any case, so that Ray Train can rank the checkpoint."""
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    return {recipe.score: UNRANKED if recipe.score_order == "min" else -UNRANKED, **finite}


class _RunEngine(Engine, Protocol):
    """What a run's engines have besides what the loop needs of them."""

    loss_scale: LossScale | None
    """Of fp16, for the next step."""
    phases: Phases
    """Where the step's time goes."""


class _Run:
    """The hooks of one worker: records, evaluation, checkpoints, early stop."""

    def __init__(
        self, recipe: RunConfig, assembly: Assembly, engine: _RunEngine, folder: Path, attempt: str, progress: Progress, last: int
    ) -> None:
        self.recipe, self.assembly, self.engine, self.folder = recipe, assembly, engine, folder
        self.attempt, self.progress, self.last = attempt, progress, last
        self.metrics = Recorder(folder / METRICS_FILE) if engine.rank == 0 else None
        self.device = _device(recipe)
        self.peak = measured_peak(self.device) * engine.world_size
        self.meter = Meter(recipe, assembly, device=self.device, peak=self.peak)
        self.telemetry = Telemetry(folder.name, engine.rank)
        self.trimming = Trimming()
        self.applied = Recorder(folder / APPLIED_FOLDER / f"{attempt}-rank-{engine.rank}.jsonl") if recipe.record_rows else None
        if self.device.type == "cuda":
            engine.phases.events["forward"] = partial(torch.cuda.Event, enable_timing=True)
        self.paces = Paces(engine.world_size)
        self.saved_in_s: float | None = None
        """That the last checkpoint took until it was whole."""
        self.notice: leaving.Notice | None = None
        self.has_decided = False
        self.saving = Saving(
            engine,
            self.device,
            folder,
            {"engine": recipe.engine, "world_size": engine.world_size, "attempt": attempt},
            everyone=lambda value: gathered(value, engine.world_size),
            report=self._reported,
        )

    def record_damage(self, damaged: Iterable[str]) -> None:
        for reason in damaged:
            if self.metrics:
                self.metrics.write("damaged", step=self.progress.step, reason=reason)

    def record_attempt(self, world_size: int, **found: Any) -> None:
        began = {"attempt": self.attempt, "step": self.progress.step, "world_size": world_size, "pid": os.getpid()}
        if self.applied:
            self.applied.write("attempt", rank=self.engine.rank, **began)
        if self.metrics:
            self.metrics.write("attempt", steps=self.last, engine=self.recipe.engine, peak_flops=self.peak, **began, **found)

    @contextmanager
    def profiled(self, hooks: list[Hook]) -> Iterator[None]:
        """Profile the steps within the block if the recipe says so and no earlier attempt did; adds hooks."""
        wanted, trace = self.recipe.profile_steps, self.folder / TRACE_FILE
        with ExitStack() as stack:
            if wanted and self.metrics and not trace.exists():
                steps = window(self.progress.step, self.last, wanted)
                phases = self.engine.phases
                profiler = StepProfiler(steps, phases, trace, self.metrics.write, self.device)
                stack.enter_context(profiler)
                hooks[:] = [profiler.after_step, *hooks, profiler.before_next]
            yield

    def record_step(self, report: StepReport) -> None:
        self.progress = replace(
            self.progress,
            step=report.step + 1,
            optimiser_steps=report.optimiser_steps,
            guard=report.memory,
            loss_scale=self.engine.loss_scale,
        )
        if self.applied:
            self.applied.write("applied", step=report.step, is_applied=report.is_applied, rows=report.row_ids)
        values = {
            "step": report.step,
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "grad_norm": report.grad_norm,
            "is_applied": report.is_applied,
            "tokens": report.tokens,
            "seconds": report.seconds,
            "loader_seconds": report.loader_seconds,
        }
        figures = self.meter.figures(report)
        if self.metrics:
            self.metrics.write("step", **values, **figures, **skipped(report.decision))
        self.telemetry.step(values, figures)
        if self.trimming.is_due(int(figures["memory_bytes"])):
            give_freed_memory_back()

    def cadence(self, last: int) -> Hook:
        """When checkpoints are written."""
        config = self.recipe.checkpoint
        seconds = math.inf if config.every_s is None else config.every_s
        return every(config.every_steps, self.evaluate_and_checkpoint, last=last, seconds=seconds, between=self.checkpoint_only)

    def signals(self) -> tuple[float, ...]:
        """What the ranks decide together by the sums: whether all have written their share of a checkpoint; whether any was told to
        leave; how long each took for its forward passes of this step."""
        self.notice = self.notice or leaving.notice()
        paces = [0.0] * self.engine.world_size
        paces[self.engine.rank] = self.engine.phases.lap("forward")
        return self.saving.signal(), float(self.notice is not None and not self.has_decided), *paces

    def seal(self, report: StepReport) -> None:
        """Seal a checkpoint that all ranks have written meanwhile; collective."""
        self._tell(self.saving.seal(report.signals[0]))

    def look_at_paces(self, report: StepReport) -> None:
        """Tell of a rank that the others wait for; collective when there is one."""
        straggler = self.paces.add(report.signals[2:])
        if straggler is None:
            return
        hosts = gathered(socket.gethostname(), self.engine.world_size)
        if self.metrics:
            self.metrics.write("straggler", step=report.step, **asdict(straggler), host=hosts[straggler.rank])

    def leave(self, report: StepReport) -> None:
        """End with a checkpoint of this step if the gang was told to, and there is time for one; collective.

        Raises:
            LeftError: The checkpoint is whole.
        """
        done = self.progress.step
        if not report.signals[1] or done >= self.last or isinstance(report.decision, GiveUp):
            return
        self.has_decided = True
        mine: dict[str, Any] = {"notice": self.notice, "now": time.time(), "last_s": self.saved_in_s}
        everyone = gathered(mine, self.engine.world_size)
        decision = leaving.decide((one["notice"] for one in everyone), now=everyone[0]["now"], last_s=everyone[0]["last_s"])
        leaves = isinstance(decision, leaving.Leave)
        if self.metrics:
            self.metrics.write("leaving", step=done, leaves=leaves, **asdict(decision))
        if leaves:
            if self.saving.step != done:
                self._begin_checkpoint({})
            if self.finish() is None:
                raise leaving.LeftError(f"with the checkpoint at step {done}")

    def finish(self) -> str | None:
        """Wait for the checkpoint that is being written; collective. Returns what went wrong if it could not be."""
        self._tell(sealed := self.saving.finish())
        return f"the checkpoint at step {sealed.step} could not be written: {sealed.error}" if sealed and sealed.error else None

    def checkpoint_only(self, report: StepReport) -> None:
        """Begin a checkpoint that only a restart needs; collective."""
        if not isinstance(report.decision, GiveUp):
            self._begin_checkpoint({})

    def evaluate_and_checkpoint(self, report: StepReport) -> Stop | None:
        if isinstance(report.decision, GiveUp):
            return None  # the loop ends the run; what earlier steps left is the last checkpoint
        self.commit(train_loss=report.loss)
        if self.is_stale():
            return Stop(f"no better {self.recipe.score} for {self.recipe.patience} checkpoints")
        return None

    def is_stale(self) -> bool:
        return is_stale(self.progress.evaluations, patience=self.recipe.patience, order=self.recipe.score_order)

    def commit(self, *, train_loss: float | None) -> None:
        """Evaluate, and begin a checkpoint to which the figures belong; collective."""
        began = time.perf_counter()
        metrics = evaluate(self.engine, self.assembly.validation, limits_of(self.recipe, self.assembly.attention))
        seconds = time.perf_counter() - began
        done = self.progress.step
        self.progress = replace(self.progress, evaluations=(*self.progress.evaluations, (done, metrics[self.recipe.score])))
        used = gathered(memory(self.device), self.engine.world_size)
        most = {name: max(one[name] for one in used) for name in used[0]}
        if self.metrics:
            self.metrics.write("evaluation", step=done, **metrics, evaluation_seconds=seconds, **most)
        self.telemetry.tell("raybert_train_evaluation_seconds", seconds)
        self._begin_checkpoint(metrics if train_loss is None else metrics | {"train_loss": train_loss})

    def _begin_checkpoint(self, figures: dict[str, float]) -> None:
        self._tell(self.saving.begin(self.progress, ranked(figures, self.recipe)))

    def _tell(self, sealed: Sealed | None) -> None:
        if sealed is None:
            return
        seconds = {"checkpoint_seconds": sealed.stalled_s, "written_seconds": sealed.written_s}
        if not sealed.error:
            self.saved_in_s = sealed.stalled_s + sealed.written_s
        if self.metrics and sealed.error:
            self.metrics.write("unwritten", step=sealed.step, reason=sealed.error, **seconds)
        elif self.metrics:
            self.metrics.write("checkpoint", step=sealed.step, **seconds)
        for name, value in seconds.items():
            self.telemetry.tell(f"raybert_train_{name}", value)

    def _reported(self, figures: Mapping[str, float], folder: Path) -> None:
        """Tell Ray Train of a whole checkpoint, which lies in its folder already; a barrier over all ranks.

        Ray ranks what has no score last, and so removes it as soon as it is not the latest any more.
        """
        from ray import train as ray_train
        from ray.train import CheckpointUploadMode

        ray_train.report(
            dict(figures),
            checkpoint=ray_train.Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )


def _device(recipe: RunConfig) -> torch.device:
    if recipe.workers.gpus_each <= 0:
        return torch.device("cpu")
    from ray.train.torch import get_device

    device: torch.device = get_device()
    return device


def _beginning(recipe: RunConfig, rank: int, world_size: int) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The run's own last whole checkpoint, else the one that the recipe starts from, else None; and what is wrong with those passed over.

    Collective: rank 0 compares hashes, the others take its word.
    """
    from ray import train as ray_train

    reported = ray_train.get_checkpoint()
    if reported is None:
        return Checkpoint.open(Path(recipe.start_from)) if recipe.start_from is not None else None, ()
    found, damaged = first_whole(checkpoints_up_to(Path(reported.path))) if rank == 0 else (None, ())
    folder, damaged = agreed((found.folder if found else None, damaged), world_size)
    return Checkpoint.open(folder, is_verified=True) if folder and not found else found, damaged
