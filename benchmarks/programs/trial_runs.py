"""Trials of ``tune_overhead`` without raybert's tuning: the same training, two at once, in plain processes or nested in Ray Tune.

Argument: JSON with ``mode``, ``recipe``, ``encoder`` (folder), ``rates``, ``steps``, ``every`` (steps between evaluations), ``folder``.

- ``plain``: this process trains its share of the rates one after the other, and imports once.
- ``nested``: as Ray's documentation shows it, a Tune trial that runs a ``TorchTrainer`` of one worker, which reports to Tune.

Prints the seconds from each trial's beginning to its first step.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def train_once(spec: Mapping[str, Any], rate: float, began: float, report: Callable[[Any, dict[str, float]], None]) -> float:
    """Train one trial.

    Args:
        spec: The program's argument.
        rate: Peak learning rate.
        began: Unix seconds at which the trial began.
        report: Takes the engine and its metrics, each few steps.

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
    recipe = with_values(FinetuneConfig.model_validate(spec["recipe"]), {"schedule.peak_lr": rate}, where="rate")
    decisions = decide(probe_cpu(), recipe)
    keeper = Keeper(Path(spec["folder"]) / "tokens")
    assembly = assemble(recipe, spec["encoder"], attention=decisions.attention.value, keeper=keeper)
    engine = torch_engine(assembly, recipe, decisions, device=torch.device("cpu"), checkpoint=None)

    def tell(_: StepReport) -> None:
        report(engine, evaluate(engine, assembly.validation, limits_of(recipe, assembly.attention)))

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
    return [train_once(spec, rate, time.time(), lambda engine, metrics: None) for rate in spec["rates"]]


def nested(spec: Mapping[str, Any]) -> list[float]:
    """Two at once, by Tune."""
    import ray
    from ray import train as ray_train
    from ray import tune
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    folder = Path(spec["folder"])

    def worker(given: dict[str, Any]) -> None:
        def report(engine: Any, metrics: dict[str, float]) -> None:
            import torch

            with tempfile.TemporaryDirectory() as held:
                torch.save(engine.model.state_dict(), Path(held) / "model.pt")
                ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(held))

        waited = train_once(spec, given["rate"], given["began"], report)
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


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps({"starts": (plain if asked["mode"] == "plain" else nested)(asked)}))
