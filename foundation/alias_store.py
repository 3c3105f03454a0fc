"""Moving a model's aliases at an MLflow store, so that of two movers at once one sees what the other did.

On a database (SQLite, PostgreSQL, MySQL, SQL Server) a move is one transaction over MLflow's own tables. A server's REST interface has no
such thing: there a mover leaves a claim, looks whether anybody else has, and gives way if so; a race that was lost all the same is told.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from foundation.champions import Aliases, Move, is_under_way, read_move
from foundation.errors import RaybertError, RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOVE = "raybert.move."
_CLAIM = "raybert.claim."
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

Decide = Callable[[Aliases, int], Move]
"""From where the aliases are, and the number of the next move, to that move. Raises what the user is told when there can be none."""


class AliasStore(Protocol):
    """Who carries out moves."""

    def move(self, name: str, decide: Decide) -> Move:
        """Carry out what ``decide`` says of model ``name``, which exists; its errors come through, and nothing has changed then."""


def alias_store(client: MlflowClient, uri: str) -> AliasStore:
    """The one for a store's URI."""
    return DatabaseAliases(uri) if uri.partition(":")[0].partition("+")[0] in _DATABASES else RemoteAliases(client)


def moves_in(tags: Mapping[str, str]) -> list[Move]:
    """The moves among a registered model's tags, in order."""
    read = (read_move(value) for key, value in tags.items() if key.startswith(_MOVE))
    return sorted((move for move in read if move is not None), key=lambda move: (move.number, move.at))


def _key(move: Move) -> str:
    return f"{_MOVE}{move.number:06d}"


def _next_number(name: str, tags: Mapping[str, str], own: str = "") -> int:
    """Of the next move, unless somebody else has claimed it."""
    if is_under_way((at for key, at in tags.items() if key.startswith(_CLAIM) and key != own), datetime.now(UTC)):
        raise RegistryError(f"{name}: somebody else is moving its aliases; nothing was changed, look again")
    moves = moves_in(tags)
    return moves[-1].number + 1 if moves else 1


class DatabaseAliases:
    """One transaction for each move."""

    def __init__(self, uri: str) -> None:
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

        self._sessions = SqlAlchemyStore(uri).ManagedSessionMaker

    def move(self, name: str, decide: Decide) -> Move:
        """As ``AliasStore``."""
        from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel as Model
        from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias as Alias
        from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelTag as Tag
        from mlflow.utils.time import get_current_time_millis

        refusal: RaybertError | None = None
        with self._sessions(read_only=False) as session:
            # The first statement is a write, on the model's own row: SQLite then locks the database, others that row, until the end.
            # A read before it could see what another mover is about to change.
            model = session.query(Model).filter(Model.name == name)
            model.update({"last_updated_time": get_current_time_millis()}, synchronize_session=False)
            workspace = model.one().workspace
            rows = {row.alias: row for row in session.query(Alias).filter(Alias.workspace == workspace, Alias.name == name)}
            tags = session.query(Tag).filter(Tag.workspace == workspace, Tag.name == name)
            try:
                number = _next_number(name, {tag.key: tag.value for tag in tags})
                move = decide({alias: row.version for alias, row in rows.items()}, number)
            except RaybertError as error:  # MLflow's session would turn it into one of its own
                session.rollback()
                refusal = error
            else:
                place = {"workspace": workspace, "name": name}
                for alias, version in move.aliases.items():
                    session.merge(Alias(**place, alias=alias, version=version))
                for alias in rows.keys() - move.aliases.keys():
                    session.delete(rows[alias])
                session.add(Tag(**place, key=_key(move), value=move.model_dump_json()))
        if refusal is not None:
            raise refusal
        return move


class RemoteAliases:
    """Claims, through MLflow's client: a tag that says that somebody is about to move."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def move(self, name: str, decide: Decide) -> Move:
        """As ``AliasStore``.

        Raises:
            RegistryError: Somebody else moved at the same time; the message says whether anything has changed.
        """
        claim = f"{_CLAIM}{uuid.uuid4().hex[:12]}"
        self._client.set_registered_model_tag(name, claim, datetime.now(UTC).isoformat())
        try:
            # Of two with claims at least one sees the other's; who sees another one gives way, so at most one goes on.
            aliases, tags = self._look(name)
            move = decide(aliases, _next_number(name, tags, claim))
            # First the record, so that no alias ever moves without one.
            self._client.set_registered_model_tag(name, _key(move), move.model_dump_json())
            for alias, version in move.aliases.items():
                if aliases.get(alias) != version:
                    self._client.set_registered_model_alias(name, alias, str(version))
            for alias in aliases.keys() - move.aliases.keys():
                self._client.delete_registered_model_alias(name, alias)
            after, tags = self._look(name)
        finally:
            self._client.delete_registered_model_tag(name, claim)
        # Possible for who is taken for dead, having taken longer than others wait.
        if moves_in(tags)[-1] != move:
            told = ", ".join(f"{alias} is version {version}" for alias, version in sorted(after.items()))
            raise RegistryError(f"{name}: somebody else moved its aliases meanwhile: {told}; look again")
        return move

    def _look(self, name: str) -> tuple[dict[str, int], dict[str, str]]:
        model = self._client.get_registered_model(name)
        return {alias: int(version) for alias, version in model.aliases.items()}, dict(model.tags)
