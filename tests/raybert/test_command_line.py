"""The front door in one process: what is offered, how errors end, which exit codes come back."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from corpus.build import apply
from corpus.config import DataConfig
from corpus.planning import plan
from corpus.stages import map_here
from foundation.bundle import Gate, seal
from foundation.config import dump_yaml
from foundation.registry import Registry
from raybert import __version__
from raybert.main import VERBS, main
from tests.conftest import ROOT
from tests.support.tiny import make_classifier_bundle, make_encoder, write_reviews


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    for sub in sorted(getattr(command, "commands", {})):
        yield from leaves(command.commands[sub], f"{name} {sub}")
    if not getattr(command, "commands", {}):
        yield name, command


def verb(name: str) -> Any:
    return typer.main.get_command(importlib.import_module(f"raybert.verbs.{VERBS[name]}").COMMANDS[name])


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_that_is_offered_is_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: raybert {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", VERBS)
def test_every_command_shows_an_example_and_can_answer_a_machine(name: str) -> None:
    for full, command in leaves(verb(name), f"raybert {name}"):
        options = {option for parameter in command.params for option in parameter.opts}
        default = getattr(verb(name), "default", None)
        named = full.removesuffix(f" {default}") if default else full
        assert f"Example: {named}" in " ".join((command.help or "").split()), f"{full}: its help shows no example"
        assert all(part.count("Example: ") <= 1 for part in (command.help or "").split("\n\n")), f"{full}: examples run into each other"
        assert "--json" in options, f"{full}: no --json"
        # ``plan`` starts nothing in any case.
        assert "--config" not in options or "--dry-run" in options or name == "plan", f"{full}: takes a recipe but has no --dry-run"
        assert all(getattr(parameter, "help", None) for parameter in command.params if parameter.name != "help"), (
            f"{full}: an option without a word of help"
        )


def test_the_help_lists_every_verb_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    described = {line.split()[0] for line in lines if len(line.split()) > 2}
    assert set(VERBS) <= described
    assert all(len(line) <= 120 for line in lines)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"raybert {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["teach"], "teach"),
        (["models", "promte", "a/1"], "Did you mean 'promote'?"),
        (["models", "list", "--quiet"], "--quiet"),
        (["models", "promote"], "ref"),
    ],
)
def test_bad_usage_is_one_message_and_code_2(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert word in err
    assert len(err.splitlines()) == 1


def test_with_json_an_error_is_also_one_line_for_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "nobody", "--json"]) == 2
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["exit_code"] == 2
    assert err == f"error: {answer['error']}\n"
    assert "nobody: no such model" in answer["error"]


def test_what_follows_two_dashes_is_not_ours_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teach", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_an_interrupt_is_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "names", interrupt)
    assert main(["models", "list"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted")


@pytest.mark.parametrize("arguments", [[], ["models"]])
def test_a_group_without_a_command_shows_its_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(" ".join(["Usage: raybert", *arguments]))
    assert "--install-completion" not in err


def register(folder: Path, passed: bool) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    gate = Gate(metric="accuracy", wanted=0.8, found=0.9 if passed else 0.5, passed=passed)
    bundle = seal(folder, task="single_label", labels=("a", "b"), max_length=8, run_id="r", data_fingerprint="0" * 64, gates=(gate,))
    Registry().register("reviews", bundle, source=str(folder), run_id="0" * 32)


@pytest.mark.slow
def test_the_life_of_a_model_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(*arguments: str) -> dict[str, Any]:
        assert main([*arguments, "--json"]) == 0
        out = capsys.readouterr().out
        assert len(out.splitlines()) == 1
        found: dict[str, Any] = json.loads(out)
        return found

    assert answer("models", "list") == {"models": []}
    for number, passed in enumerate((True, True, False), start=1):
        register(tmp_path / f"bundle-{number}", passed)

    plan = answer("models", "promote", "reviews/1", "--dry-run")
    assert plan["dry_run"] is True
    assert answer("models", "list")["models"][0]["champion"] is None

    answer("models", "promote", "reviews/1")
    answer("models", "promote", "reviews/2")
    assert answer("models", "list") == {"models": [{"name": "reviews", "champion": 2, "versions": 3}]}
    assert main(["models", "promote", "reviews/3"]) == 3
    assert "accuracy is 0.5000, wanted 0.8000" in capsys.readouterr().err
    assert answer("models", "rollback", "reviews")["ref"] == "reviews/1"
    assert answer("models", "show", "reviews@champion")["version"]["version"] == 1

    assert answer("models", "promote", "reviews/3", "--as", "challenger")["aliases"] == ["challenger"]
    forced = answer("models", "promote", "reviews/3", "--force", "--reason", "a demonstration")["move"]
    assert (forced["forced"], forced["before"]) == (True, 1)
    history = answer("models", "show", "reviews")["history"]
    assert [(move["action"], move["version"]) for move in history] == [
        ("promote", 1),
        ("promote", 2),
        ("rollback", 1),
        ("challenge", 3),
        ("promote", 3),
    ]
    assert main(["models", "show", "reviews"]) == 0
    assert "promote 3 (was 1)  a demonstration  FORCED although accuracy is 0.5000" in capsys.readouterr().out
    assert answer("models", "list", "--data", "000")["versions"][0]["ref"] == "reviews/3"
    assert answer("models", "list", "--run", "nobody") == {"versions": []}
    found = answer("models", "diff", "reviews/1", "reviews/3")
    assert (found["same_files"], found["labels_added"]) == (True, [])

    answer("models", "rollback", "reviews")
    would = answer("models", "prune", "--keep", "0", "--dry-run")
    assert ([item["ref"] for item in would["removed"]], len(would["stay"])) == (["reviews/2"], 2)
    went = answer("models", "prune", "--keep", "0")
    assert [item["ref"] for item in went["removed"]] == ["reviews/2"]
    assert answer("models", "list")["models"][0]["versions"] == 2
    assert (tmp_path / "bundle-2" / "config.json").is_file(), "a folder outside the store is not the registry's to remove"

    target = tmp_path / "exported"
    answer("models", "export", "reviews@champion", str(target))
    assert answer("models", "verify", str(target))["valid"] is True
    (target / "config.json").write_text("{ }")
    assert main(["models", "verify", str(target)]) == 2
    assert f"{target / 'config.json'}: altered" in capsys.readouterr().err


def test_looking_at_labelled_rows_tells_their_mix_and_what_is_odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [("same", ["a", "b"], "train"), ("same", ["a"], "test"), ("other", ["b"], "train")]
    file.write_text("".join(json.dumps({"text": text, "tags": tags, "part": part}) + "\n" for text, tags, part in rows))
    asked = ["data", "show", str(file), "--label-column", "tags", "--label-kind", "list", "--split-column", "part"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["labels"], found["splits"]) == ({"a": 2, "b": 2}, {"train": 2, "test": 1})
    assert {finding["kind"] for finding in found["findings"]} == {"conflicts", "leaks", "small_classes"}
    assert main(asked) == 0
    assert "conflicts: 1 text has different labels: rows.jsonl#1 (a, b), rows.jsonl#2 (a)" in capsys.readouterr().out
    assert main([*asked, "--pair-column", "none"]) == 2
    assert "no key 'none'" in capsys.readouterr().err


def test_a_fine_tune_warns_once_of_what_the_checks_found_and_tells_it_to_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    rows = [f"text {i},{'good' if i % 2 else 'bad'}" for i in range(30)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows, "same,good", "same,bad"]) + "\n")
    asked = [f"encoder={encoder}", f"data.train={tmp_path / 'rows.csv'}", "data.validation_fraction=0", "max_length=32"]
    capsys.readouterr()
    assert main(["finetune", *asked, "data.checks.duplicates=ignore", "--dry-run", "--json"]) == 0
    told = capsys.readouterr()
    warnings = [line for line in told.err.splitlines() if line.startswith("warning: 1 text")]
    assert warnings == ["warning: 1 text has different labels: rows.csv#31 (good), rows.csv#32 (bad)"]
    (finding,) = json.loads(told.out)["findings"]
    assert (finding["kind"], finding["severity"], finding["rows"]) == ("conflicts", "warn", ["rows.csv#31", "rows.csv#32"])


def test_the_encoder_option_is_stronger_than_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_reviews(tmp_path / "rows.csv")
    (tmp_path / "recipe.yaml").write_text("encoder: nowhere\ndata: {train: rows.csv}\nmax_length: 32\n")
    encoder = make_encoder(tmp_path / "encoder")
    asked = ["finetune", "-c", str(tmp_path / "recipe.yaml"), f"data.train={tmp_path / 'rows.csv'}", "--dry-run", "--json"]
    capsys.readouterr()
    assert main([*asked, "encoder=elsewhere", "--encoder", str(encoder)]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["recipe"]["encoder"], planned["location"]) == (str(encoder), str(encoder))


def test_a_build_tells_its_findings_also_when_there_is_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    rows = [f"text {i},{'good' if i % 2 else 'bad'}" for i in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows, "same,good", "same,bad"]) + "\n")
    source = {"path": str(tmp_path / "rows.csv"), "label_column": "label"}
    keys = {"tokenizer": str(tmp_path), "out": str(tmp_path / "built"), "validation_fraction": 0, "checks": {"duplicates": "ignore"}}
    recipe = DataConfig.model_validate({"sources": {"rows": source}, **keys})
    apply(plan(recipe, tmp_path), map_here)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))
    assert main(["data", "build", "-c", str(tmp_path / "recipe.yaml"), "--json"]) == 0
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "warning: 1 text has different labels: rows.csv#41 (good), rows.csv#42 (bad)"
    assert [finding["rows"] for finding in json.loads(told.out)["findings"]] == [["rows.csv#41", "rows.csv#42"]]
    assert json.loads(told.out)["skipped"] is True


def test_an_evaluation_refuses_labels_that_the_model_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_classifier_bundle(tmp_path / "bundle").path
    rows = tmp_path / "rows.csv"
    rows.write_text("text,score\n" + "".join(f"text {i},{i / 3}\n" for i in range(12)))
    source = {"path": str(rows), "label_column": "score", "label_kind": "number"}
    recipe = DataConfig.model_validate({"sources": {"rows": source}, "tokenizer": str(bundle), "out": str(tmp_path / "built")})
    apply(plan(recipe, bundle), map_here)
    assert main(["evaluate", "--model", str(bundle), "--data", recipe.out]) == 2
    assert "built: found label_kind: number; a single_label model is measured on label_kind: single" in capsys.readouterr().err


def test_an_evaluation_never_measures_the_training_rows_of_a_build_in_place_of_test_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_classifier_bundle(tmp_path / "bundle").path
    rows = write_reviews(tmp_path / "rows.csv")
    source = {"path": str(rows), "label_column": "label"}
    recipe = DataConfig.model_validate({"sources": {"rows": source}, "tokenizer": str(bundle), "out": str(tmp_path / "built")})
    apply(plan(recipe, bundle), map_here)
    asked = ["evaluate", "--model", str(bundle), "--data", recipe.out, "--gate", "accuracy=0"]
    assert main(asked) == 2
    assert "built: holds no test rows; --split chooses others, or build it anew with test_fraction above 0" in capsys.readouterr().err
    assert main([*asked, "--split", "validation"]) == 0


LATE = """
import os, signal
from raybert import main

class Late:
    def __init__(self, kill, process, number):
        self.told = kill, process, number
    def __del__(self):
        kill, process, number = self.told
        kill(process, number)

late = Late(os.kill, os.getpid(), signal.SIGINT)  # when modules are taken apart, behind the last exception
main.main = lambda: main.INTERRUPTED
main.command()
"""


def test_ctrl_c_while_python_itself_ends_does_not_change_the_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "")


INTERRUPTED_IN_EXEC = """
from raybert import main

def interrupted():
    try:
        exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    except KeyboardInterrupt:
        return main.INTERRUPTED

main.main = interrupted
main.command()
"""


def test_ctrl_c_while_a_module_is_imported_ends_with_130_under_python_m_too(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_IN_EXEC, encoding="utf-8")
    command = [sys.executable, "-m", "interrupted"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "")
