"""``raybert doctor``: what stands in the way on this machine, and what to do about it."""

from __future__ import annotations

import json

import typer

from raybert.options import AsJson

app = typer.Typer(rich_markup_mode=None)
COMMANDS = {"doctor": app}

_STYLES = {"ok": "green", "warning": "yellow", "blocker": "bold red"}


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check Python, versions, torch, DeepSpeed, memory, ports, Ray, MLflow, disk and GPUs; changes nothing. Exit code 1 on a blocker.

    Example: raybert doctor --json
    """
    from cluster.measurements import examine
    from cluster.preflight import failed

    findings = examine(_ports_of_services())
    if as_json:
        healthy = not failed(findings)
        print(json.dumps({"healthy": healthy, "findings": [finding.as_json() for finding in findings]}, ensure_ascii=False), flush=True)
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("check", "status", "found", "remedy"):
            table.add_column(heading, overflow="fold")
        for item in findings:
            table.add_row(item.name, f"[{_STYLES[item.status]}]{item.status}[/]", _plain(item.found), _plain(item.remedy))
        Console().print(table)
    if failed(findings):
        raise typer.Exit(1)


def _ports_of_services() -> dict[int, str]:
    import httpx

    from serving.state import recorded

    return {httpx.URL(state.url).port or 80: "a recorded service" for state in recorded()}


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
