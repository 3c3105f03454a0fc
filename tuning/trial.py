"""One trial: the recipe with sampled values, trained by the plain loop in the trial's own actor; reports and checkpoints go to Ray Tune."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundation.config import parse, with_values
from training.config import FinetuneConfig


def trial_recipe(base: FinetuneConfig, sampled: Mapping[str, Any]) -> FinetuneConfig:
    """The recipe of one trial."""
    return with_values(base, sampled, where="sampled values")


def run_trial(
    sampled: dict[str, Any],
    *,
    base: dict[str, Any],
    locations: Mapping[str, str],
    tokens: str,
    max_steps: int,
    report_every_steps: int,
) -> None:
    """Train until the scheduler stops the trial or its budget ends.

    Args:
        sampled: Dotted key to value.
        base: The study's recipe, as plain values.
        locations: Encoder REF to folder, resolved by the driver.
        tokens: Folder in which the study's trials keep token ids for each other.
        max_steps: The full budget.
        report_every_steps: Cadence of reports.
    """
    import torch
    from ray import tune

    from training.assembly import assemble, evaluate, loop_arguments, torch_engine
    from training.checkpoint import Checkpoint, Progress, write_manifest
    from training.hardware import decide
    from training.kept_tokens import Keeper
    from training.loop import StepReport, every, train
    from training.probe import probe_cpu
    from training.workload import limits_of

    began = time.perf_counter()
    recipe = trial_recipe(parse(FinetuneConfig, base, where="study"), sampled)
    torch.set_num_threads(max(1, int(recipe.workers.cpus_each)))
    decisions = decide(probe_cpu(), recipe)
    assembly = assemble(recipe, locations[recipe.encoder], attention=decisions.attention.value, keeper=Keeper(Path(tokens)))
    held = tune.get_checkpoint()
    checkpoint = Checkpoint.open(Path(held.path)) if held else None
    engine = torch_engine(assembly, recipe, decisions, device=torch.device("cpu"), checkpoint=checkpoint)
    progress = checkpoint.progress if checkpoint else Progress(0, 0)
    last = min(max_steps, assembly.steps)

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
            figures = {**metrics, "step": done, "steps": last, "train_loss": step.loss, "trial_seconds": time.perf_counter() - began}
            tune.report(figures, checkpoint=tune.Checkpoint.from_directory(str(folder)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

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
