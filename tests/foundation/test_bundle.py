from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.bundle import FORMAT_VERSION, MANIFEST, Bundle, Gate, is_bundle, open_bundle, read_manifest, reseal, seal
from foundation.errors import BundleError
from foundation.profile import profile

MakeBundle = Callable[..., Bundle]


def refusal(folder: Path, **arguments: str) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, **arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_sealed_folder_opens_as_the_same_bundle(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    opened = open_bundle(bundle.path, digest=bundle.digest)
    assert opened == bundle
    assert set(opened.manifest.files) == {"config.json", "model.safetensors", "tokenizer/vocab.txt"}
    assert opened.manifest.gates_passed


def test_no_gate_checked_is_not_gates_passed(make_bundle: MakeBundle) -> None:
    assert not make_bundle(gate=None).manifest.gates_passed
    assert not make_bundle(gate=False).manifest.gates_passed


def test_a_gate_knows_in_which_direction_its_metric_is_better() -> None:
    assert Gate.check("micro_f1", 0.5, 0.5).passed
    assert not Gate.check("micro_f1", 0.5, 0.4).passed
    assert Gate.check("mae", 0.5, 0.4).passed
    assert not Gate.check("rmse", 0.5, 0.6).passed
    assert not any(Gate.check(metric, 0.5, float("nan")).passed for metric in ("accuracy", "mae"))


def test_an_altered_file_is_named(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    weights = bundle.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert refusal(bundle.path).startswith(f"{weights}: altered")


def test_a_missing_file_is_named(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle.path / "tokenizer" / "vocab.txt").unlink()
    assert refusal(bundle.path).startswith(f"{bundle.path / 'tokenizer' / 'vocab.txt'}: missing")


def test_a_surplus_file_is_named(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle.path / "tokenizer" / "extra.txt").write_text("")
    assert refusal(bundle.path) == f"{bundle.path / 'tokenizer' / 'extra.txt'}: not part of the bundle; remove it"


def test_a_manifest_that_was_changed_after_registration_is_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    digest = bundle.digest
    reseal(bundle, metrics={"accuracy": 1.0})
    open_bundle(bundle.path)
    assert "altered since it was registered" in refusal(bundle.path, digest=digest)


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    assert not is_bundle(tmp_path)
    assert "this is not a bundle" in refusal(tmp_path)


def test_a_damaged_manifest_names_the_field(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    del manifest["max_length"]
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    assert "max_length" in refusal(bundle.path)
    (bundle.path / MANIFEST).write_text("{")
    assert "damaged" in refusal(bundle.path)


def test_a_bundle_of_a_newer_format_asks_for_an_upgrade(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    (bundle.path / MANIFEST).write_text(json.dumps(manifest | {"format_version": FORMAT_VERSION + 1}))
    assert f"format_version is {FORMAT_VERSION + 1}" in refusal(bundle.path)


def test_a_bundle_of_a_newer_format_with_fields_unknown_here_also_asks_for_an_upgrade(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    (bundle.path / MANIFEST).write_text(json.dumps(manifest | {"format_version": FORMAT_VERSION + 1, "teacher": "large"}))
    assert "upgrade raybert" in refusal(bundle.path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "parts/state.pkl"])
def test_a_folder_that_holds_a_pickle_is_not_sealed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BundleError, match="is a pickle"):
        seal(tmp_path, task="single_label", max_length=8, run_id="r", data_fingerprint="f")
    assert not is_bundle(tmp_path)


def test_resealing_changes_the_record_and_not_the_files(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(gate=None)
    gate = Gate(metric="macro_f1", wanted=0.5, found=0.6, passed=True)
    resealed = reseal(bundle, gates=(gate,), metrics={"macro_f1": 0.6})
    opened = read_manifest(bundle.path)
    assert opened.gates == (gate,)
    assert opened.files == bundle.manifest.files
    assert opened == resealed.manifest


def test_a_bundle_of_before_profiles_opens_and_a_profile_is_kept(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    del manifest["profile"]
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    assert open_bundle(bundle.path).manifest.profile is None
    found = profile("tokens", {3: 2}, {7: 5}, {"neg": 1, "pos": 1})
    reseal(bundle, profile=found)
    assert open_bundle(bundle.path).manifest.profile == found


GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_a_bundle_of_every_format_version_opens_and_is_resealed_as_the_newest(version: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / MANIFEST).write_bytes((GOLDEN / f"bundle_format_{version}.json").read_bytes())
    bundle = open_bundle(tmp_path)
    assert (bundle.manifest.format_version, bundle.manifest.labels, bundle.manifest.gates_passed) == (
        version,
        ("negative", "positive"),
        True,
    )
    (golden,) = bundle.manifest.golden
    assert golden.scores == {"negative": 0.25, "positive": 0.75}
    if version == 1:
        assert (bundle.manifest.thresholds, bundle.manifest.takes_pairs, golden.input) == ({}, False, "a good film")
    else:
        assert (bundle.manifest.thresholds, bundle.manifest.takes_pairs) == ({"negative": 0.4, "positive": 0.6}, True)
        assert golden.input == ("a good film", "is it good?")
    reseal(bundle, metrics={})
    assert read_manifest(tmp_path).format_version == FORMAT_VERSION


@pytest.mark.parametrize(("thresholds", "task"), [({"neutral": 0.5}, "multi_label"), ({"neg": 0.5}, "single_label")])
def test_thresholds_that_no_label_or_no_task_asks_for_are_refused(make_bundle: MakeBundle, thresholds: dict[str, float], task: str) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    (bundle.path / MANIFEST).write_text(json.dumps(manifest | {"thresholds": thresholds, "task": task}))
    assert "thresholds: " in refusal(bundle.path)
