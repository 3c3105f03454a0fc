"""``raybert serve``: the served classifier."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from foundation.config import load
from foundation.errors import ServiceError
from raybert.options import Address, AsJson, ConfigFile, DryRun, Overrides, show, show_plan

app = typer.Typer(help="Start, look at and stop a served classifier.", no_args_is_help=True, rich_markup_mode=None)
COMMANDS = {"serve": app}

Name = Annotated[str, typer.Argument(help="The service's name.")]


@app.command()
def up(
    config: ConfigFile = None,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Serve a classifier over HTTP; the command returns when it answers, and the service lives on.

    Example: raybert serve up model=reviews@champion port=8000
    """
    from serving.config import ServiceConfig

    recipe = load(ServiceConfig, config, overrides or [])
    from serving import service

    if dry_run:
        planned = service.plan(recipe, address=address)
        bundle = planned.model.bundle
        show_plan(
            {
                "config": recipe.model_dump(mode="json"),
                "model": {"path": planned.model.location, "digest": bundle.digest if bundle else None},
                "cluster": planned.cluster,
                "autoscaling": planned.autoscaling,
                "url": recipe.url,
            },
            as_json=as_json,
        )
        return
    started = service.up(recipe, address=address)
    text = f"serving {started.model} at {started.url}\n  try it:  {started.curl}\n  stop it: raybert serve down {started.name}"
    show(started.model_dump() | {"curl": started.curl, "stop": f"raybert serve down {started.name}"}, text, as_json=as_json)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="One service. Default: all.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show the services that were started from this home. Exit code 1 when one of them does not answer.

    Example: raybert serve status --json
    """
    from serving import service

    found = service.status(name)
    if name is not None and not found:
        raise ServiceError(f"{name}: no such service was started from this home; `raybert serve status` lists them")
    rows: list[dict[str, Any]] = [asdict(item) | {"service": item.service.model_dump()} for item in found]
    lines = [
        f"{item.service.name:<16} {item.status:<10} {item.service.url:<28} {item.model or item.service.model}/{item.version or '–'}  "
        f"{', '.join(f'{count} {state}' for state, count in item.replicas.items()) or 'no replica'}  {item.message}".rstrip()
        for item in found
    ]
    show({"services": rows}, "\n".join(lines) or "no service was started from this home; `raybert serve up` starts one", as_json=as_json)
    if any(item.status != "ready" for item in found):
        raise typer.Exit(1)


@app.command()
def down(name: Name = "classifier", dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Stop a service: requests in progress are finished, its port and its own cluster are released.

    Example: raybert serve down
    """
    from serving import service, state

    if dry_run:
        known = state.find(name)
        show_plan({"stop": name, "recorded": known.model_dump() if known else None}, as_json=as_json)
        return
    stopped = service.down(name)
    show({"stopped": stopped.name, "url": stopped.url}, f"{stopped.name} is down; {stopped.url} is free", as_json=as_json)
