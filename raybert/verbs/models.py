"""``raybert models``: the registry. What goes to and comes from other programs' folders stands in ``model_files.py``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundation.errors import ConfigError, RegistryError
from foundation.progress import say, size
from raybert.options import AsJson, DryRun, show, show_plan
from raybert.verbs.model_files import export_model, import_model

if TYPE_CHECKING:
    from foundation.champions import Move
    from foundation.differences import Differences, Side
    from foundation.registry import Registry
    from foundation.versions import Version

app = typer.Typer(help="List, compare, import, promote, roll back, export and remove models.", no_args_is_help=True, rich_markup_mode=None)
COMMANDS = {"models": app}

Ref = Annotated[str, typer.Argument(help="NAME@alias or NAME/version.")]
BundleRef = Annotated[str, typer.Argument(help="NAME@alias, NAME/version or a bundle folder.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with who and when.", show_default=False)]

app.command("export")(export_model)
app.command("import")(import_model)


@app.command("list")
def list_models(
    data: Annotated[
        str, typer.Option("--data", help="Only versions trained on data whose fingerprint begins so.", show_default=False)
    ] = "",
    run: Annotated[str, typer.Option("--run", help="Only versions that this run trained.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """List registered models with their champions; with --data or --run, the versions that came from there.

    Example: raybert models list --json

    Which models know this data: raybert models list --data 3fb2a9c1
    """
    from foundation.registry import Registry

    registry = Registry()
    if data or run:
        versions = registry.find(data=data or None, run=run or None)
        lines = [_line(item) for item in versions]
        show({"versions": [item.as_json() for item in versions]}, "\n".join(lines) or "no version came from there", as_json=as_json)
        return
    found = [{"name": name, "champion": registry.champion(name), "versions": len(registry.versions(name))} for name in registry.names()]
    lines = [f"{item['name']:<24} champion {item['champion'] or '–':<6} {item['versions']} versions" for item in found]
    show({"models": found}, "\n".join(lines) or "no models registered; `raybert finetune` registers one", as_json=as_json)


@app.command("show")
def show_model(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@alias, NAME/version or a bundle folder.")],
    as_json: AsJson = False,
) -> None:
    """Show a model's versions and how its champion moved, or one version: figures, gates, where it came from and where it is served.

    Example: raybert models show reviews

    Example: raybert models show reviews@champion
    """
    from foundation.references import resolve
    from foundation.registry import Registry

    if "/" not in ref and "@" not in ref and not Path(ref).is_dir():
        registry = Registry()
        versions, history = registry.versions(ref), registry.history(ref)
        lines = [*map(_line, versions), *(["", "moves"] if history else []), *map(_told, history)]
        result: dict[str, Any] = {"name": ref, "versions": [item.as_json() for item in versions]}
        show(result | {"history": [move.model_dump() for move in history]}, "\n".join(lines), as_json=as_json)
        return
    resolved = resolve(ref)
    if resolved.bundle is None:
        raise RegistryError(f"{ref}: not a bundle; `models show` takes NAME, NAME@alias, NAME/version or a bundle folder")
    manifest, version = resolved.bundle.manifest, resolved.version
    served = [f"{name} at {url}" for name, url, ref in _services() if ref == version.ref] if version else []
    study = Registry().study_of(version) if version else None
    result = {
        "ref": version.ref if version else ref,
        "path": resolved.location,
        "version": version.as_json() if version else None,
        "study": study,
        "served_by": served,
        "manifest": manifest.model_dump(mode="json"),
    }
    gates = [
        f"{gate.metric} {gate.found:.4f} (wanted {gate.wanted:.4f}): {'passed' if gate.passed else 'FAILED'}" for gate in manifest.gates
    ]
    measured = [
        f"{', '.join(f'{name} {value:.4f}' for name, value in item.metrics.items())} on {item.rows:,} {item.split} rows of {item.data[:12]}"
        for item in (version.evaluations if version else ())
    ]
    lines = [
        f"{result['ref']}  {' '.join(version.aliases) if version else ''}".rstrip(),
        f"  task      {manifest.task}: {', '.join(manifest.labels)}",
        f"  metrics   {', '.join(f'{name} {value:.4f}' for name, value in manifest.metrics.items()) or 'none'}",
        f"  gates     {'; '.join(gates) or 'none checked'}",
        *(f"  measured  {item}" for item in measured),
        f"  run       {manifest.run_id} at {manifest.created}, git {manifest.git_revision or 'unknown'}",
        *([f"  study     {study}"] if study else []),
        f"  data      {manifest.data_fingerprint}",
        *(f"  served    {item}" for item in served),
        f"  files     {resolved.location}",
    ]
    show(result, "\n".join(lines), as_json=as_json)


@app.command()
def diff(
    one: Annotated[str, typer.Argument(help="NAME@alias, NAME/version or a bundle folder.", metavar="REF")],
    other: Annotated[str, typer.Argument(help="The model to compare it with.", metavar="REF")],
    as_json: AsJson = False,
) -> None:
    """Compare two models: figures on the same rows, labels, size, data, recipe and software. What is the same is left out.

    Example: raybert models diff reviews@champion reviews/3
    """
    from foundation.differences import differences
    from foundation.registry import Registry

    registry = Registry()
    found = differences(_side(one, registry), _side(other, registry))
    show(asdict(found), _table(found), as_json=as_json)


@app.command()
def promote(
    ref: Ref,
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Promote although its evidence does not suffice; needs --reason.")] = False,
    alias: Annotated[str, typer.Option("--as", help="champion, or challenger: to stand beside the champion.")] = "champion",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion; running services follow it. Exit code 3 when its evidence does not suffice.

    Its gates have to have passed, and where the champion was evaluated, it has to have been evaluated on the same rows.

    Example: raybert models promote reviews/2 --reason "better on rare labels"

    Example: raybert models promote reviews/3 --as challenger
    """
    from foundation.champions import CHALLENGER, CHAMPION
    from foundation.references import resolve
    from foundation.registry import Registry

    if alias not in (CHAMPION, CHALLENGER):
        raise ConfigError(f"--as: found {alias!r}, expected {CHAMPION} or {CHALLENGER}")
    if force and alias == CHALLENGER:
        raise ConfigError("--force: a challenger needs no evidence; leave it out")
    registry = Registry()
    version = resolve(ref, registry).version
    if version is None:
        raise RegistryError(f"{ref}: only a registered version can be promoted; give NAME/version or NAME@alias")
    champion = registry.champion(version.name)
    if dry_run:
        objections = registry.objections(version) if alias == CHAMPION else ()
        plan = {"promote": version.ref, "as": alias, "champion_now": champion, "force": force, "objections": list(objections)}
        show_plan(plan, as_json=as_json)
        return
    if alias == CHALLENGER:
        move = registry.challenge(version.name, version.version, reason=reason)
    else:
        move = registry.promote(version.name, version.version, reason=reason, force=force, expected=champion)
    if move.worse:
        say(f"warning: {version.ref} is worse than the champion before in {', '.join(move.worse)}")
    told = f"{version.ref} is {alias} ({'was' if alias == CHAMPION else 'champion'}: {f'version {champion}' if champion else 'none'})"
    show(_moved(move, registry, version.name), "\n".join([told, *_compared(move)]), as_json=as_json)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Registered model.")],
    reason: Reason = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make the previous champion the champion again.

    Example: raybert models rollback reviews --reason "more complaints since noon"
    """
    from foundation.champions import PREVIOUS
    from foundation.registry import Registry

    registry = Registry()
    if dry_run:
        show_plan({"roll_back_to": registry.at(name, PREVIOUS).ref, "champion_now": registry.champion(name)}, as_json=as_json)
        return
    move = registry.rollback(name, reason=reason)
    show(_moved(move, registry, name), f"{name}/{move.version} is champion again (was: version {move.before})", as_json=as_json)


@app.command()
def verify(ref: BundleRef, as_json: AsJson = False) -> None:
    """Check every file of a bundle against its hashes. Exit code 2 names the first file that is wrong.

    Example: raybert models verify reviews@champion
    """
    from foundation.references import resolve

    resolved = resolve(ref)
    if resolved.bundle is None:
        found = "not a bundle; it has no raybert.json" if Path(resolved.location).is_dir() else "no such folder or model"
        raise RegistryError(f"{ref}: {found}; give NAME@alias, NAME/version or a bundle's folder")
    count = len(resolved.bundle.manifest.files)
    show(
        {"ref": ref, "files": count, "digest": resolved.bundle.digest, "valid": True},
        f"{ref}: {count} files verified",
        as_json=as_json,
    )


@app.command()
def prune(
    names: Annotated[
        list[str] | None, typer.Argument(help="Registered models. Default: all.", metavar="[NAME]...", show_default=False)
    ] = None,
    keep: Annotated[int, typer.Option("--keep", min=0, help="So many of the newest versions stay, whatever they are.")] = 5,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove old versions and their files. Never what an alias names, a service answers with, or a run of this home goes on from.

    Example: raybert models prune reviews --keep 3 --dry-run
    """
    from foundation.registry import Registry
    from foundation.version_pruning import choose

    registry = Registry()
    models = [registry.versions(name) for name in names or registry.names()]
    referred = _referred([version for versions in models for version in versions])
    choices = [choose(versions, keep=keep, referred=referred) for versions in models]
    stays = [{"ref": item.version.ref, "reason": item.reason} for choice in choices for item in choice.stay]
    gone, lines, freed = [], [], 0
    for version in (version for choice in choices for version in choice.go):
        stored = registry.bytes_of(version)
        try:
            problem = None if dry_run else registry.remove(version)
        except RegistryError as error:  # an alias came to name it meanwhile
            stays.append({"ref": version.ref, "reason": str(error)})
            continue
        gone.append({"ref": version.ref, "bytes": 0 if problem else stored, "problem": problem})
        freed += 0 if problem else stored
        lines.append(f"{version.ref:<24} {version.created}  {size(stored):>10}{f'  files stay: {problem}' if problem else ''}")
    lines += [f"{item['ref']:<24} stays: {item['reason']}" for item in stays] if names else []
    lines.append(f"{'would remove' if dry_run else 'removed'} {len(gone)} versions, {size(freed)}; {len(stays)} stay")
    show({"removed": gone, "stay": stays, "bytes": freed, "dry_run": dry_run}, "\n".join(lines), as_json=as_json)


def _line(version: Version) -> str:
    return f"{version.ref:<24} {version.created}  {' '.join(version.aliases)}".rstrip()


def _told(move: Move) -> str:
    forced = f"  FORCED although {'; '.join(move.objections)}" if move.forced else ""
    before = f" (was {move.before})" if move.action != "challenge" and move.before is not None else ""
    return f"{move.number:>4}  {move.at}  {move.by:<20} {move.action} {move.version}{before}{f'  {move.why}' if move.why else ''}{forced}"


def _moved(move: Move, registry: Registry, name: str) -> dict[str, Any]:
    return registry.version(name, move.version).as_json() | {"move": move.model_dump()}


def _compared(move: Move) -> list[str]:
    if not move.compared:
        return []
    head = [f"on the same {move.split} rows of {(move.data or '')[:12]}, version {move.version} and version {move.before}"]
    return head + [f"  {name:<24} {own:.4f}  {other:.4f}" for name, (own, other) in move.compared.items()]


def _side(ref: str, registry: Registry) -> Side:
    from foundation.differences import Side
    from foundation.references import resolve

    resolved = resolve(ref, registry)
    if resolved.bundle is None:
        raise RegistryError(f"{ref}: not a bundle; give NAME@alias, NAME/version or a bundle folder")
    version = resolved.version
    if version is None:
        return Side(ref, resolved.bundle)
    return Side(version.ref, resolved.bundle, version.evaluations, registry.recipe_of(version))


def _table(found: Differences) -> str:
    lines = [f"{'':<32} {found.refs[0]:>20} {found.refs[1]:>20}"]

    def row(name: str, pair: tuple[Any, Any]) -> None:
        one, other = (f"{value:.4f}" if isinstance(value, float) else "–" if value is None else str(value) for value in pair)
        lines.append(f"{name:<32} {one:>20} {other:>20}" if max(len(one), len(other)) <= 20 else f"{name:<32} {one} → {other}")

    for rows in found.same_rows:
        lines.append(f"on the same {rows['rows']:,} {rows['split']} rows of {rows['data'][:12]}")
        for name, pair in rows["metrics"].items():
            row(f"  {name}", pair)
    lines.append("as training found them, each on its own held-out rows")
    for name, pair in found.training_metrics.items():
        row(f"  {name}", pair)
    row("size", (size(found.bytes[0]), size(found.bytes[1])))
    if found.labels_added or found.labels_removed:
        lines.append(f"labels added: {', '.join(found.labels_added) or 'none'}; removed: {', '.join(found.labels_removed) or 'none'}")
    for title, part in (("", found.manifest), ("recipe", found.recipe), ("software", found.software)):
        for name, pair in part.items():
            row(f"{title} {name}".strip(), pair)
    if found.same_files:
        lines.append("all files are the same")
    return "\n".join(lines)


def _services() -> list[tuple[str, str, str]]:
    """Name, URL and ``MODEL/version`` of the services of this home that answer."""
    from foundation.errors import ServiceError
    from serving.client import Client
    from serving.state import recorded

    found = []
    for service in recorded():
        with suppress(ServiceError), Client(service.url, timeout_s=2.0) as client:
            found += [(service.name, service.url, f"{card.model}/{card.version}") for card in client.models()]
    return found


def _referred(versions: list[Version]) -> dict[str, str]:
    """``NAME/version`` to what of this home needs it: a service, or a run or study that can be gone on with."""
    from foundation.artifacts import folder_of
    from foundation.driving import RESUMABLE
    from training.runs import all_runs
    from tuning.studies import all_studies

    found = {ref: f"service {service} answers with it" for service, _, ref in _services()}
    going_on = (*RESUMABLE, "running")
    needs = {f"run {run.run_id}": {run.plan["recipe"].get("encoder"), run.plan["location"]} for run in all_runs() if run.state in going_on}
    for study in all_studies():
        if study.state in going_on:
            needs[f"study {study.study_id}"] = {*study.plan["locations"], *study.plan["locations"].values()}
    for what, references in needs.items():
        began = [version for version in versions if {version.ref, str(folder_of(version.source))} & references]
        found |= {version.ref: f"{what} began from it" for version in began}
    return found
