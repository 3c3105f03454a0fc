"""Gangs of gloo processes on loopback that train a tiny model, without Ray: for contracts between engines.

``run_gangs`` starts one launcher, which imports torch and DeepSpeed once and forks the ranks of one gang after the other; a gang runs its
tasks one after the other in one process group. ``run_task`` is one training run, also without any gang (the plain engine).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.plain_deepspeed import run_plain

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("good", "bad", "movie", "awful", "great", "this", "is")
Task = dict[str, Any]
"""``verb``, ``encoder`` (folder), ``recipe``, ``steps``; perhaps ``total_steps`` (of the schedule), ``start_from`` and ``save_to``
(checkpoint folders), ``poisoned`` and ``scratch`` (a step whose gradient is spoilt on the last rank, and where states are kept to be
compared), ``poison`` (``gradient``: not finite, with a loss that tells nothing of it; ``loss``: huge, with a loss that is not finite),
``loss_scale`` (factor and finite steps). A recipe whose data is not there trains on sixty generated texts. With the verb
``plain_deepspeed``: what ``run_plain`` takes."""


def run_gangs(gangs: Mapping[int, Mapping[str, Task]], folder: Path, *, timeout_s: float = 240) -> dict[str, dict[str, Any]]:
    """Run named tasks on gangs of the given world sizes; returns each task's figures, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gangs.json").write_text(json.dumps(list(gangs.items())))
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "tests.support.gang", str(folder)]
        # In a session of its own, so that a rank that hangs can be ended with its launcher.
        launcher = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        code = launcher.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        code = -1
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, 9)
            launcher.wait()
    if code:
        raise AssertionError(f"gang ended with {code}\n{(folder / 'log').read_text()[-6000:]}")
    return {name: json.loads((folder / f"{name}.json").read_text()) for tasks in gangs.values() for name in tasks}


def run_task(task: Task, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Train; returns ``losses``, ``norms``, ``is_applied`` (one each a step), ``applied`` (steps), ``metrics``, ``kept``, ``consumed`` (a
    digest of each applied step's documents, masks and labels, over all ranks), ``unlike`` (micro-batches in which some ranks have one token
    asked for in each document and others have not), ``groups`` (what the optimiser's groups are set to), ``parameters`` and ``held_bytes``
    (when the last step's gradient is there, of the rank that holds most).

    ``kept`` tells whether a poisoned step left this rank's parameters and optimiser state as they were; true without one.
    """
    import torch

    from training.assembly import evaluate, loop_arguments
    from training.checkpoint import Checkpoint, Progress, write_manifest
    from training.deepspeed_json import deepspeed_config
    from training.engine import TorchEngine
    from training.hardware import Hardware, decide
    from training.loop import train
    from training.loss_scale import LossScale
    from training.preparation import prepare
    from training.ranks import gathered
    from training.workload import limits_of

    recipe, model, objective = parts(task)
    checkpoint = Checkpoint.open(Path(task["start_from"])) if task.get("start_from") else None
    decisions = decide(Hardware(), recipe)
    prepare(model, recipe, decisions)
    scale = LossScale(*task["loss_scale"]) if "loss_scale" in task else None
    options: Any = {"checkpoint": checkpoint, "precision": decisions.precision.value, "loss_scale": scale}
    engine: Any
    if recipe.engine == "torch":
        engine = TorchEngine(model, objective, recipe.optimiser, **options)
    else:
        from training.zero import DeepSpeedEngine

        rendered = deepspeed_config(recipe, decisions)
        engine = DeepSpeedEngine(model, objective, recipe.optimiser, rendered, device=torch.device("cpu"), **options)
    start = checkpoint.progress if checkpoint else Progress(0, 0)
    scratch = Path(task["scratch"]) if "scratch" in task else None
    watched = _Poisoned(engine, start.step, task.get("poisoned"), task.get("poison", "gradient"), scratch)
    reports = list(
        train(
            watched,
            objective,
            steps=task["steps"],
            start_step=start.step,
            optimiser_steps=start.optimiser_steps,
            memory=start.guard,
            **loop_arguments(recipe, task.get("total_steps", task["steps"]), "runs"),
        )
    )
    metrics = evaluate(engine, objective, limits_of(recipe, "runs")) if task.get("evaluates", True) else {}
    applied = reports[-1].optimiser_steps
    if task.get("save_to"):
        folder = Path(task["save_to"])
        files = {name: entry for entries in gathered(engine.save(folder), world_size) for name, entry in entries.items()}
        if rank == 0:
            write_manifest(folder, Progress(task["steps"], applied, guard=reports[-1].memory), files, engine.shapes(), {"test": True})
    return {
        "losses": [report.loss for report in reports],
        "norms": [report.grad_norm for report in reports],
        "is_applied": [report.is_applied for report in reports],
        "applied": applied,
        "metrics": metrics,
        "kept": engine.total([float(watched.kept)])[0] == world_size,
        "consumed": _over_ranks(watched.consumed, world_size),
        "unlike": sum(len(set(found)) > 1 for found in zip(*gathered(watched.alone, world_size), strict=True)),
        "groups": sorted([group[key] for key in ("weight_decay", "multiplier", "lr")] for group in engine._optimiser.param_groups),
        "loss_scale": engine.loss_scale and [engine.loss_scale.factor, engine.loss_scale.finite_steps],
        "parameters": sum(math.prod(shape) for shape in engine.shapes().values()),
        "held_bytes": max(gathered(watched.held_bytes, world_size)),
    }


def held_bytes(engine: Any) -> int:
    """Of one rank, of parameters, their gradients, ZeRO's fp32 partition and what the optimiser keeps, each storage once."""
    zero, found = getattr(engine, "_zero", None), []
    for parameter in engine._parameters.values() if zero else engine.model.parameters():
        found += [getattr(parameter, "ds_tensor", parameter), parameter.grad]
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        found += getattr(zero, name, [])
    for name in ("averaged_gradients", "all_grad_tensors"):
        found += [tensor for group in getattr(zero, name, {}).values() for tensor in group or ()]
    found.append(getattr(zero, "grad_partitions_flat_buffer", None))
    found += [tensor for state in engine._optimiser.state.values() for tensor in state.values()]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found if tensor is not None and tensor.ndim
    }
    return sum(storages.values())


def _over_ranks(consumed: list[list[str]], world_size: int) -> list[str]:
    """A digest a step, whichever rank had which document."""
    from training.ranks import gathered

    steps = zip(*gathered(consumed, world_size), strict=True)
    return [hashlib.sha256("".join(sorted(found for part in parts for found in part)).encode()).hexdigest() for parts in steps]


def digests(batch: Any) -> list[str]:
    """One for each document of a micro-batch: of its tokens, and of what is asked of which of them."""
    import torch

    documents = batch["documents"]
    labels_N = torch.full((len(documents.ids_N),), -1.0, dtype=torch.float64)
    # With next-sentence prediction, first tokens are asked for besides the masked ones.
    places_M = documents.asked_K[batch["masked"]] if "masked" in batch else documents.asked_K
    labels_N[places_M] = batch["labels"].double()
    lengths = [int(length) for length in documents.layout.lengths]
    pieces = zip(documents.ids_N.split(lengths), labels_N.split(lengths), strict=True)
    return [hashlib.sha256(ids.numpy().tobytes() + labels.numpy().tobytes()).hexdigest() for ids, labels in pieces]


class _Poisoned:
    """An engine of which one step's gradient is spoilt on the last rank; it notes what each applied step consumed."""

    def __init__(self, engine: Any, start: int, step: int | None, poison: str, scratch: Path | None) -> None:
        self._engine, self._now, self._step, self._poison, self._scratch = engine, start, step, poison, scratch
        self.rank, self.world_size = engine.rank, engine.world_size
        self.total, self.kept = engine.total, True
        self.consumed: list[list[str]] = []
        self._batches: list[str] = []
        self.held_bytes = 0
        self.alone: list[bool] = []

    def accumulate(self, batch: Any, *, scale: float) -> float:
        self.alone.append(batch["documents"].layout.alone is not None)
        self._batches += digests(batch)
        if self._now != self._step or self.rank != self.world_size - 1:
            loss: float = self._engine.accumulate(batch, scale=scale)
            return loss
        is_silent = self._poison == "gradient"
        self._engine.accumulate(batch, scale=float("inf") if is_silent else 1e6 * scale)
        return 0.0 if is_silent else float("nan")

    def apply(self, *, learning_rate: float) -> Any:
        self.held_bytes = held_bytes(self._engine)  # gradients are there, and from the second step on moments too
        return self._watched(partial(self._engine.apply, learning_rate=learning_rate))

    def discard(self) -> None:
        self._watched(self._engine.discard)

    def _watched(self, act: Callable[[], Any]) -> Any:
        if self._now != self._step:
            found = act()
        else:
            before = self._saved("before")
            found = act()
            after = self._saved("after")
            self.kept = before.keys() == after.keys() and all(bool((before[name] == after[name]).all()) for name in before)
        self._now += 1
        if found is not None and found.is_applied:
            self.consumed.append(self._batches)
        self._batches = []
        return found

    def _saved(self, name: str) -> dict[str, Any]:
        """What this rank would put in a checkpoint now."""
        from safetensors.torch import load_file

        assert self._scratch is not None
        (file,) = self._engine.save(self._scratch / name)
        return load_file(self._scratch / name / file)


def parts(task: Task) -> tuple[Any, Any, Any]:
    """Recipe, model, objective."""
    import numpy as np

    from corpus.labelled import LabelledSplit
    from encoder.loading import load_tokenizer, new_classifier
    from training.assembly import assemble, tokenised
    from training.config import FinetuneConfig, PretrainConfig
    from training.objectives import Supervised
    from training.optimisers import freeze
    from training.tasks import SingleLabel

    if task["verb"] == "finetune":
        recipe = FinetuneConfig.model_validate(task["recipe"])
        if Path(recipe.data.train).exists():
            assembly = assemble(recipe, task["encoder"])
            return recipe, assembly.model, assembly.objective
        model = new_classifier(task["encoder"], ["negative", "positive"], seed=recipe.seed, dropout=0.0)
        freeze(model, recipe.freeze)
        tokenizer = load_tokenizer(task["encoder"])
        random = np.random.default_rng(0)
        texts = [" ".join(random.choice(WORDS, random.integers(2, 20))) for _ in range(60)]
        split = LabelledSplit(texts, np.array([int("good" in text) for text in texts]), [str(index) for index in range(60)])
        ids, _ = tokenised(tokenizer, split, 32)
        labels = SingleLabel(np.ones(2, dtype=np.float32))
        return recipe, model, Supervised(ids, split.labels, split.ids, task=labels, attention="runs")
    recipe = PretrainConfig.model_validate(task["recipe"])
    assembly = assemble(recipe, task["encoder"])
    return recipe, assembly.model, assembly.objective


def _rank(rank: int, world_size: int, tasks: Mapping[str, Task], folder: Path) -> None:
    import torch

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous-{world_size}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    for name, task in tasks.items():
        found = run_plain(task, rank, world_size) if task["verb"] == "plain_deepspeed" else run_task(task, rank, world_size)
        if rank == 0:
            (folder / f"{name}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(folder: Path) -> int:
    """The launcher: fork each gang's ranks, wait for them, give up at the first that fails."""
    import transformers  # noqa: F401

    from training.zero import lean_deepspeed

    lean_deepspeed()  # once, before the fork
    for world_size, tasks in json.loads((folder / "gangs.json").read_text()):
        ranks = set()
        for rank in range(world_size):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    _rank(rank, world_size, tasks, folder)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            ranks.add(child)
        while ranks:
            ended, status = os.wait()
            ranks.discard(ended)
            if status:
                for other in ranks:
                    os.kill(other, 9)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
