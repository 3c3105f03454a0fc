"""``raybert data build`` as a user runs it: a real process, a real Ray, real files."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

Raybert = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and a labelled CSV."""
    folder = tmp_path_factory.mktemp("data_build")
    (folder / "tokenizer").mkdir()
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    write_csv(folder / "reviews.csv", 60)
    (folder / "bad.csv").write_text("text,label\none,x\ntwo,x\n")
    return folder


def write_csv(file: Path, rows: int) -> None:
    file.write_text("text,label\n" + "".join(f"text number {i} is here,{'good' if i % 2 else 'bad'}\n" for i in range(rows)))


def command(place: Path, csv: str, *extra: str) -> list[str]:
    source = [f"sources.reviews.path={place / csv}", "sources.reviews.label_column=label"]
    verb = [sys.executable, "-m", "raybert", "data", "build", *source]
    return [*verb, f"tokenizer={place / 'tokenizer'}", f"out={place / 'built'}", "sequence_length=64", *extra]


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "RAYBERT_HOME": str(place / "home")}


@pytest.fixture(scope="module")
def build(place: Path) -> Raybert:
    def run(csv: str = "reviews.csv", *extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(place, csv, *extra), env=environment(place), capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture(scope="module")
def built(build: Raybert) -> dict[str, Any]:
    done = build("reviews.csv", "--json", "batch_documents=20")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return dict(json.loads(line))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*") if "home" not in path.parts}


def test_a_csv_becomes_shards_and_splits_through_ray(built: dict[str, Any], place: Path) -> None:
    assert built["skipped"] is False
    assert built["labelled"] == {"train": 54, "validation": 6, "test": 0}
    assert built["labels"] == ["bad", "good"]
    assert built["findings"] == []
    manifest = json.loads((place / "built" / "manifest.json").read_text())
    assert manifest["fingerprint"] == built["fingerprint"]
    assert manifest["sources"]["reviews"]["rows"] == 60
    assert {path.name for path in place.iterdir()} <= {"tokenizer", "reviews.csv", "bad.csv", "built", "home", "many.csv"}


def test_ray_and_the_plain_mapper_write_the_same_bytes(built: dict[str, Any], place: Path, tmp_path: Path) -> None:
    from corpus.build import apply
    from corpus.config import DataConfig
    from corpus.manifest import read_manifest
    from corpus.planning import plan
    from corpus.stages import map_here

    recipe = DataConfig.model_validate({**read_manifest(place / "built").recipe, "out": str(tmp_path / "plain")})
    assert apply(plan(recipe, place / "tokenizer"), map_here).fingerprint == built["fingerprint"]


def test_a_tokenizer_is_trained_through_ray_and_the_plain_mapper_trains_the_same(build: Raybert, place: Path, tmp_path: Path) -> None:
    from corpus.build import apply
    from corpus.config import DataConfig
    from corpus.manifest import read_manifest
    from corpus.planning import plan
    from corpus.stages import map_here

    own = ["tokenizer=null", "train_tokenizer.vocabulary=100", f"out={tmp_path / 'own'}", "batch_documents=20", "--json"]
    done = build("reviews.csv", *own)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert 40 < answer["tokenizer"]["vocabulary"] < 100  # the texts give no more
    assert answer["tokenised"]["reviews"]["fertility"] < 1.5
    recipe = DataConfig.model_validate({**read_manifest(tmp_path / "own").recipe, "out": str(tmp_path / "plain")})
    assert apply(plan(recipe, None), map_here).fingerprint == answer["fingerprint"]
    assert json.loads(build("reviews.csv", *own).stdout)["skipped"] is True


def test_the_same_build_is_skipped_and_starts_no_ray(built: dict[str, Any], build: Raybert) -> None:
    done = build("reviews.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] is True
    assert json.loads(done.stdout)["fingerprint"] == built["fingerprint"]
    assert "verified; nothing to do" in done.stderr


def test_a_dry_run_prints_the_plan_and_touches_nothing(built: dict[str, Any], build: Raybert, place: Path) -> None:
    before = tree(place)
    done = build("reviews.csv", "--dry-run", "--json", "seed=9")
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["dry_run"], plan["state"], plan["recipe"]["seed"]) == (0, True, "different", 9)
    assert tree(place) == before


@pytest.mark.parametrize(
    ("csv", "extra", "message"),
    [
        ("bad.csv", [], "holds another build"),
        ("bad.csv", ["--replace"], "every row has the label 'x'"),
        ("none.csv", [], "none.csv: no such file"),
        ("reviews.csv", ["sources.reviews.text_column=review", "--replace"], "no column 'review'; it has text, label"),
        ("reviews.csv", ["sequence_lenght=9"], "sequence_lenght: unknown key; did you mean sequence_length?"),
        ("reviews.csv", ["tokenizer=some/hub-name"], "some/hub-name: a hub name"),
        ("reviews.csv", ["seed=3", "--replace", "workers=4000"], "4000"),
    ],
)
def test_bad_input_is_one_message_and_changes_nothing(
    built: dict[str, Any], build: Raybert, place: Path, csv: str, extra: list[str], message: str
) -> None:
    before = tree(place)
    done = build(csv, *extra)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in done.stderr
    assert tree(place) == before


def test_ctrl_c_ends_it_and_leaves_the_old_build(built: dict[str, Any], place: Path) -> None:
    before = tree(place / "built")
    write_csv(place / "many.csv", 40_000)
    process = subprocess.Popen(
        command(place, "many.csv", "--replace", "batch_documents=50"), env=environment(place), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("clean: "):
            break
    else:
        pytest.fail("the per-row work never began")
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait(timeout=30) == 130, errors
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert tree(place / "built") == before
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(built: dict[str, Any], place: Path) -> None:
    write_csv(place / "killed.csv", 4_000)
    command_line = command(place, "killed.csv", "batch_documents=50")
    seed = random.randrange(2**32)
    print(f"kill drawn with seed {seed}")
    draw = random.Random(seed)
    for _ in range(2):
        out = f"out={place / 'cut'}"
        process = subprocess.Popen([*command_line, out], env=environment(place), stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("clean: "):
                break
        time.sleep(draw.uniform(0, 1.5))  # anywhere in what follows
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in (process, *family):  # all of it at once, as when a machine goes down
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait(timeout=20)
        process.stderr.close()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []
        assert not (place / "cut").exists() or (place / "cut" / "manifest.json").is_file()
    for out in ("cut", "undisturbed"):
        home = {"RAYBERT_HOME": str(place / ("home" if out == "cut" else "another home"))}
        done = subprocess.run(
            [*command_line, f"out={place / out}"], env=environment(place) | home, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
    files = [json.loads((place / out / "manifest.json").read_text())["files"] for out in ("cut", "undisturbed")]
    assert files[0] == files[1]
    for name in ("cut", "undisturbed", "another home"):
        shutil.rmtree(place / name)
    (place / "killed.csv").unlink()


def test_a_flipped_byte_is_found_by_name(built: dict[str, Any], build: Raybert, place: Path) -> None:
    shard = place / "built" / "packed" / "shard-00000.arrow"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:300] + bytes([sound[300] ^ 1]) + sound[301:])
    try:
        verify = [sys.executable, "-m", "raybert", "data", "verify", str(place / "built")]
        done = subprocess.run(verify, env=environment(place), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert "packed/shard-00000.arrow: altered" in done.stderr
        again = build("reviews.csv")
        assert again.returncode == 2
        assert "holds a damaged build" in again.stderr
        assert "packed/shard-00000.arrow" in again.stderr
    finally:
        shard.write_bytes(sound)


def test_looking_before_and_after(built: dict[str, Any], place: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        verb = [sys.executable, "-m", "raybert", "data", *arguments]
        return subprocess.run(verb, env=environment(place), capture_output=True, text=True, timeout=60, check=False)

    shown = run("show", str(place / "reviews.csv"), "--label-column", "label", "--tokenizer", str(place / "tokenizer"))
    assert shown.returncode == 0, shown.stderr
    assert "columns:    text, label" in shown.stdout
    assert "bad 30, good 30" in shown.stdout
    page = place / "home" / "report.html"
    told = run("report", str(place / "built"), "--html", str(page))
    assert told.returncode == 0, told.stderr
    assert "packed train: " in told.stdout
    assert page.read_text().startswith("<!doctype html>")
    pruned = run("prune", "--older-than-days", "0", "--dry-run", "--json")
    assert json.loads(pruned.stdout)["files"] > 0
    plan = run("build", "--sample", "50%", "--dry-run", "--json", *command(place, "reviews.csv")[5:])
    assert json.loads(plan.stdout)["recipe"]["sample"] == 0.5
