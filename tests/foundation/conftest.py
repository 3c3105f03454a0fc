"""A real MLflow store for the whole session (creating one costs seconds), and bundles without weights, which nothing here looks into."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.bundle import Bundle, Gate, seal
from foundation.home import Home
from foundation.registry import Registry
from foundation.versions import Version

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("registry")
    return Registry(f"sqlite:///{root / 'mlflow.db'}", Home(root))


@pytest.fixture
def model_name() -> str:
    """A name that no other test of the session uses: the store is shared."""
    return f"model-{next(_numbers)}"


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Seal a small bundle; ``gate`` is whether its one gate passed, None for no gate."""

    def make(gate: bool | None = True) -> Bundle:
        folder = tmp_path / f"bundle-{next(_numbers)}"
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights" * 9)
        (folder / "tokenizer" / "vocab.txt").write_text("good\nbad\n")
        gates = () if gate is None else (Gate(metric="accuracy", wanted=0.8, found=0.9 if gate else 0.5, passed=gate),)
        return seal(
            folder, task="single_label", labels=("neg", "pos"), max_length=64, run_id="run-1", data_fingerprint="0" * 64, gates=gates
        )

    return make


@pytest.fixture
def register(registry: Registry, model_name: str, make_bundle: Callable[..., Bundle]) -> Callable[..., Version]:
    """Register one more version of this test's model."""

    def add(gate: bool | None = True) -> Version:
        bundle = make_bundle(gate)
        return registry.register(model_name, bundle, source=str(bundle.path), run_id="0" * 32)

    return add


@pytest.fixture
def register_uploaded(make_bundle: Callable[..., Bundle]) -> Callable[[Registry, str], Version]:
    """Register one more version of a model whose bundle is an artifact of a run, as the verbs do."""

    def add(registry: Registry, name: str) -> Version:
        client, bundle = registry.client, make_bundle()
        # Else MLflow keeps artifacts in the current folder.
        kept = (registry.home.root / "artifacts").as_uri()
        run = client.create_run(client.create_experiment(f"{name}-{next(_numbers)}", artifact_location=kept)).info
        client.log_artifacts(run.run_id, str(bundle.path), "bundle")
        return registry.register(name, bundle, source=f"{run.artifact_uri}/bundle", run_id=run.run_id)

    return add
