"""The model registry: MLflow model versions, with ``champion`` as the one authority over what is served.

Versions are immutable: the SHA-256 of a version's ``raybert.json`` is kept as a tag, and a bundle that no longer matches it is refused.
Moving ``champion`` is a compare-and-swap; ``previous`` follows it, so that ``rollback`` has somewhere to go.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import getpass
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.bundle import Bundle, Gate, open_bundle
from foundation.errors import GateError, RegistryError
from foundation.home import Home, home

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
PREVIOUS = "previous"
_DIGEST = "raybert.digest"
_PROMOTED = "raybert.promoted"
_EVALUATION = "raybert.evaluation"
_UNSET = object()


@dataclass(frozen=True)
class Version:
    """One registered model version."""

    name: str
    version: int
    aliases: tuple[str, ...]
    digest: str
    """SHA-256 of the bundle's ``raybert.json``."""
    source: str
    """URI of the bundle."""
    run_id: str | None
    """MLflow's run id."""
    created: str
    tags: dict[str, str]

    @property
    def ref(self) -> str:
        """``NAME/version``."""
        return f"{self.name}/{self.version}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return asdict(self) | {"aliases": list(self.aliases), "ref": self.ref}


def check_name(name: str) -> None:
    """Refuse a name that a REF could not hold."""
    if "/" in name or "@" in name or not name:
        raise RegistryError(f"{name!r}: a model name holds neither '/' nor '@'; they separate versions and aliases")


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keep MLflow's and alembic's progress lines off the user's terminal."""
    names = ("mlflow", "alembic", "mlflow.store.db.utils", "mlflow.tracking")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


class Registry:
    """Model versions at an MLflow store; default: the home's."""

    def __init__(self, tracking_uri: str | None = None, where: Home | None = None) -> None:
        self.home = where or home()
        self.tracking_uri = tracking_uri or self.home.tracking_uri

    @functools.cached_property
    def client(self) -> MlflowClient:
        """MLflow's own client. Opening it makes the store's file and tables; who only looks asks ``_holds_nothing`` first."""
        if self._store_file is not None:
            self._store_file.parent.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        # stdout is for results.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        with quiet_mlflow():
            from mlflow import MlflowClient

            return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    @property
    def _store_file(self) -> Path | None:
        return Path(self.tracking_uri.removeprefix("sqlite:///")) if self.tracking_uri.startswith("sqlite:///") else None

    @property
    def _holds_nothing(self) -> bool:
        return self._store_file is not None and not self._store_file.exists()

    def register(self, name: str, bundle: Bundle, *, source: str, run_id: str) -> Version:
        """Add a bundle that lies at ``source`` (an artifact of MLflow run ``run_id``) as the next version of ``name``."""
        from mlflow.exceptions import MlflowException

        check_name(name)
        with quiet_mlflow():
            with contextlib.suppress(MlflowException):  # it exists already
                self.client.create_registered_model(name)
            created = self.client.create_model_version(name, source, run_id=run_id, tags={_DIGEST: bundle.digest})
        return self.version(name, int(created.version))

    def names(self) -> list[str]:
        """All registered names, sorted."""
        if self._holds_nothing:
            return []
        with quiet_mlflow():
            return sorted(model.name for model in self.client.search_registered_models(max_results=1000))

    def versions(self, name: str) -> list[Version]:
        """All versions of ``name``, newest first."""
        self._aliases(name)
        with quiet_mlflow():
            found = self.client.search_model_versions(f"name='{name}'", max_results=1000)
        return [self.version(name, int(item.version)) for item in sorted(found, key=lambda item: -int(item.version))]

    def version(self, name: str, version: int) -> Version:
        """One version by number."""
        aliases = self._aliases(name)
        from mlflow.exceptions import MlflowException

        try:
            with quiet_mlflow():
                found = self.client.get_model_version(name, str(version))
        except MlflowException:
            raise RegistryError(f"{name}/{version}: no such version; `raybert models show {name}` lists them") from None
        return Version(
            name=name,
            version=int(found.version),
            aliases=tuple(sorted(alias for alias, number in aliases.items() if number == int(found.version))),
            digest=found.tags.get(_DIGEST, ""),
            source=found.source,
            run_id=found.run_id or None,
            created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
            tags=dict(found.tags),
        )

    def at(self, name: str, alias: str) -> Version:
        """The version that an alias names."""
        aliases = self._aliases(name)
        if alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none yet"
            raise RegistryError(f"{name}@{alias}: no such alias; known aliases of {name}: {known} (`raybert models promote` sets champion)")
        return self.version(name, aliases[alias])

    def champion(self, name: str) -> int | None:
        """The champion's version number, or None."""
        return self._aliases(name).get(CHAMPION)

    def fetch(self, version: Version) -> Bundle:
        """Bring a version's bundle to this machine (into the cache unless it lies here already) and verify it."""
        return open_bundle(self._local_copy(version), digest=version.digest or None)

    def record_evaluation(
        self, version: Version, *, metrics: Mapping[str, float], gates: Sequence[Gate], rows: int, data_fingerprint: str
    ) -> None:
        """Keep an evaluation as the version's evidence; the last one decides whether it may be promoted."""
        evidence = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": data_fingerprint,
            "rows": rows,
            "metrics": dict(metrics),
            "gates": [gate.model_dump() for gate in gates],
        }
        with quiet_mlflow():
            self.client.set_model_version_tag(version.name, str(version.version), _EVALUATION, json.dumps(evidence))

    def promote(self, name: str, version: int, *, reason: str = "", force: bool = False, expected: int | object | None = _UNSET) -> Version:
        """Make ``version`` the champion.

        Args:
            name: The registered model.
            version: The version to promote.
            reason: Why; kept with who and when. Required with ``force``.
            force: Promote although a gate failed or none was checked.
            expected: The champion that the caller saw; the promotion is refused when another one stands there now.

        Raises:
            GateError: The gates of the last recorded evaluation, or else the bundle's own, did not pass.
            BundleError: The bundle was altered since it was registered.
            RegistryError: Unknown version, a lost race, or ``force`` without a reason.
        """
        wanted = self.version(name, version)
        bundle = self.fetch(wanted)
        gates = self._gates(wanted) or bundle.manifest.gates
        if not (gates and all(gate.passed for gate in gates)) and not force:
            failed = [f"{gate.metric} is {gate.found:.4f}, wanted {gate.wanted:.4f}" for gate in gates if not gate.passed]
            found = "; ".join(failed) or "no gate was checked (run `raybert evaluate` on it first)"
            raise GateError(f"{wanted.ref}: not promoted: {found}; to promote all the same: --force --reason TEXT")
        if force and not reason:
            raise RegistryError(f"{wanted.ref}: --force needs --reason TEXT, which is kept with the version")
        with self._exclusive():
            aliases = self._aliases(name)
            current = aliases.get(CHAMPION)
            if expected is not _UNSET and current != expected:
                raise RegistryError(
                    f"{name}: champion is version {current}, not {expected} as expected; somebody else moved it, look again"
                )
            self._point(name, aliases, version, reason=reason, forced=force)
        return self.version(name, version)

    def rollback(self, name: str, *, reason: str = "") -> Version:
        """Make the previous champion the champion again; what is champion now becomes previous."""
        with self._exclusive():
            aliases = self._aliases(name)
            if PREVIOUS not in aliases:
                raise RegistryError(f"{name}: no previous champion to go back to; `raybert models show {name}` lists the versions")
            target = self.version(name, aliases[PREVIOUS])
            self.fetch(target)  # never roll back to an altered bundle
            self._point(name, aliases, target.version, reason=reason or "rollback", forced=False)
        return self.version(name, target.version)

    def _gates(self, version: Version) -> tuple[Gate, ...]:
        evidence = json.loads(version.tags.get(_EVALUATION, "{}"))
        return tuple(Gate.model_validate(gate) for gate in evidence.get("gates", []))

    def _point(self, name: str, aliases: dict[str, int], version: int, *, reason: str, forced: bool) -> None:
        current = aliases.get(CHAMPION)
        note = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": getpass.getuser(),
            "why": reason,
            "forced": forced,
        }
        with quiet_mlflow():
            if current is not None and current != version:
                self.client.set_registered_model_alias(name, PREVIOUS, str(current))
            self.client.set_registered_model_alias(name, CHAMPION, str(version))
            self.client.set_model_version_tag(name, str(version), _PROMOTED, json.dumps(note))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        # One lock per store and home. A remote store has no lock to take; there `expected` detects a race that was lost before the swap.
        self.home.root.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(self.tracking_uri.encode()).hexdigest()[:12]
        with (self.home.root / f".registry-{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _aliases(self, name: str) -> dict[str, int]:
        if self._holds_nothing:
            raise RegistryError(f"{name}: no such model in the registry at {self.tracking_uri}; registered: none yet")
        from mlflow.exceptions import MlflowException

        try:
            with quiet_mlflow():
                model = self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise RegistryError(f"{self.tracking_uri}: the registry does not answer: {error.message}") from None
            known = ", ".join(self.names()) or "none yet"
            raise RegistryError(f"{name}: no such model in the registry at {self.tracking_uri}; registered: {known}") from None
        return {alias: int(version) for alias, version in model.aliases.items()}

    def _local_copy(self, version: Version) -> Path:
        local = Path(version.source.removeprefix("file://"))
        if local.is_absolute() and local.is_dir():
            return local
        cached = self.home.cache / "bundles" / (version.digest or f"{version.name}-{version.version}")
        if not cached.is_dir():
            from mlflow.artifacts import download_artifacts

            part = cached.with_name(f".{cached.name}.{os.getpid()}")
            part.mkdir(parents=True, exist_ok=True)
            with quiet_mlflow():
                fetched = Path(download_artifacts(artifact_uri=version.source, dst_path=str(part), tracking_uri=self.tracking_uri))
            with contextlib.suppress(OSError):  # another process was quicker
                os.rename(fetched, cached)
        return cached
