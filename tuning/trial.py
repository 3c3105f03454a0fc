"""One trial: the recipe with sampled values, trained by the plain loop in the trial's own actor; reports and checkpoints go to Ray Tune."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from foundation.config import parse, with_values
from training.config import RunConfig
from training.verb_config import KINDS, verb_of

R = TypeVar("R", bound=RunConfig)
NAMES = "reported"
"""Key of a report: the names in it that are ours, among all that Tune adds."""
FAILED = "failed"
"""Key of a report that the trial failed, instead of a score; its message."""


def trial_recipe(base: R, sampled: Mapping[str, Any]) -> R:
    """The recipe of one trial."""
    return with_values(base, sampled, where="sampled values")


@contextlib.contextmanager
def _failure_reported(told: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Report what fails within the block as the trial's own failure, unless it is the cluster's."""
    from ray import tune

    try:
        yield
    except OSError:
        raise
    except Exception as error:
        figures = {"traceback": traceback.format_exc(), **told()}
        tune.report({FAILED: f"{type(error).__name__}: {error}", **figures, NAMES: [*figures]})


def run_trial(
    start: dict[str, Any],
    *,
    base: dict[str, Any],
    locations: Mapping[str, str],
    tokens: str,
    max_steps: int,
    report_every_steps: int,
) -> None:
    """Train until the scheduler stops the trial or its budget ends; what fails in the trial itself is reported, not raised.

    Args:
        start: A ``Start``'s values, as JSON has them.
        base: The study's recipe, as plain values.
        locations: Encoder REF to folder, resolved by the driver.
        tokens: Folder in which the study's trials keep token ids for each other.
        max_steps: Of trials that are not told theirs.
        report_every_steps: Cadence of reports.

    Raises:
        OSError: A disk or a network failed: the cluster's fault, so that Tune begins the trial again from its last checkpoint.
    """
    began = time.perf_counter()
    import torch
    from ray import tune

    from training.assembly import assemble, evaluate, loop_arguments, torch_engine
    from training.checkpoint import Checkpoint, Progress, write_manifest
    from training.hardware import decide
    from training.kept_tokens import Keeper
    from training.loop import StepReport, every, train
    from training.probe import probe_gang
    from training.workload import limits_of

    def told() -> dict[str, Any]:
        return {"trial_seconds": time.perf_counter() - began, "worker": f"{socket.gethostname()}:{os.getpid()}"}

    with _failure_reported(told):
        recipe = trial_recipe(parse(KINDS[verb_of(base)], base, where="study"), start["sampled"])
        torch.set_num_threads(max(1, int(recipe.workers.cpus_each)))
        device = torch.device("cuda" if recipe.workers.gpus_each > 0 else "cpu")  # Ray shows a worker its own GPUs only
        decisions = decide(probe_gang(device), recipe)
        assembly = assemble(recipe, locations[recipe.encoder], attention=decisions.attention.value, keeper=Keeper(Path(tokens)))
        # Tune's own is later than the one that the study's driver found when it went on.
        held = tune.get_checkpoint()
        place = held.path if held else start["checkpoint"]
        checkpoint = Checkpoint.open(Path(place)) if place else None
        engine = torch_engine(assembly, recipe, decisions, device=device, checkpoint=checkpoint)
        progress = checkpoint.progress if checkpoint else Progress(0, 0)
        last = min(start["steps"] or max_steps, assembly.steps)
        ready = time.perf_counter()

        def tell(figures: Mapping[str, Any], folder: str) -> None:
            named = {**figures, "step": progress.step, "steps": last, "start_seconds": ready - began, **told()}
            tune.report({**named, NAMES: [*named]}, checkpoint=tune.Checkpoint.from_directory(folder))

        def report(step: StepReport) -> None:
            nonlocal progress
            metrics = evaluate(engine, assembly.validation, limits_of(recipe, assembly.attention))
            done = step.step + 1
            evaluations = (*progress.evaluations, (done, metrics[recipe.score]))
            progress = replace(progress, step=done, optimiser_steps=step.optimiser_steps, evaluations=evaluations, guard=step.memory)
            folder = Path(tempfile.mkdtemp(prefix="raybert-trial-"))
            try:
                files = engine.save(folder)
                write_manifest(folder, progress, files, engine.shapes(), {"engine": "torch", "world_size": 1})
                tell({**metrics, "train_loss": step.loss}, str(folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        if not held and progress.step > start["reported_step"]:
            # The driver went between this checkpoint and its report.
            tell(evaluate(engine, assembly.validation, limits_of(recipe, assembly.attention)), str(place))
        for _ in train(
            engine,
            assembly.objective,
            steps=last,
            start_step=progress.step,
            optimiser_steps=progress.optimiser_steps,
            memory=progress.guard,
            hooks=[every(report_every_steps, report, last=last)],
            order=assembly.order,
            **loop_arguments(recipe, assembly.steps, assembly.attention),
        ):
            pass
