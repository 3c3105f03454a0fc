from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from foundation.home import Home, git_revision, home, new_run_id, write_atomically, write_json


def test_one_variable_moves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    here = home()
    assert here.root == tmp_path / "here"
    assert {here.runs.parent, here.cache.parent, here.clusters.parent, here.artifacts.parent} == {here.root}
    assert here.tracking_uri == f"sqlite:///{tmp_path}/here/mlflow.db"
    assert not here.root.exists()  # naming a path creates nothing


def test_a_tracking_server_that_is_given_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert Home(tmp_path).tracking_uri == "http://127.0.0.1:5000"


def test_run_ids_tell_their_verb_and_never_come_twice() -> None:
    made = {new_run_id("finetune") for _ in range(500)}
    assert len(made) == 500
    assert all(run_id.startswith("finetune-20") for run_id in made)


def test_an_atomic_write_replaces_the_file_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    write_json(path, {"a": "é"})
    write_json(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert [item.name for item in path.parent.iterdir()] == ["state.json"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "state.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["state.txt"]


def test_the_git_revision_says_whether_files_differ(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    commit = git("rev-parse", "HEAD")
    assert git_revision(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert git_revision(tmp_path) == f"{commit}+dirty"
