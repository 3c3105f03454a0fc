"""What each worker of a trial does: the recipe, trained to where the scheduler lets it; reports and checkpoints go out by a callback.

A trial of one worker runs it in the trial's own actor (``trial.py``), a gang in actors of their own (``gang.py``). Knows no Ray.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from corpus.order import StepRows
from foundation.config import parse
from foundation.errors import RunError
from training.assembly import Assembly, assemble, engine_of, evaluate, loop_arguments
from training.checkpoint import Checkpoint, Progress, write_manifest
from training.disk_offload import own_folder, unusable
from training.engine import moved
from training.hardware import decide
from training.kept_tokens import Keeper
from training.loop import StepReport, Stop, every, train
from training.measuring import memory
from training.probe import probe_gang
from training.ranks import agreed, gathered
from training.runs import TOKENS_FOLDER
from training.verb_config import KINDS, verb_of
from training.watchdog import Watchdog
from training.workload import limits_of

_ANSWERS = 25
"""Texts that are timed."""

Tell = Callable[[dict[str, Any], Path], bool]
"""Takes one report's figures and its checkpoint's folder, which is gone afterwards; returns whether the trial goes on, or raises."""
_STOPPED = Stop("the scheduler stopped the trial")


@dataclass(frozen=True)
class Job:
    """One trial, as its workers are given it."""

    name: str
    """No other trial of the study has it."""
    recipe: Mapping[str, Any]
    """Plain values, those that were sampled among them."""
    location: str
    """The encoder's folder or hub id."""
    folder: str
    """The study's, which all workers see."""
    scratch: str
    """Folder for checkpoints on their way into a report, which all workers see; not there yet."""
    checkpoint: str | None
    """To go on from."""
    reported_step: int | None
    """Of the last report that is known. A checkpoint of a later step has one that was lost; None: it has been heard."""
    most_steps: int
    report_every_steps: int
    until: int | None = None
    """Step at which this stretch ends; None: with the trial."""
    times_answers: bool = False
    """Whether to measure how long an answer takes."""
    is_copy: bool = False
    """Whether ``checkpoint`` is another trial's; then it is made sure that nothing got lost on the way."""


def train_trial(job: Job, tell: Tell, *, rank: int = 0, world_size: int = 1) -> None:
    """Train one trial to its end; collective.

    Args:
        job: The trial.
        tell: Called by rank 0 alone, while the others wait for it.
        rank: This worker.
        world_size: Of its gang, whose process group exists.
    """
    began = perf_counter()
    recipe = parse(KINDS[verb_of(job.recipe)], job.recipe, where="trial")
    torch.set_num_threads(max(1, int(recipe.workers.cpus_each)))
    device = torch.device("cuda" if recipe.workers.gpus_each > 0 else "cpu")  # Ray shows a worker its own GPUs only
    with own_folder(recipe.sharding.offload_folder, job.name, rank) as disk:
        if problem := unusable(disk, rank, world_size):
            raise ValueError(problem)
        decisions = decide(probe_gang(device), recipe)
        keeper = Keeper(Path(job.folder) / TOKENS_FOLDER, writes=rank == 0)
        assembly = assemble(recipe, job.location, attention=decisions.attention.value, keeper=keeper)
        checkpoint = Checkpoint.open(Path(job.checkpoint)) if job.checkpoint else None
        made = {"size_mb": 4e-6 * sum(parameter.numel() for parameter in assembly.model.parameters())}
        if job.times_answers:
            made |= {"latency_ms": latency_ms(assembly, device)}
        engine = engine_of(recipe, assembly, decisions, device=device, checkpoint=checkpoint, disk=disk)
        progress = checkpoint.progress if checkpoint else Progress(0, 0)
        last = min(job.most_steps, assembly.steps)
        if job.is_copy and checkpoint and not all(gathered(holds(engine, checkpoint), world_size)):
            raise RunError(f"{job.name}: what the engine holds is not what {checkpoint.folder} has")
        start_seconds = perf_counter() - began
        begun: dict[str, Any] = {"copied_from": str(checkpoint.folder)} if job.is_copy and checkpoint else {}
        if world_size > 1:
            begun["gang"] = gathered(f"{socket.gethostname()}:{os.getpid()}", world_size)

        def measured() -> dict[str, float]:
            return evaluate(engine, assembly.validation, limits_of(recipe, assembly.attention))

        def told(figures: Mapping[str, Any], folder: Path) -> bool:
            full = {**figures, "step": progress.step, "steps": last, "start_seconds": start_seconds, **made, **begun}
            return agreed(rank != 0 or tell(full, folder), world_size)

        def report(step: StepReport) -> Stop | None:
            nonlocal progress
            metrics = measured()
            done = step.step + 1
            progress = replace(
                progress,
                step=done,
                optimiser_steps=step.optimiser_steps,
                evaluations=(*progress.evaluations, (done, metrics[recipe.score])),
                guard=step.memory,
                loss_scale=engine.loss_scale,
            )
            folder = Path(job.scratch) / f"step-{done:07d}"
            files = {name: entry for share in gathered(engine.save(folder), world_size) for name, entry in share.items()}
            if rank == 0:
                write_manifest(folder, progress, files, engine.shapes(), {"engine": recipe.engine, "world_size": world_size})
            held = max(one.get("gpu_memory_bytes", one["memory_bytes"]) for one in gathered(memory(device), world_size))
            goes_on = told({**metrics, "train_loss": step.loss, "memory_mb": held / 1e6}, folder)
            if rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
            return None if goes_on else _STOPPED

        # The driver may have gone between a checkpoint and its report.
        is_unheard = job.checkpoint is not None and job.reported_step is not None and progress.step > job.reported_step
        if is_unheard and not told(measured(), Path(str(job.checkpoint))):
            return
        steps = train(
            engine,
            assembly.objective,
            steps=min(last, job.until or last),
            start_step=progress.step,
            optimiser_steps=progress.optimiser_steps,
            memory=progress.guard,
            hooks=[every(job.report_every_steps, report, last=min(last, job.until or last))],
            order=assembly.order,
            **loop_arguments(recipe, assembly.steps, assembly.attention),
        )
        with _watched(engine, job, rank, recipe.workers.stall_timeout_s) if world_size > 1 else nullcontext():
            for _ in steps:
                pass


def latency_ms(assembly: Assembly, device: torch.device) -> float:
    """Median milliseconds in which the model answers one validation text."""
    model, rows = assembly.model.to(device).eval(), assembly.validation
    times = []
    with torch.no_grad():
        for place in [0, *range(min(_ANSWERS, rows.rows))]:  # the first warms up
            batch = moved(rows.batch(StepRows(np.zeros(1, dtype=np.int64), np.array([place])), [0], 1.0), device)
            began = perf_counter()
            rows.counts(model, batch).tolist()
            times.append(perf_counter() - began)
    model.train()
    return 1e3 * median(times[1:])


def holds(engine: Any, checkpoint: Checkpoint) -> bool:
    """Whether parameters and optimiser states that this rank owns are a checkpoint's, bit for bit."""
    return all(
        torch.equal(
            tensor.detach().float().cpu().reshape(-1), checkpoint.read(kind, fragment.name, fragment.start, fragment.length).reshape(-1)
        )
        for fragment in engine.fragments()
        for kind, tensor in fragment.tensors.items()
    )


def _watched(engine: Any, job: Job, rank: int, timeout_s: float) -> Watchdog:
    """Ends this worker when it gets nowhere, so that Tune begins the trial again."""
    dog = Watchdog(Path(job.folder), job.name, rank, timeout_s)
    dog.follow(engine)
    return dog
