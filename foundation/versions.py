"""A registered model version, as MLflow's tags hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from foundation.evidence import Evaluation

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

DIGEST = "raybert.digest"
DATA = "raybert.data_fingerprint"
RUN = "raybert.run_id"
STUDY = "raybert.study"
EVALUATION = "raybert.evaluation"
GOING = "raybert.going"
"""Being removed, and not to be given an alias any more."""


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

    @classmethod
    def of(cls, found: ModelVersion, aliases: Mapping[str, int]) -> Version:
        """MLflow's model version; ``aliases``: the registered model's."""
        number = int(found.version)
        return cls(
            name=found.name,
            version=number,
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == number)),
            digest=found.tags.get(DIGEST, ""),
            source=found.source,
            run_id=found.run_id or None,
            created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
            tags=dict(found.tags),
        )

    @property
    def ref(self) -> str:
        """``NAME/version``."""
        return f"{self.name}/{self.version}"

    @property
    def data(self) -> str | None:
        """Fingerprint of the data that it was trained on; None where it was registered by an earlier version."""
        return self.tags.get(DATA)

    @property
    def trained_by(self) -> str | None:
        """Id of the run that trained it."""
        return self.tags.get(RUN)

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """That were recorded of it, one for the same rows."""
        return tuple(Evaluation.model_validate_json(text) for key, text in sorted(self.tags.items()) if key.startswith(EVALUATION))

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        evaluations = [item.model_dump() for item in self.evaluations]
        return asdict(self) | {"aliases": list(self.aliases), "ref": self.ref, "evaluations": evaluations}
