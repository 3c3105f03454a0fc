"""README keeps its word: every command and every Python example in it runs, on a tiny recipe."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ports import free_port
from tests.conftest import ROOT, Cli, Ran, SharedCluster
from tests.support.tiny import make_encoder

pytestmark = pytest.mark.ray
NOUNS = [
    f"{first} {second}" for first in ("film", "plot", "story", "music", "scene", "actor") for second in ("time", "end", "price", "of it")
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading of README."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no section {title!r}"
    return found[1]


def commands(title: str) -> list[list[str]]:
    """The ``raybert`` commands of a section, comments dropped."""
    blocks = re.findall(r"^```bash\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "raybert"]


def python_blocks(title: str) -> list[str]:
    """The Python examples of a section."""
    return re.findall(r"^```python\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)


class Tiny:
    """Makes README's commands tiny: the same verbs and options, a small encoder and few steps, free ports."""

    def __init__(self, folder: Path) -> None:
        self.encoder = make_encoder(folder / "encoder", positions=128)
        self.port = free_port()
        self.extra: dict[str, list[str]] = {
            "finetune": [f"encoder={self.encoder}", "rows_per_step=8", "max_length=32", "schedule.peak_lr=3e-3", "epochs=4"],
            "data": [f"tokenizer={self.encoder}", "sources.reviews.path=reviews.csv", "sequence_length=32"],
            "plan": ["data.train=builds/reviews", f"encoder={self.encoder}"],
            "pretrain": ["data=builds/reviews", f"encoder={self.encoder}", "steps=4", "rows_per_step=4"],
            "tune": ["recipe.data.train=builds/reviews", f"recipe.encoder={self.encoder}", "trials=2", "report_every_steps=4"],
            "data show": [],
            "tune list": [],
            "serve up": [f"port={self.port}"],
            "query": ["--url", f"http://127.0.0.1:{self.port}"],
            "cluster up": [f"dashboard_port={free_port()}", f"mlflow_port={free_port()}"],
        }
        self.extra["tune"] += ["scheduler.max_steps=8", "scheduler.grace_steps=4"]
        self.extra["jobs submit"] = self.extra["finetune"]

    def __call__(self, command: list[str]) -> list[str]:
        return [*command, *self.extra.get(" ".join(command[:2]), self.extra.get(command[0], []))]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    rows = [f"this is a {word} movie {noun},{label}" for word, label in (("good", "positive"), ("bad", "negative")) for noun in NOUNS]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return Tiny(tmp_path)


def run(cli: Cli, command: list[str], *, timeout_s: float = 200) -> Ran:
    done = cli(*command, timeout_s=timeout_s)
    assert done.exit_code == 0, f"raybert {shlex.join(command)}\n{done.out[-2000:]}\n{done.err[-4000:]}"
    return done


def python(source: str, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", source], cwd=cwd, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_your_own_csv_is_served_in_three_commands_and_every_other_verb_runs(
    tiny: Tiny, shared_cluster: SharedCluster, tmp_path: Path
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    cli = shared_cluster.cli(tmp_path)
    first, *rest = commands("Your own CSV in three commands")
    assert len([command for command in (first, *rest) if command[0] in ("finetune", "models")]) == 2
    run(cli, tiny(first))
    for command in rest:
        if command[:2] == ["serve", "down"]:
            (source,) = python_blocks("Your own CSV in three commands")
            answer = python(source.replace("8000", str(tiny.port)), tmp_path, shared_cluster.env)
            assert "label=" in answer
        done = run(cli, tiny(command))
        if command[0] == "query":
            assert "positive" in done.out
    for command in commands("Every verb"):
        if command[0] == "doctor":
            continue  # says what is wrong with a machine, here too; tests/raybert/test_doctor.py runs it
        run(cli, tiny(command))
    with (tmp_path / "scored.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["text", "label", "predicted_label", "predicted_score"]
    assert (tmp_path / "exported" / "raybert.json").is_file()


@pytest.mark.timeout(400)
def test_the_cluster_section_runs_a_finetune_as_a_job(tiny: Tiny, cli: Cli, tmp_path: Path) -> None:
    try:
        for command in commands("On a cluster"):
            done = run(cli, tiny(command))
            if command[:2] == ["jobs", "submit"]:
                assert "registered as reviews/1" in done.out
            if command[:2] == ["jobs", "list"]:
                assert "SUCCEEDED" in done.out.upper()
    finally:
        cli("cluster", "down", timeout_s=60)


@pytest.mark.timeout(300)
def test_the_two_text_tutorial_says_what_readme_says(shared_cluster: SharedCluster, tmp_path: Path) -> None:
    (source,) = python_blocks("A first tutorial: two texts")
    assert len(source.strip().splitlines()) <= 15
    out = python(source, tmp_path, shared_cluster.env)
    assert out.startswith("1.0 ('negative', 'positive')")


def test_make_has_the_two_targets_of_readme() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)", section("Two commands"), re.MULTILINE)
    assert named == ["quickstart", "test"]
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
