"""``raybert cluster``: local clusters, real Ray nodes on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from foundation.config import load
from foundation.errors import ClusterError
from raybert.options import AsJson, ConfigFile, DryRun, Overrides, show, show_plan

app = typer.Typer(help="Start, look at and stop a local cluster.", no_args_is_help=True, rich_markup_mode=None)
COMMANDS = {"cluster": app}

Nodes = Annotated[int | None, typer.Option("--nodes", help="Ray nodes; as nodes=N.", show_default=False)]
Cpus = Annotated[float | None, typer.Option("--cpus", help="Logical CPUs of each node; as cpus_per_node=N.", show_default=False)]
Name = Annotated[str, typer.Argument(help="The cluster's name.")]


@app.command()
def up(
    config: ConfigFile = None,
    overrides: Overrides = None,
    nodes: Nodes = None,
    cpus: Cpus = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Start Ray nodes, a dashboard and an MLflow server on loopback; the command returns when they answer, and they live on.

    Example: raybert cluster up --nodes 3
    """
    from cluster.config import LocalClusterSpec

    given = {"nodes": nodes, "cpus_per_node": cpus}
    options = [f"{key}={value}" for key, value in given.items() if value is not None]
    spec = load(LocalClusterSpec, config, [*(overrides or []), *options])
    from cluster import local

    if dry_run:
        planned = local.plan(spec)
        resolved = spec.model_dump(mode="json") | {"cpus_per_node": planned.cpus_per_node}
        show_plan({"config": resolved, "dashboard_url": planned.dashboard_url, "tracking_uri": planned.tracking_uri}, as_json=as_json)
        return
    from foundation.progress import say

    say(f"starting {spec.nodes} Ray node(s) on this machine")
    state = local.up(spec)
    lines = [
        f"cluster {state.name} is up: {state.nodes} node(s), {state.cpus_per_node:g} CPUs each, at {state.address}",
        f"  dashboard {state.dashboard_url} (its token is in {state.token_file})",
        f"  MLflow    {state.tracking_uri or 'none; runs are recorded in ' + str(state.log_file.parent.parent / 'mlflow.db')}",
        "  use it:   raybert jobs submit -- finetune -c RECIPE; verbs of this home find it by themselves",
        f"  stop it:  raybert cluster down {state.name}",
    ]
    show(state.model_dump(mode="json"), "\n".join(lines), as_json=as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the clusters that were started from this home, their nodes and the CPUs in use. Exit code 1 when one of them does not answer.

    Example: raybert cluster status --json
    """
    from cluster import state
    from cluster.usage import usage_of

    found = [(cluster, usage_of(cluster)) for cluster in state.recorded()]
    lines = [
        f"{cluster.name:<12} {now.status:<9} {now.nodes_alive}/{cluster.nodes} nodes  {now.cpus_used:g} of {now.cpus_total:g} CPUs in use  "
        f"{cluster.address}  {cluster.dashboard_url}  {now.message}".rstrip()
        for cluster, now in found
    ]
    text = "\n".join(lines) or "no cluster was started from this home; `raybert cluster up` starts one"
    show({"clusters": [cluster.model_dump(mode="json") | now.as_json() for cluster, now in found]}, text, as_json=as_json)
    if any(now.status in ("gone", "ill") for _, now in found):
        raise typer.Exit(1)


@app.command()
def down(name: Name = "local", dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """End a cluster with everything that runs on it; returns when its processes are gone and its ports are free.

    Example: raybert cluster down
    """
    from cluster import local, state

    if dry_run:
        known = state.find(name)
        show_plan({"stop": name, "recorded": known.model_dump(mode="json") if known else None}, as_json=as_json)
        return
    if not local.down(name):
        known_names = ", ".join(item.name for item in state.recorded()) or "none"
        raise ClusterError(f"{name}: no such cluster was started from this home; recorded: {known_names}")
    show({"stopped": name}, f"cluster {name} is down", as_json=as_json)
