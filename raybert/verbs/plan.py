"""``raybert plan``: what a training run would take, before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raybert.options import AsJson, ConfigFile, Overrides, show, warn

if TYPE_CHECKING:
    from training.estimate import Estimate
    from training.footprint import Footprint

app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"plan": app}

_PARTS = {
    "states": "parameters, optimiser",
    "gradients": "gradients",
    "activations": "activations",
    "logits": "logits",
    "communication": "communication",
    "tensors": "tensors in all",
    "resident": "held by the process",
    "host": "and of the node",
}


@app.command()
def plan(
    config: ConfigFile = None,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="Plan for workers with this GPU (t4, l4, a100-80gb, h100, …), which need not be here.", metavar="NAME"),
    ] = None,
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", help="GPUs of a node, with --gpu.", min=1)] = 8,
    peak_tflops: Annotated[
        float | None, typer.Option("--peak-tflops", help="TFLOPS of one worker, instead of a measured or known peak.", show_default=False)
    ] = None,
    share_of_peak: Annotated[
        float | None,
        typer.Option("--share-of-peak", help="Of it that the run reaches. Default: 0.8 on CPUs, 0.4 on GPUs.", show_default=False),
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory", help="GB for each worker. Default: this machine's, or the GPU's.", show_default=False)
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", help="Of an hour of a GPU (of a worker without), in any currency.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe of pretrain or finetune would take: memory of each ZeRO stage, micro-batches, time, cost. Starts nothing.

    Example: raybert plan -c configs/pretrain_texts_8xa100.yaml data=build/texts --gpu a100-80gb --price 2.50
    """
    from foundation.config import parse, read_tree
    from foundation.errors import ConfigError
    from training.config import FinetuneConfig, PretrainConfig, RunConfig
    from training.costing import Given, cost

    for name, value in {"--peak-tflops": peak_tflops, "--share-of-peak": share_of_peak, "--memory": memory, "--price": price}.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: found {value:g}, expected a number above 0")
    if share_of_peak is not None and share_of_peak > 1:
        raise ConfigError(f"--share-of-peak: found {share_of_peak:g}, expected a share of at most 1")
    tree = read_tree(config, overrides or [])
    if "data" not in tree:
        raise ConfigError("plan: no data in the recipe; give a recipe of pretrain or finetune with -c, or data=FOLDER or data.train=FILE")
    is_finetuning = isinstance(tree["data"], Mapping)
    kind: type[RunConfig] = FinetuneConfig if is_finetuning else PretrainConfig
    recipe = parse(kind, tree, where=str(config) if config is not None else "command line")
    planned, found = cost(
        "finetune" if is_finetuning else "pretrain",
        recipe,
        Given(gpu=gpu, gpus_per_node=gpus_per_node, peak_tflops=peak_tflops, share=share_of_peak, memory_gb=memory, price=price),
    )
    warn(planned.findings)
    result = {"verb": planned.verb, "workers": recipe.workers.most, "stage_in_recipe": recipe.stage, **found.as_json()}
    show(result, _text(planned.verb, recipe, found), as_json=as_json)


def _text(verb: str, recipe: Any, found: Estimate) -> str:
    from foundation.progress import duration, size

    workers, on_gpus = recipe.workers.most, recipe.workers.gpus_each > 0
    many = f"{workers} workers" if workers > 1 else "1 worker"
    each = f" with {recipe.workers.gpus_each:g} GPU(s) each" if on_gpus else f" with {recipe.workers.cpus_each:g} CPU(s) each"
    steps = f"{found.steps:,} of {recipe.rows_per_step:,} rows, {found.tokens_per_step:,} tokens"
    speed = f"{100 * found.pace.share:.0f} % of {found.pace.peak / 1e12:.3g} TFLOPS a worker ({found.pace.source})"
    lines = [
        f"{verb}: {found.parameters / 1e6:,.1f} M parameters on {many}{each}",
        f"  {'data':<14}{found.rows:,} rows",
        f"  {'steps':<14}{steps}; {_count(found.tokens)} tokens in all",
        f"  {'micro-batches':<14}{found.microbatches} a worker and step, of {found.microbatch_tokens:,} tokens at most",
        f"  {'computation':<14}{_flops(found.flops_per_step)} a step, {_flops(found.flops)} in all",
        f"  {'time':<14}{duration(found.seconds)} at {speed}",
    ]
    if on_gpus and found.microbatch_growth > 1:
        more = found.microbatch_growth * recipe.tokens_per_microbatch
        lines.insert(4, f"  {'':<14}tokens_per_microbatch={more} would fit too, in fewer and larger ones")
    if found.cost is not None:
        lines.append(f"  {'cost':<14}{found.cost:,.2f} at {found.price:,.2f} an hour of a {'GPU' if on_gpus else 'worker'}")
    lines += ["", *_table(found.memory, found.stage.value), ""]
    if not on_gpus and verb == "finetune":
        lines.append("  rows of unlike lengths leave holes in a CPU's memory: up to four times the tensors were held after an hour")
    lines.append(f"  {'memory':<14}{size(found.room.bytes)} for a worker ({found.room.source})")
    use = {"torch": "engine torch", "none": "nothing"}.get(found.stage.value, f"ZeRO {found.stage.value}")
    lines.append(f"  {'recommended':<14}{use}: {found.stage.reason}")
    if recipe.stage is not None and found.stage.value not in (str(recipe.stage), "none"):
        key = "engine" if found.stage.value == "torch" else "zero_stage"
        lines.append(f"  {'':<14}the recipe has ZeRO {recipe.stage}; set sharding.{key}={found.stage.value}")
    return "\n".join(lines)


def _table(memory: Mapping[str, Footprint], best: str) -> list[str]:
    """Bytes of one worker by part (rows) and stage (columns)."""
    from foundation.progress import size

    names = {stage: "torch" if stage == "torch" else f"ZeRO {stage}" for stage in memory}
    heads = "".join(f"{name + (' *' if stage == best else ''):>12}" for stage, name in names.items())
    parts = [part for part in _PARTS if part != "host" or any(found.host for found in memory.values())]
    rows = [f"  {_PARTS[part]:<22}" + "".join(f"{size(getattr(found, part)):>12}" for found in memory.values()) for part in parts]
    return [f"  {'memory of a worker':<22}{heads}", *rows]


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,.0f}"


def _flops(number: float) -> str:
    for unit, scale in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number / 1e6:,.1f} MFLOP"
