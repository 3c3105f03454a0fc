"""The model registry: MLflow model versions, with ``champion`` as the one authority over what is served.

Versions are immutable: the SHA-256 of a version's ``raybert.json`` is kept as a tag, and a bundle that no longer matches it is refused.
Who may become champion is decided in ``evidence.py``, where the aliases stand then in ``champions.py``; ``alias_store.py`` moves them.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from foundation.alias_store import AliasStore, alias_store, moves_in
from foundation.artifacts import check_uploaded, download, folder_of, remove, stored_files
from foundation.bundle import Bundle, Gate, open_bundle
from foundation.champions import CHAMPION, MOST_WHY, PREVIOUS, Move, challenged, promoted
from foundation.errors import BundleError, GateError, RegistryError
from foundation.evidence import Compared, Decision, Evaluation, decide, objections_to
from foundation.home import Home, home, now_utc
from foundation.versions import DATA, DIGEST, EVALUATION, GOING, RUN, STUDY, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunData
    from mlflow.entities.model_registry import RegisteredModel

_UNSET = object()


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
        """Add a bundle that lies at ``source`` (an artifact of MLflow run ``run_id``) as the next version of ``name``.

        Raises:
            RegistryError: What lies there is not the whole bundle, or the name cannot be one.
        """
        from mlflow.exceptions import MlflowException

        check_name(name)
        tags = {DIGEST: bundle.digest, DATA: bundle.manifest.data_fingerprint, RUN: bundle.manifest.run_id}
        with quiet_mlflow():
            check_uploaded(bundle, source, self.tracking_uri)
            with contextlib.suppress(MlflowException):  # it exists already
                self.client.create_registered_model(name)
            created = self.client.create_model_version(name, source, run_id=run_id, tags=tags)
        return self.version(name, int(created.version))

    def names(self) -> list[str]:
        """All registered names, sorted."""
        if self._holds_nothing:
            return []
        with quiet_mlflow():
            return sorted(model.name for model in self.client.search_registered_models(max_results=1000))

    def versions(self, name: str) -> list[Version]:
        """All versions of ``name``, newest first."""
        aliases = self._aliases(name)
        with quiet_mlflow():
            found = self.client.search_model_versions(f"name='{name}'", max_results=10_000)
        return [Version.of(item, aliases) for item in sorted(found, key=lambda item: -int(item.version))]

    def find(self, *, data: str | None = None, run: str | None = None) -> list[Version]:
        """Versions of any name that were trained on data whose fingerprint begins so, or by that run."""
        found = (version for name in self.names() for version in self.versions(name))
        return [item for item in found if (item.data or "").startswith(data or "") and run in (None, item.trained_by)]

    def version(self, name: str, version: int) -> Version:
        """One version by number."""
        aliases = self._aliases(name)
        from mlflow.exceptions import MlflowException

        try:
            with quiet_mlflow():
                found = self.client.get_model_version(name, str(version))
        except MlflowException:
            raise RegistryError(f"{name}/{version}: no such version; `raybert models show {name}` lists them") from None
        return Version.of(found, aliases)

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
        digest = version.digest or None
        if (local := folder_of(version.source)) is not None:
            return open_bundle(local, digest=digest)
        cached = self.home.cache / "bundles" / (version.digest or f"{version.name}-{version.version}")
        if cached.is_dir():
            with contextlib.suppress(BundleError):  # damaged here, which says nothing of the original
                return open_bundle(cached, digest=digest)
            shutil.rmtree(cached)
        with quiet_mlflow():
            download(version.source, cached, self.tracking_uri)
        return open_bundle(cached, digest=digest)

    def recipe_of(self, version: Version) -> dict[str, str]:
        """Dotted key to value of the recipe that trained a version; empty when its run is not recorded at this store."""
        found = self._recorded(version)
        return dict(found.params) if found else {}

    def study_of(self, version: Version) -> str | None:
        """The study whose recipe trained a version; None when there was none, or its run is not recorded at this store."""
        found = self._recorded(version)
        return found.tags.get(STUDY) if found else None

    def _recorded(self, version: Version) -> RunData | None:
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException), quiet_mlflow():
            return self.client.get_run(version.run_id or "").data
        return None

    def bytes_of(self, version: Version) -> int:
        """What its files take where they are kept."""
        with quiet_mlflow():
            return sum(stored_files(version.source, self.tracking_uri).values())

    def remove(self, version: Version) -> str | None:
        """Remove a version that no alias names, and its files unless another version has the same.

        Returns:
            Why its files could not be removed, if so.

        Raises:
            RegistryError: An alias names it.
        """
        place = (version.name, str(version.version))
        with quiet_mlflow():
            # Marked first, then looked at: a promotion that came before is seen here, one that comes after sees the mark.
            self.client.set_model_version_tag(*place, GOING, now_utc())
            if aliases := self.version(version.name, version.version).aliases:
                self.client.delete_model_version_tag(*place, GOING)
                raise RegistryError(f"{version.ref}: is {' and '.join(aliases)}, and stays")
            self.client.delete_model_version(*place)
            if self.client.search_model_versions(f'source_path="{version.source}"', max_results=1):
                return "another version has the same"
            if not self._holds(version):
                return f"{version.source} is not an artifact of its run"
            return remove(version.source, self.tracking_uri)

    def _holds(self, version: Version) -> bool:
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):
            return version.source.startswith(f"{self.client.get_run(version.run_id or '').info.artifact_uri}/")
        return False

    def record_evaluation(self, version: Version, evaluation: Evaluation) -> None:
        """Keep an evaluation as evidence for a version; of the same rows the last one counts."""
        with quiet_mlflow():
            key = f"{EVALUATION}.{evaluation.data[:16]}.{evaluation.split}"
            self.client.set_model_version_tag(version.name, str(version.version), key, evaluation.model_dump_json())

    def history(self, name: str) -> list[Move]:
        """All moves of a model's aliases, the first one first."""
        return moves_in(self._model(name).tags)

    def promote(self, name: str, version: int, *, reason: str = "", force: bool = False, expected: int | object | None = _UNSET) -> Move:
        """Make ``version`` the champion.

        Args:
            name: The registered model.
            version: The version to promote.
            reason: Why; kept with who and when. Required with ``force``.
            force: Promote although a gate failed, none was checked, or it was not measured on the champion's rows.
            expected: The champion that the caller saw; the promotion is refused when another one stands there now.

        Raises:
            GateError: Its evidence does not suffice.
            BundleError: The bundle was altered since it was registered.
            RegistryError: Unknown version, a lost race, ``force`` without a reason, or a reason that is too long.
        """
        wanted = self.version(name, version)
        own_gates = self.fetch(wanted).manifest.gates
        _check_reason(reason)
        if force and not reason:
            raise RegistryError(f"{wanted.ref}: --force needs --reason TEXT, which is kept with the version")

        def move(aliases: Mapping[str, int], number: int) -> Move:
            current = aliases.get(CHAMPION)
            if expected is not _UNSET and current != expected:
                raise RegistryError(
                    f"{name}: champion is version {current}, not {expected} as expected; somebody else moved it, look again"
                )
            decision = self._decide(wanted, own_gates, current)
            objections = objections_to(decision)
            if objections and not force:
                raise GateError(f"{wanted.ref}: not promoted: {'; '.join(objections)}; to promote all the same: --force --reason TEXT")
            _check_stays(self.version(name, version))
            return _move("promote", number, version, aliases, promoted(aliases, version), reason, objections, decision.compared)

        return self._move(name, move)

    def objections(self, version: Version) -> tuple[str, ...]:
        """What stands against promoting a version now; empty when nothing does."""
        return objections_to(self._decide(version, self.fetch(version).manifest.gates, self.champion(version.name)))

    def _decide(self, version: Version, own_gates: Sequence[Gate], champion: int | None) -> Decision:
        others = self.version(version.name, champion).evaluations if champion not in (None, version.version) else ()
        return decide(version.ref, version.evaluations, own_gates, others)

    def challenge(self, name: str, version: int, *, reason: str = "") -> Move:
        """Put ``version`` beside the champion, as ``challenger``.

        Raises:
            BundleError: The bundle was altered since it was registered.
            RegistryError: Unknown version, the champion itself, a lost race, or a reason that is too long.
        """
        wanted = self.version(name, version)
        self.fetch(wanted)
        _check_reason(reason)

        def move(aliases: Mapping[str, int], number: int) -> Move:
            if aliases.get(CHAMPION) == version:
                raise RegistryError(f"{wanted.ref}: is champion, and cannot challenge itself")
            _check_stays(self.version(name, version))
            return _move("challenge", number, version, aliases, challenged(aliases, version), reason)

        return self._move(name, move)

    def rollback(self, name: str, *, reason: str = "") -> Move:
        """Make the previous champion the champion again; what is champion now becomes previous.

        Raises:
            BundleError: The previous champion was altered since it was registered.
            RegistryError: There is none, or a lost race.
        """
        aliases = self._aliases(name)
        if PREVIOUS not in aliases:
            raise RegistryError(f"{name}: no previous champion to go back to; `raybert models show {name}` lists the versions")
        target = self.version(name, aliases[PREVIOUS])
        self.fetch(target)
        _check_reason(reason)

        def move(now: Mapping[str, int], number: int) -> Move:
            if now.get(PREVIOUS) != target.version or now.get(CHAMPION) != aliases.get(CHAMPION):
                raise RegistryError(f"{name}: somebody else moved its champion meanwhile, to version {now.get(CHAMPION)}; look again")
            return _move("rollback", number, target.version, now, promoted(now, target.version), reason or "rollback")

        return self._move(name, move)

    def _move(self, name: str, make: Callable[[Mapping[str, int], int], Move]) -> Move:
        with quiet_mlflow():
            return self._alias_store.move(name, make)

    @functools.cached_property
    def _alias_store(self) -> AliasStore:
        return alias_store(self.client, self.tracking_uri)

    def _aliases(self, name: str) -> dict[str, int]:
        return {alias: int(version) for alias, version in self._model(name).aliases.items()}

    def _model(self, name: str) -> RegisteredModel:
        if self._holds_nothing:
            raise RegistryError(f"{name}: no such model in the registry at {self.tracking_uri}; registered: none yet")
        from mlflow.exceptions import MlflowException

        try:
            with quiet_mlflow():
                return self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise RegistryError(f"{self.tracking_uri}: the registry does not answer: {error.message}") from None
            known = ", ".join(self.names()) or "none yet"
            raise RegistryError(f"{name}: no such model in the registry at {self.tracking_uri}; registered: {known}") from None


def _move(
    action: Literal["promote", "rollback", "challenge"],
    number: int,
    version: int,
    before: Mapping[str, int],
    after: dict[str, int],
    reason: str,
    objections: tuple[str, ...] = (),
    compared: Compared | None = None,
) -> Move:
    return Move(
        number=number,
        action=action,
        version=version,
        before=before.get(CHAMPION),
        aliases=after,
        at=now_utc(),
        by=f"{getpass.getuser()}@{socket.gethostname()}",
        why=reason,
        forced=bool(objections),
        objections=objections,
        data=compared.data if compared else None,
        split=compared.split if compared else None,
        compared=compared.metrics if compared else {},
    )


def _check_stays(version: Version) -> None:
    if GOING in version.tags:
        raise RegistryError(f"{version.ref}: is being removed; choose another version")


def _check_reason(reason: str) -> None:
    if len(reason) > MOST_WHY:
        raise RegistryError(f"--reason: {len(reason):,} characters, at most {MOST_WHY:,} are kept")
