"""The design, tested: who may import whom, what stays light, what is never found in this tree."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from foundation.config import Config, load
from raybert.verbs.schema import KINDS as RECIPES

ROOT = Path(__file__).resolve().parents[1]

# tuning → training → corpus, encoder, cluster → foundation; serving → encoder, cluster → foundation; raybert → everything.
ARROWS = {
    "foundation": set(),
    "corpus": {"foundation"},
    "encoder": {"foundation"},
    "cluster": {"foundation"},
    "training": {"corpus", "encoder", "cluster", "foundation"},
    "tuning": {"training", "corpus", "encoder", "cluster", "foundation"},
    "serving": {"encoder", "cluster", "foundation"},
    "raybert": {"foundation", "corpus", "encoder", "cluster", "training", "tuning", "serving"},
}
PACKAGES = sorted(ARROWS)
# Engines that a package does without, anywhere in it.
WITHOUT = {
    "foundation": {"torch", "ray", "deepspeed", "transformers"},
    "corpus": {"torch", "deepspeed"},
    "encoder": {"ray", "deepspeed", "mlflow"},
    "cluster": {"torch", "deepspeed", "transformers"},
}
# The pure cores: what they may import besides the standard library.
PURE = {
    "corpus/order.py": {"numpy"},
    "corpus/masks.py": {"numpy"},
    "corpus/mixture.py": {"numpy", "corpus"},
    "corpus/positions.py": {"numpy", "corpus"},
    "training/loop.py": {"numpy", "corpus", "training", "foundation"},
    "training/schedule.py": {"training", "foundation"},
    "training/flops.py": set(),
    "training/footprint.py": {"encoder", "training"},
    "training/estimate.py": {"training"},
    "training/gpus.py": {"foundation", "training"},
    "training/goodput.py": set(),
    "training/phases.py": set(),
    "training/charts.py": set(),
    "serving/batching.py": {"foundation", "serving"},
}
VAGUE = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of a file, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; name the package"
            yield node.lineno, node.module or ""


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for _, name in imports(path)}


def wrong_imports(package: str, forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for line, name in imports(path)
        if name.partition(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_along_the_arrows(package: str) -> None:
    assert sources(package), f"{package}/ holds no code"
    assert wrong_imports(package, set(PACKAGES) - ARROWS[package] - {package}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_tests_or_benchmarks(package: str) -> None:
    assert wrong_imports(package, {"tests", "benchmarks", "pytest", "hypothesis"}) == []


@pytest.mark.parametrize("package", sorted(WITHOUT))
def test_engines_stay_out_of_packages_that_do_without_them(package: str) -> None:
    assert wrong_imports(package, WITHOUT[package]) == []


def test_one_file_imports_deepspeed() -> None:
    found = {str(path.relative_to(ROOT)) for package in PACKAGES for path in sources(package) if "deepspeed" in tops(path)}
    assert found == {"training/zero.py"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_cores_import_no_engine(name: str) -> None:
    assert tops(ROOT / name) - PURE[name] - set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize(
    "path", sorted(set(ROOT.glob("*/config.py")) - {ROOT / "foundation" / "config.py"}), ids=lambda path: path.parent.name
)
def test_config_models_need_no_engine(path: Path) -> None:
    allowed = {"pydantic", "foundation", "typing_extensions"} | set(sys.stdlib_module_names)
    beside = {name for _, name in imports(path) if name.partition(".")[0] in PACKAGES and name.endswith((".config", "_config"))}
    assert {name for _, name in imports(path) if name.partition(".")[0] not in allowed} <= beside


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_where_to_start_reading_and_nothing_else(package: str) -> None:
    path = ROOT / package / "__init__.py"
    docstring = ast.get_docstring(tree(path)) or ""
    named = re.search(r"[Ss]tart reading in ``([\w/]+\.py)``|START HERE:? ``([\w/]+\.py)``", docstring)
    assert named, f"{path}: the docstring names no file to start with"
    assert (ROOT / package / (named[1] or named[2])).is_file()
    body = [node for node in tree(path).body[1:] if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__")]
    assert body == []


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks"])
def test_names_say_what_a_module_is_about(folder: str) -> None:
    parts = {part for path in sources(folder) for part in path.relative_to(ROOT).with_suffix("").parts}
    assert {part for part in parts if VAGUE & set(part.removeprefix("test_").split("_"))} == set()


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks"])
def test_files_stay_short_enough_to_be_read(folder: str) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(folder)}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_are_not_shadowed(package: str) -> None:
    # An old distribution named cluster exists; installed beside an editable raybert it would win silently.
    assert Path(importlib.import_module(package).__file__ or "").parents[1] == ROOT


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``code``."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_no_engine() -> None:
    code = (
        "import contextlib, io\nfrom raybert.main import main\nwith contextlib.redirect_stdout(io.StringIO()): assert main(['--help']) == 0"
    )
    assert (
        loaded_by(code) & {"torch", "ray", "mlflow", "transformers", "deepspeed", "pyarrow", "numpy", "sklearn", "optuna", "fastapi"}
        == set()
    )


def test_reading_recipes_loads_no_engine() -> None:
    code = "\n".join(f"from {module} import {name}" for module, name in RECIPES.values())
    assert loaded_by(code) & {"torch", "ray", "mlflow", "transformers", "deepspeed", "pyarrow", "numpy"} == set()


def test_the_client_loads_no_engine() -> None:
    assert loaded_by("import serving.client") & {"torch", "ray", "mlflow", "transformers", "numpy", "fastapi"} == set()


def test_foundation_and_cluster_import_without_engines() -> None:
    names = [path.stem for path in sources("foundation") if path.stem != "__init__"]
    code = "import cluster, cluster.config\n" + "\n".join(f"import foundation.{name}" for name in names)
    assert loaded_by(code) & {"torch", "ray"} == set()


@pytest.mark.slow
def test_a_sharded_worker_imports_neither_mlflow_nor_what_torch_compiles_with() -> None:
    code = (
        "import os, sys\nos.environ['DS_ACCELERATOR'] = 'cpu'\nfrom training.zero import lean_deepspeed\nlean_deepspeed()\n"
        "import deepspeed.runtime.zero.stage3, deepspeed.runtime.zero.stage_1_and_2, deepspeed.runtime.zero.muon.muon_optimizer\n"
        "assert 'torch._inductor.compile_fx' not in sys.modules"
    )
    assert "mlflow" not in loaded_by(code)
    assert "mlflow" in loaded_by(f"{code}\nimport mlflow"), "it is there for those who want it"


@pytest.mark.slow
@pytest.mark.parametrize("package", ["corpus", "cluster"])
def test_packages_without_torch_do_not_load_it_by_a_detour(package: str) -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources(package)]
    assert "torch" not in loaded_by("\n".join(f"import {name.removesuffix('.__init__')}" for name in names))


@pytest.mark.parametrize("kind", sorted(RECIPES))
def test_every_kind_of_recipe_has_its_model(kind: str) -> None:
    assert issubclass(model_of(kind), Config)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    kind = path.stem.partition("_")[0]
    assert kind in RECIPES, f"{path.name}: a recipe's name begins with its verb: {', '.join(sorted(RECIPES))}"
    load(model_of(kind), path)


def model_of(kind: str) -> type[Config]:
    module, name = RECIPES[kind]
    found: type[Config] = getattr(importlib.import_module(module), name)
    return found


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.stem
)
def test_every_file_that_the_documents_name_exists(path: Path) -> None:
    tops = "|".join([*PACKAGES, "tests", "docs", "benchmarks", "configs", "examples"])
    named = re.findall(rf"(?<![\w/])((?:{tops})/[\w/-]+\.(?:py|md|toml|sh|yaml))\b", path.read_text(encoding="utf-8"))
    assert sorted(name for name in set(named) if not (ROOT / name).is_file()) == []
