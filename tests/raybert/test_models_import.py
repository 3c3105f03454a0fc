"""A model that was trained elsewhere on the command line: imported, served, refused as champion, evaluated, promoted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from encoder.classifier import SequenceClassifier
from raybert.main import main
from serving.config import ServiceConfig
from serving.host import ModelHost
from serving.schema import ClassifyRequest, ClassifyResponse
from tests.support.tiny import make_classifier_bundle


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    folder = make_classifier_bundle(tmp_path / "foreign").path
    (folder / "raybert.json").unlink()
    return folder


def ask(ref: str, text: str) -> ClassifyResponse:
    async def run() -> ClassifyResponse:
        host = ModelHost(ServiceConfig(model=ref))
        await host.start()
        try:
            return await host.classify(ClassifyRequest(inputs=text))
        finally:
            await host.close()

    return asyncio.run(run())


@pytest.mark.slow
def test_an_imported_model_is_served_evaluated_and_promoted(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(*arguments: str, code: int = 0) -> dict[str, Any]:
        assert main([*arguments, "--json"]) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    made = answer("models", "import", str(foreign), "--name", "reviews")
    assert (made["ref"], made["chosen"], made["labels"]) == ("reviews/1", "the folder itself", ["negative", "positive"])
    wanted = SequenceClassifier.load(foreign).score(["this is a good product"])[0]
    served = ask("reviews/1", "this is a good product")
    assert {item.label: item.score for item in served.results[0].labels} == pytest.approx(
        dict(zip(("negative", "positive"), wanted.tolist(), strict=True)), abs=1e-4
    )
    assert "no gate was checked (run `raybert evaluate`" in answer("models", "promote", "reviews/1", code=3)["error"]
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\na good movie,positive\na bad movie,negative\n")
    assert main(["evaluate", "--model", "reviews/1", "--data", str(rows), "--gate", "accuracy=0"]) == 0
    assert "to hold back" not in capsys.readouterr().err  # nothing is trained
    assert answer("models", "promote", "reviews/1")["aliases"] == ["champion"]
    marked = tmp_path / "marked.csv"
    trained = "good,positive,train\nbad,negative,train\n"
    marked.write_text(f"text,label,part\n{trained}a good movie,positive,test\na bad movie,negative,test\nbad one,negative,test\n")
    of_test = answer("evaluate", "--model", "reviews/1", "--data", str(marked), "--split-column", "part", "--gate", "accuracy=0")
    assert of_test["rows"] == 3
    assert "baseline_accuracy" in of_test["metrics"]  # fitted on the rows that are marked as train


def test_without_a_name_the_bundle_lies_in_a_run_folder_and_a_dry_run_writes_nothing(
    foreign: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["models", "import", str(foreign), "--labels", "bad, good", "--task", "multi_label"]
    assert main([*asked, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["import"]
    assert (plan["task"], plan["labels"], plan["folder"]) == ("multi_label", ["bad", "good"], str(foreign))
    assert not home.exists()
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "gates     none checked; `raybert evaluate --model" in told
    (bundle,) = home.glob("runs/import-*/bundle")
    assert str(bundle) in told
    assert not (home / "mlflow.db").exists()
    assert ask(str(bundle), "good").results[0].labels


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "ranking"], "--task: found 'ranking', expected single_label, multi_label, regression"),
        (["--name", "a/b"], "a model name holds neither '/' nor '@'"),
        (["--labels", "a"], "--labels: 1 names for 2 labels"),
        (["--max-length", "1000"], "positions for 64"),
        (["--examples", "none.txt"], "none.txt: cannot be read"),
    ],
)
def test_bad_options_are_one_message_and_write_nothing(
    more: list[str], message: str, foreign: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "import", str(foreign), *more]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert not home.exists()
