"""Classifiers that others trained become bundles that score the same; what is wrong with a folder is one message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.classifier import SequenceClassifier
from encoder.importing import import_model, plan_import
from foundation.bundle import Bundle, open_bundle
from foundation.errors import DataError, EncoderError
from tests.support.tiny import make_classifier_bundle, make_encoder, make_roberta_encoder

LABELS = ("negative", "neutral", "positive")
TEXTS = ["this is a good product", "a bad movie", "good " * 100]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_foreign(tmp_path_factory.mktemp("original") / "model")


def make_foreign(folder: Path, labels: Any = LABELS, **more: Any) -> Path:
    """What transformers saves of a classifier: no raybert.json."""
    made = make_classifier_bundle(folder, labels, **more)
    (made.path / "raybert.json").unlink()
    return folder


@pytest.fixture
def foreign(original: Path, tmp_path: Path) -> Path:
    """A copy of the original that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit(folder: Path, **changes: Any) -> Path:
    """Change keys of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def imported(source: Path, target: Path, **options: Any) -> Bundle:
    import_model(plan_import(source, **options), target, run_id="import-1")
    return open_bundle(target)


def as_pickle(folder: Path) -> Path:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def refusal(source: Path, **options: Any) -> str:
    with pytest.raises(EncoderError) as refused:
        plan_import(source, **options)
    assert refused.value.exit_code == 2
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_imported_model_scores_as_the_original_does(family: str, tmp_path: Path) -> None:
    encoder = {"bert": make_encoder, "roberta": make_roberta_encoder}[family]
    source = make_foreign(tmp_path / "model", encoder=encoder)
    bundle = imported(source, tmp_path / "bundle")
    manifest = bundle.manifest
    assert (manifest.task, manifest.labels, manifest.max_length, manifest.gates) == ("single_label", LABELS, 64, ())
    assert (manifest.data_fingerprint, manifest.run_id, manifest.takes_pairs) == ("unknown", "import-1", False)
    wanted = SequenceClassifier.load(source).score(TEXTS)
    np.testing.assert_allclose(SequenceClassifier.load(bundle.path).score(TEXTS), wanted, atol=1e-6)
    assert len(manifest.golden) == 4
    assert not any(name.endswith(".bin") for name in manifest.files)


def test_task_labels_and_length_can_be_told(foreign: Path, tmp_path: Path) -> None:
    bundle = imported(foreign, tmp_path / "bundle", task="multi_label", labels=["a", "b", "c"], max_length=32)
    assert (bundle.manifest.task, bundle.manifest.labels, bundle.manifest.max_length) == ("multi_label", ("a", "b", "c"), 32)
    config = json.loads((bundle.path / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("multi_label_classification", {"0": "a", "1": "b", "2": "c"})
    assert SequenceClassifier.load(bundle.path).tokenize(TEXTS)[2].truncated
    assert "positions for 64" in refusal(foreign, max_length=65)
    assert "--labels: 2 names for 3 labels (negative, neutral, positive)" in refusal(foreign, labels=["a", "b"])
    assert "two labels are named 'a'" in refusal(foreign, labels=["a", "b", "a"])


@pytest.mark.parametrize(("count", "task"), [(1, "regression"), (3, "single_label")])
def test_a_missing_problem_type_is_taken_from_the_number_of_labels_and_said(count: int, task: str, tmp_path: Path) -> None:
    source = edit(make_foreign(tmp_path / "model", LABELS[:count], task=task), problem_type=None)
    plan = plan_import(source)
    assert plan.task == task
    assert plan.notes == (f"config.json has no problem_type; taken as {task} from {count} label(s), --task says otherwise",)
    assert plan_import(source, task="multi_label").notes == ()
    wrong = {"regression": "single_label", "single_label": "regression"}[task]
    assert f"{wrong} with {count} label(s)" in refusal(source, task=wrong)


def test_labels_without_names_are_kept_and_warned_of(foreign: Path) -> None:
    edit(foreign, id2label={str(index): f"LABEL_{index}" for index in range(3)})
    plan = plan_import(foreign)
    assert plan.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert "--labels gives them names that mean something" in plan.notes[0]
    assert plan_import(foreign, labels=LABELS).notes == ()


def test_pairs_are_recorded_from_examples_or_built_in_sentences(foreign: Path, tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    rows = [{"text": "a good movie", "text_pair": "is it good?"}, {"text": "bad", "text_pair": "the plot"}]
    examples.write_text("\n".join(json.dumps(row) for row in rows))
    bundle = imported(foreign, tmp_path / "bundle", examples=examples)
    assert bundle.manifest.takes_pairs
    assert [request.input for request in bundle.manifest.golden] == [(row["text"], row["text_pair"]) for row in rows]
    assert all(isinstance(text, tuple) for text in plan_import(foreign, takes_pairs=True).examples)
    plain = tmp_path / "examples.txt"
    plain.write_text("one text\n\nanother\n")
    assert plan_import(foreign, examples=plain).examples == ("one text", "another")
    with pytest.raises(DataError, match=r"examples\.txt: line 1: a single text, expected pairs"):
        plan_import(foreign, examples=plain, takes_pairs=True)
    examples.write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"line 2: expected an object with text"):
        plan_import(foreign, examples=examples)


def make_run(folder: Path, original: Path, *, best: str | None, steps: tuple[int, ...] = (5, 10, 15)) -> Path:
    """What Trainer leaves: checkpoints without a tokenizer, of which each has the state of its time; a tokenizer in the run folder."""
    for step in steps:
        checkpoint = Path(shutil.copytree(original, folder / f"checkpoint-{step}"))
        edit(checkpoint, hidden_dropout_prob=step / 100)
        state = {"global_step": step, "best_model_checkpoint": best}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            if (checkpoint / name).exists():
                (checkpoint / name).replace(folder / name)
    return folder


def test_of_a_trainer_run_the_best_checkpoint_is_taken_else_its_own_model_else_the_last(original: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "best", original, best="/home/somebody/out/checkpoint-10")
    plan = plan_import(run)
    assert (plan.folder.name, plan.chosen) == ("checkpoint-10", "checkpoint-10, the best checkpoint by trainer_state.json")
    assert plan.tokenizer == run
    assert json.loads((imported(run, tmp_path / "bundle").path / "config.json").read_text())["hidden_dropout_prob"] == 0.1
    last = plan_import(make_run(tmp_path / "last", original, best=None))
    assert (last.folder.name, last.chosen) == ("checkpoint-15", "checkpoint-15, the last of 3 checkpoints")
    gone = plan_import(make_run(tmp_path / "gone", original, best="out/checkpoint-7"))
    assert gone.chosen == "checkpoint-15, the last of 3 checkpoints (checkpoint-7, the best one, is not there any more)"
    saved = make_run(tmp_path / "saved", original, best=None)
    shutil.copytree(original, saved, dirs_exist_ok=True)
    assert (plan_import(saved).folder, plan_import(saved).chosen) == (saved, "the run folder's own model")


def test_a_pickle_is_refused_with_what_to_do_and_read_as_tensors_where_allowed(foreign: Path, tmp_path: Path) -> None:
    wanted = SequenceClassifier.load(foreign).score(TEXTS)
    as_pickle(foreign)
    message = refusal(foreign)
    assert "pytorch_model.bin is a pickle, which can run code when it is opened" in message
    assert "save_pretrained(NEW)" in message
    assert "--allow-pickle" in message
    bundle = imported(foreign, tmp_path / "bundle", allow_pickle=True)
    np.testing.assert_allclose(SequenceClassifier.load(bundle.path).score(TEXTS), wanted, atol=1e-6)
    assert [name for name in bundle.manifest.files if "model" in name] == ["model.safetensors"]


class _Harmful:
    def __reduce__(self) -> Any:
        return print, ("this code ran",)


def test_a_pickle_that_holds_code_runs_nothing_even_where_pickles_are_allowed(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    (foreign / "model.safetensors").unlink()
    torch.save({"weight": _Harmful()}, foreign / "pytorch_model.bin")
    plan = plan_import(foreign, allow_pickle=True)
    with pytest.raises(EncoderError, match="the weights could not be read"):
        import_model(plan, tmp_path / "bundle", run_id="import-1")
    assert "this code ran" not in capsys.readouterr().out
    assert not (tmp_path / "bundle").exists()


def test_a_head_that_was_never_trained_is_refused_not_drawn_at_random(foreign: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(foreign / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(kept, foreign / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"2 weights of the model are not there \(classifier\.bias, classifier\.weight\)"):
        import_model(plan_import(foreign), tmp_path / "bundle", run_id="import-1")
    edit(foreign, id2label={"0": "a", "1": "b"})
    shutil.copy(make_foreign(tmp_path / "other") / "model.safetensors", foreign)
    with pytest.raises(EncoderError, match="the weights could not be read"):
        import_model(plan_import(foreign), tmp_path / "bundle", run_id="import-1")
    (foreign / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(EncoderError, match="the weights could not be read"):
        import_model(plan_import(foreign), tmp_path / "bundle", run_id="import-1")
    assert not (tmp_path / "bundle").exists()


def test_each_kind_of_bad_folder_is_one_message(foreign: Path, tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "is a file; give its folder" in refusal(foreign / "config.json")
    (tmp_path / "empty").mkdir()
    assert "holds neither config.json nor checkpoint-* folders" in refusal(tmp_path / "empty")
    assert "is a bundle already" in refusal(make_classifier_bundle(tmp_path / "bundle").path)
    assert "is a BertModel, expected one that ends in ForSequenceClassification" in refusal(make_encoder(tmp_path / "encoder"))
    for changes, message in (
        ({"architectures": None}, "names no architecture"),
        ({"id2label": {"0": "a", "2": "c"}}, "id2label names 0, 2 of 2 labels; it has to name 0 to 1"),
        ({"model_type": "mine", "auto_map": {}}, "model_type 'mine' brings code of its own, which is not run"),
        ({"model_type": "mine", "auto_map": None}, "model_type 'mine' is unknown to transformers"),
        ({"model_type": "bert", "vocab_size": 10}, "the model has 10 embeddings"),
    ):
        broken = edit(Path(shutil.copytree(foreign, tmp_path / "broken")), **changes)
        assert message in refusal(broken)
        shutil.rmtree(broken)
    (foreign / "model.safetensors").rename(tmp_path / "kept")
    assert "holds no weights" in refusal(foreign)
    (tmp_path / "kept").rename(foreign / "model.safetensors")
    for name in ("tokenizer.json", "vocab.txt"):
        (foreign / name).unlink(missing_ok=True)
    assert "holds no tokenizer" in refusal(foreign)
    assert plan_import(foreign, tokenizer=make_encoder(tmp_path / "tokenizer")).tokenizer == tmp_path / "tokenizer"
    (foreign / "config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(foreign)
