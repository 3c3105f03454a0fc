"""What a job is shipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.code_package import PACKAGES, code_package, take_recipes
from foundation.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_all_our_packages_go_along_and_no_tests_or_caches() -> None:
    files = code_package(["models", "list"]).files
    assert {name.partition("/")[0] for name in files} == set(PACKAGES)
    assert "raybert/__main__.py" in files
    assert not [name for name in files if "test" in name or "__pycache__" in name or name.endswith(".pyc")]
    assert {f"{path.relative_to(ROOT)}" for package in PACKAGES for path in (ROOT / package).rglob("*.py")} <= set(files)


def test_the_shipped_recipes_lie_where_an_installed_raybert_looks_for_them() -> None:
    files = code_package([]).files
    assert {f"raybert/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")} <= set(files)


def test_a_staged_package_runs_by_itself_with_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("steps: 3\n", encoding="utf-8")
    package = code_package(["pretrain", "-c", "mine.yaml"])
    staged = tmp_path / "staged"
    package.stage(staged)
    assert package.arguments == ("pretrain", "-c", "recipes/mine.yaml")
    assert (staged / "recipes" / "mine.yaml").read_text(encoding="utf-8") == "steps: 3\n"
    code = "import raybert.main, foundation, raybert.recipes; print(raybert.main.__file__, foundation.__file__, raybert.recipes.folder())"
    done = subprocess.run([sys.executable, "-c", code], cwd=staged, env={}, capture_output=True, text=True, timeout=30, check=True)
    assert all(part.startswith(str(staged)) for part in done.stdout.split())


@pytest.mark.parametrize("form", [["-c", "a.yaml"], ["-ca.yaml"], ["--config", "a.yaml"], ["--config=a.yaml"]])
def test_every_form_of_naming_a_recipe_is_understood(form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").touch()
    arguments, recipes = take_recipes(["finetune", *form, "steps=2"])
    assert arguments[-2].removeprefix("--config=") == "recipes/a.yaml"
    assert recipes == {"recipes/a.yaml": tmp_path / "a.yaml"}


def test_two_recipes_of_one_name_stay_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.yaml").touch()
    given = [str(tmp_path / folder / "a.yaml") for folder in ("one", "two", "one")]
    arguments, recipes = take_recipes([part for path in given for part in ("-c", path)])
    assert [str(recipes[name]) for name in arguments[1::2]] == given
    assert len(recipes) == 2


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such recipe"):
        take_recipes(["finetune", "-c", str(tmp_path / "none.yaml")])
    with pytest.raises(ConfigError, match="expected a recipe"):
        take_recipes(["finetune", "-c"])


@given(st.lists(st.text(min_size=1).filter(lambda text: not text.startswith(("-c", "--config")))))
def test_arguments_that_name_no_recipe_are_left_as_they_are(arguments: list[str]) -> None:
    assert take_recipes(arguments) == (arguments, {})
