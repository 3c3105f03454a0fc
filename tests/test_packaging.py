"""What a user installs: a wheel with every package and recipe, that works outside the checkout. `make prove-wheel` does it from nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def name_of(requirement: str) -> str:
    """The normalised distribution name of a requirement."""
    found = re.match(r"[\w.-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@cache
def declared(extra: str) -> frozenset[str]:
    """What an extra asks for directly, the extras that it names included; "" is the client and the command line alone."""
    project = PROJECT["project"]
    asked: list[str] = project["dependencies"] if not extra else project["optional-dependencies"][extra]
    found = set(declared("")) if extra else set()
    for requirement in asked:
        if name_of(requirement) == "raybert":
            for inner in requirement.partition("[")[2].partition("]")[0].split(","):
                found |= declared(inner.strip())
        else:
            found.add(name_of(requirement))
    return frozenset(found)


def third_party(package: str) -> dict[str, str]:
    """Top-level module → one file of ``package`` that imports it."""
    ours = {*PACKAGES, *sys.stdlib_module_names}
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found.update({name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names})
    return {module: path for module, path in found.items() if module not in ours}


def test_nothing_is_tracked_that_a_program_left_in_the_checkout() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    folders = {path.partition("/")[0] for path in tracked if "/" in path}
    assert folders == {*PACKAGES, "tests", "benchmarks", "configs", "docs", ".ci"}


def test_the_wheel_lists_every_package() -> None:
    with_code = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks", "examples"}
    assert set(PACKAGES) == with_code


# What a package may import must be in the extra with which it is used.
@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("foundation", "cluster"),
        ("cluster", "cluster"),
        ("corpus", "train"),
        ("encoder", "train"),
        ("encoder", "serve"),
        ("training", "train"),
        ("tuning", "train"),
        ("serving", "serve"),
        ("raybert", "all"),
    ],
)
def test_every_import_is_declared(package: str, extra: str) -> None:
    providers = metadata.packages_distributions()
    # encoder/onnx_export.py says which extra to install when they are not there.
    allowed = declared(extra) | (declared("onnx") if package == "encoder" else frozenset())
    undeclared = {
        module: path
        for module, path in third_party(package).items()
        if not {name_of(name) for name in providers.get(module, [module])} & allowed
    }
    assert undeclared == {}


def test_a_client_needs_neither_torch_nor_ray() -> None:
    assert declared("") == {"httpx", "pydantic", "pydantic-core", "pyyaml", "rich", "typer"}


def test_everything_installed_is_pinned_and_the_pins_are_what_is_installed() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    pins = {name_of(line): line.partition("==")[2] for line in lines}
    # Builds of one release for one device carry a local part: 2.13.0+cpu.
    found = {name: metadata.version(name).partition("+")[0] for name in declared("all")}
    assert {name: pins.get(name) for name in found} == found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_recipe_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    recipes = {f"raybert/configs/{path.name}" for path in (ROOT / "configs").iterdir() if path.is_file()}
    assert modules | recipes <= inside
    surplus = {name for name in inside - modules - recipes if not (ROOT / name).is_file()}
    assert surplus == set()
    assert {name.partition("/")[0] for name in inside} == set(PACKAGES)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare environment with the wheel in it; dependencies are seen through the running one. Returns its ``bin``."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index", "--target", str(site), str(wheel)],
        check=True,
        capture_output=True,
    )
    # A plain line, not site.addsitedir: the running environment's own .pth files (an editable raybert among them) are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "bin" / "raybert").write_text(f"#!{folder}/bin/python\nimport sys\nfrom raybert.main import main\nsys.exit(main())\n")
    (folder / "bin" / "raybert").chmod(0o755)
    return folder / "bin"


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"RAYBERT_HOME": str(folder / "home"), "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [str(installed / command[0]), *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_every_module_imports_from_the_wheel_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = (
        "import importlib, json\n"
        f"found = {{name: importlib.import_module(name).__file__ for name in {names!r}}}\n"
        "from raybert.recipes import folder\n"
        "print(json.dumps([found, str(folder())]))"
    )
    done = run(installed, tmp_path, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    found, recipes = json.loads(done.stdout.splitlines()[-1])
    home = str(installed.parent)
    assert [path for path in found.values() if not path.startswith(home)] == []
    assert recipes.startswith(home)
    assert sorted(path.name for path in Path(recipes).glob("*.yaml")) == sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.slow
def test_the_command_works_from_the_wheel_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, tmp_path, "raybert", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "quickstart" in shown.stdout
    checked = run(installed, tmp_path, "raybert", "doctor", "--json")
    assert checked.returncode in (0, 1), checked.stderr  # 1: a blocker of this machine, not of the wheel
    assert isinstance(json.loads(checked.stdout), dict)
