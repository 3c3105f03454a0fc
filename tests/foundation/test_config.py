from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from foundation.config import Config, PathText, RefText, dump_yaml, load, with_values
from foundation.errors import ConfigError


class Warmup(Config):
    steps: int = 10


class Schedule(Config):
    decay: Literal["linear", "cosine"] = "linear"
    peak_lr: float = Field(default=1e-4, gt=0)
    warmup: Warmup | None = None


class Recipe(Config):
    name: str
    schedule: Schedule = Schedule()
    sizes: tuple[int, ...] = ()
    note: str | None = None

    @field_validator("name")
    @classmethod
    def _lower(cls, name: str) -> str:
        if name != name.lower():
            raise ValueError("names are lower case")
        return name


class Located(Config):
    data: PathText = "data"
    encoder: RefText = "none"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refusal(file: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(Recipe, file, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_recipe_is_the_file_with_overrides_applied_in_order(write) -> None:
    recipe = load(Recipe, write("name: small\nschedule: {decay: cosine}\n"), ["schedule.peak_lr=0.5", "schedule.peak_lr=0.25"])
    assert recipe == Recipe(name="small", schedule=Schedule(decay="cosine", peak_lr=0.25))


def test_overrides_alone_make_a_recipe() -> None:
    assert load(Recipe, None, ["name=small", "sizes=[1, 2]", "schedule.warmup.steps=3"]) == Recipe(
        name="small", sizes=(1, 2), schedule=Schedule(warmup=Warmup(steps=3))
    )


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("2E-5", 2e-5), ("1.5e+2", 150.0), ("3", 3.0), ("0.1", 0.1)])
def test_numbers_may_be_written_as_people_write_them(text: str, value: float) -> None:
    assert load(Recipe, None, ["name=a", f"schedule.peak_lr={text}"]).schedule.peak_lr == value


def test_a_number_with_an_exponent_in_the_file_is_a_number(write) -> None:
    assert load(Recipe, write("name: a\nschedule: {peak_lr: 1e-4}\n")).schedule.peak_lr == 1e-4


def test_words_with_an_e_stay_words() -> None:
    assert load(Recipe, None, ["name=cheese"]).name == "cheese"


def test_an_unknown_key_names_file_key_and_the_nearest_known_one(write) -> None:
    path = write("name: a\nschedule: {deca: linear}\n")
    assert refusal(path) == f"{path}: schedule.deca: unknown key; did you mean decay? known keys: decay, peak_lr, warmup"


def test_an_unknown_override_is_refused_where_an_optional_group_is_meant(write) -> None:
    assert refusal(write("name: a\n"), "schedule.warmup.step=1").endswith(
        "schedule.warmup.step: unknown key; did you mean steps? known keys: steps"
    )


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("schedule.peak_lr=fast", ["schedule.peak_lr", "'fast'", "number"]),
        ("schedule.peak_lr=-1", ["schedule.peak_lr", "-1", "greater than 0"]),
        ("schedule.decay=cubic", ["schedule.decay", "'cubic'", "'linear' or 'cosine'"]),
        ("sizes=3", ["sizes", "found 3", "tuple"]),
        ("name=LOUD", ["name", "names are lower case"]),
    ],
)
def test_a_wrong_value_names_key_what_was_found_and_what_is_expected(override: str, parts: list[str]) -> None:
    message = refusal(None, "name=a", override)
    assert message.startswith("command line: ")
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_a_missing_key_says_how_to_give_it() -> None:
    assert refusal(None) == "command line: name: missing; it has no default, so give it in the recipe or as name=VALUE"


def test_every_mistake_of_a_recipe_is_named_at_once(write) -> None:
    assert len(refusal(write("nam: a\nschedule: {peak_lr: x}\n")).splitlines()) == 3


@pytest.mark.parametrize("override", ["name", "=a", ""])
def test_an_override_without_key_or_value_is_explained(override: str) -> None:
    assert "expected KEY=VALUE" in refusal(None, override)


def test_an_override_below_a_plain_value_is_refused(write) -> None:
    assert "schedule holds a value, not a group of keys" in refusal(write("name: a\nschedule: linear\n"), "schedule.decay=linear")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml").startswith(f"{tmp_path / 'none.yaml'}: no such file")
    assert "is a folder" in refusal(tmp_path)


def test_a_yaml_error_names_the_line(write) -> None:
    assert "line 3: not valid YAML" in refusal(write("name: a\nschedule:\n  decay: [linear\n"))[:200] or "line 4" in refusal(
        write("name: a\nschedule:\n  decay: [linear\n")
    )


def test_bytes_that_are_not_utf8_are_located(write) -> None:
    assert "byte 6 is not UTF-8" in refusal(write(b"name: \xff\n"))


def test_a_file_that_is_not_a_mapping_is_refused(write) -> None:
    assert "found a list, expected a mapping" in refusal(write("- a\n"))


def test_an_empty_file_is_a_recipe_of_defaults(write) -> None:
    assert load(Schedule, write("")) == Schedule()


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Schedule().peak_lr = 1.0  # type: ignore[misc]


def test_with_values_replaces_dotted_keys_and_validates_anew() -> None:
    recipe = Recipe(name="a")
    assert with_values(recipe, {"schedule.decay": "cosine", "sizes": [4]}, where="study") == Recipe(
        name="a", sizes=(4,), schedule=Schedule(decay="cosine")
    )
    with pytest.raises(ConfigError, match=r"study: schedule\.peak_lr"):
        with_values(recipe, {"schedule.peak_lr": -1}, where="study")


names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12).map(str.lower).filter(lambda text: text == text.lower())


@given(
    st.builds(
        Recipe,
        name=names,
        sizes=st.lists(st.integers(-(2**40), 2**40), max_size=4).map(tuple),
        note=st.none() | names,
        schedule=st.builds(
            Schedule,
            decay=st.sampled_from(["linear", "cosine"]),
            peak_lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
            warmup=st.none() | st.builds(Warmup, steps=st.integers(0, 10**6)),
        ),
    )
)
def test_what_is_dumped_loads_as_the_same_recipe(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.mktemp("dumped") / "recipe.yaml"
    path.write_text(dump_yaml(recipe), encoding="utf-8")
    assert load(Recipe, path) == recipe


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_any_number_survives_as_an_override(value: float) -> None:
    assert math.isclose(load(Schedule, None, [f"peak_lr={value!r}"]).peak_lr, value, rel_tol=0)


def test_relative_paths_become_absolute_where_the_recipe_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYBERT_BASE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    located = load(Located, None, ["data=a/../reviews.csv", "encoder=model"])
    assert located == Located(data=str(tmp_path / "reviews.csv"), encoder=str(tmp_path / "model"))


def test_in_a_job_relative_paths_mean_the_folder_of_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBERT_BASE_DIR", str(tmp_path))
    assert Located(data="reviews.csv").data == str(tmp_path / "reviews.csv")


@pytest.mark.parametrize("uri", ["s3://bucket/reviews.csv", "/data/reviews.csv"])
def test_uris_and_absolute_paths_stay(uri: str) -> None:
    assert Located(data=uri).data == uri


@pytest.mark.parametrize("ref", ["reviews@champion", "reviews/2", "pypi:a==1/b", "org/model"])
def test_a_reference_that_is_no_folder_stays_as_written(ref: str) -> None:
    assert Located(encoder=ref).encoder == ref
