"""What ``serve up`` leaves behind so that ``status``, ``down`` and ``query`` find the service: one JSON file per service in the home."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from foundation.home import home, write_atomically


class ServiceState(BaseModel):
    """A service that was started from this home."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    url: str
    """Where clients find it."""
    model: str
    """The REF that it serves."""
    address: str
    """The Ray cluster's HOST:PORT."""
    cluster: str | None = None
    """The local cluster that ``serve up`` started for it, and that ``serve down`` ends; None: it runs on somebody else's."""
    max_texts_per_request: int = 256
    started: str
    """UTC, ISO 8601."""

    @property
    def curl(self) -> str:
        """A line to try it with."""
        body = '{"inputs": "This is a good product"}'
        return f"curl -s {self.url}/v1/classify -H 'Content-Type: application/json' -d '{body}'"


def _folder() -> Path:
    return home().root / "services"


def save(state: ServiceState) -> None:
    """Record a service."""
    write_atomically(_folder() / f"{state.name}.json", state.model_dump_json(indent=2) + "\n")


def forget(name: str) -> None:
    """Remove a service's record."""
    (_folder() / f"{name}.json").unlink(missing_ok=True)


def recorded() -> list[ServiceState]:
    """All recorded services, by name. Whether they are alive is for ``serving.service.status`` to find out."""
    found = []
    for file in sorted(_folder().glob("*.json")):
        try:
            found.append(ServiceState.model_validate_json(file.read_text(encoding="utf-8")))
        except (OSError, ValidationError):
            continue  # removed meanwhile, or of an older form: not a service that can be talked about
    return found


def find(name: str) -> ServiceState | None:
    """The recorded service of that name."""
    return next((state for state in recorded() if state.name == name), None)
