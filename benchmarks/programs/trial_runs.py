"""Trials without raybert's tuning: the same training in plain processes, nested in Ray Tune, or searched by Optuna.

Argument: JSON with ``mode``, ``recipe``, ``encoder`` (folder), ``steps``, ``every`` (steps between evaluations), ``folder``.

- ``plain``: this process trains its share of ``rates`` one after the other, and imports once.
- ``nested``: as Ray's documentation shows it, a Tune trial for each of ``rates`` that runs a ``TorchTrainer`` of one worker, which reports
  to Tune.
- ``optuna``: this process is one of those that share an Optuna study, with TPE and successive halving, until the steps of ``study``'s
  budget are spent.

The first two print the seconds from each trial's beginning to its first step, the last one what the study found.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def train_once(
    spec: Mapping[str, Any], sampled: Mapping[str, Any], began: float, report: Callable[[Any, int, dict[str, float]], None]
) -> float:
    """Train one trial.

    Args:
        spec: The program's argument.
        sampled: Dotted key of the recipe to value.
        began: Unix seconds at which the trial began.
        report: Takes the engine, the steps done and its metrics, each few steps.

    Returns: Seconds until the first step.
    """
    import torch

    from foundation.config import with_values
    from training.assembly import assemble, evaluate, loop_arguments, torch_engine
    from training.config import FinetuneConfig
    from training.hardware import decide
    from training.kept_tokens import Keeper
    from training.loop import StepReport, every, train
    from training.probe import probe_cpu
    from training.workload import limits_of

    torch.set_num_threads(1)
    recipe = with_values(FinetuneConfig.model_validate(spec["recipe"]), sampled, where="sampled values")
    decisions = decide(probe_cpu(), recipe)
    keeper = Keeper(Path(spec["folder"]) / "tokens")
    assembly = assemble(recipe, spec["encoder"], attention=decisions.attention.value, keeper=keeper)
    engine = torch_engine(assembly, recipe, decisions, device=torch.device("cpu"), checkpoint=None)

    def tell(step: StepReport) -> None:
        report(engine, step.step + 1, evaluate(engine, assembly.validation, limits_of(recipe, assembly.attention)))

    steps = min(spec["steps"], assembly.steps)
    waited = time.time() - began
    hooks = [every(spec["every"], tell, last=steps)]
    for _ in train(
        engine,
        assembly.objective,
        steps=steps,
        hooks=hooks,
        order=assembly.order,
        **loop_arguments(recipe, assembly.steps, assembly.attention),
    ):
        pass
    return waited


def plain(spec: Mapping[str, Any]) -> list[float]:
    """One after the other."""
    return [train_once(spec, {"schedule.peak_lr": rate}, time.time(), lambda engine, step, metrics: None) for rate in spec["rates"]]


def nested(spec: Mapping[str, Any]) -> list[float]:
    """Two at once, by Tune."""
    import ray
    from ray import train as ray_train
    from ray import tune
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    folder = Path(spec["folder"])

    def worker(given: dict[str, Any]) -> None:
        def report(engine: Any, step: int, metrics: dict[str, float]) -> None:
            import torch

            with tempfile.TemporaryDirectory() as held:
                torch.save(engine.model.state_dict(), Path(held) / "model.pt")
                ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(held))

        waited = train_once(spec, {"schedule.peak_lr": given["rate"]}, given["began"], report)
        (folder / f"start-{given['rate']!r}").write_text(repr(waited), encoding="utf-8")

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            worker,
            train_loop_config={"rate": config["rate"], "began": time.time()},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ray_train.ScalingConfig(num_workers=1),
            run_config=ray_train.RunConfig(name=f"rate-{config['rate']!r}", storage_path=str(folder), callbacks=[TuneReportCallback()]),
        ).fit()

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    tune.Tuner(
        tune.with_resources(trial, {"CPU": 1}),
        param_space={"rate": tune.grid_search(spec["rates"])},
        tune_config=tune.TuneConfig(max_concurrent_trials=2),
        run_config=tune.RunConfig(name="nested", storage_path=str(folder), verbose=0),
    ).fit()
    ray.shutdown()
    return [float((folder / f"start-{rate!r}").read_text(encoding="utf-8")) for rate in spec["rates"]]


def optuna_search(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Until the steps are spent; they are counted as ours are, by the trials' last reports."""
    import optuna

    space, most = spec["study"]["space"], spec["study"]["budget"]["steps"]

    def reached(trial: Any) -> int:
        return max(trial.intermediate_values, default=0)

    def objective(trial: Any) -> float:
        sampled = {
            key: trial.suggest_float(key, it["low"], it["high"], log=True)
            if it["kind"] == "log_uniform"
            else trial.suggest_categorical(key, it["values"])
            for key, it in space.items()
        }
        scores = []

        def report(engine: Any, step: int, metrics: dict[str, float]) -> None:
            scores.append(metrics["accuracy"])
            trial.report(scores[-1], step)
            if sum(reached(other) for other in study.get_trials(deepcopy=False)) >= most:
                study.stop()
                raise optuna.TrialPruned
            if trial.should_prune():
                raise optuna.TrialPruned

        train_once(spec, sampled, time.time(), report)
        return max(scores)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        storage=f"sqlite:///{spec['folder']}/optuna.db",
        study_name="peer",
        sampler=optuna.samplers.TPESampler(seed=1000 * spec["seed"] + spec["worker"], n_startup_trials=spec["first_random"]),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=spec["every"], reduction_factor=spec["factor"]),
    )
    study.optimize(objective)
    trials = study.get_trials(deepcopy=False)
    told = [
        {
            "sampled": trial.params,
            "step": reached(trial),
            "score": max(trial.intermediate_values.values(), default=None),
            "state": trial.state.name,
        }
        for trial in trials
    ]
    return {"best": max(trial["score"] or 0.0 for trial in told), "steps": sum(trial["step"] for trial in told), "trials": told}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if asked["mode"] == "optuna":
        print(json.dumps(optuna_search(asked)))
    else:
        print(json.dumps({"starts": (plain if asked["mode"] == "plain" else nested)(asked)}))
