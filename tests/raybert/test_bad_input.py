"""Bad input through every verb that meets it: one message, exit code 2, nothing written, started or held. No case here reaches Ray.

What needs a cluster or a service is in ``tests/ray/test_bad_input.py``; wrong HTTP requests are in ``tests/serving``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ports import free_port, is_free
from foundation.errors import InputError, RunError
from foundation.folders import new_folder
from foundation.registry import Registry
from tests.conftest import snapshot
from tests.support.bad_input import Refusals, small_disk, taken_port
from tests.support.tiny import make_classifier_bundle
from training.config import CheckpointConfig, PretrainConfig
from training.planning import check_room, checkpoint_bytes, run_bytes

pytestmark = pytest.mark.slow  # a process for every case

FINETUNE = ("finetune", "encoder=tiny", "max_length=64")
BUILD = ("data", "build", "tokenizer=tiny", "out=built", "sources.r.label_column=label")
SPACE = "space={schedule.peak_lr: {kind: log_uniform, low: 1.0e-5, high: 1.0e-3}}"
TUNE = ("tune", "recipe.encoder=tiny", "recipe.max_length=64", SPACE)
PRETRAIN = ("pretrain", "encoder=tiny")
GOOD = "data.train=good.csv"


@pytest.fixture
def taken() -> Iterator[int]:
    with taken_port() as port:
        yield port


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*FINETUNE, "-c", "keys.yaml"], ["keys.yaml: schedule.peek_lr: unknown key; did you mean peak_lr?", "keys.yaml: epoch: unknown"]),
        ([*FINETUNE, GOOD, "epoch=3", "--json"], ["epoch: unknown key; did you mean epochs?"]),
        ([*PRETRAIN, "data=built", "step=3"], ["step: unknown key; did you mean steps?"]),
        ([*TUNE, "trails=3"], ["trails: unknown key; did you mean trials?"]),
        ([*TUNE, f"recipe.{GOOD}", "recipe.schedule.peek_lr=1"], ["recipe.schedule.peek_lr: unknown key; did you mean peak_lr?"]),
        ([*BUILD, "sources.r.path=good.csv", "sequence_lenght=9"], ["sequence_lenght: unknown key; did you mean sequence_length?"]),
        (["serve", "up", "model=bundle", "prot=1"], ["prot: unknown key; did you mean port?"]),
        (["cluster", "up", "node=3"], ["node: unknown key; did you mean nodes?"]),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(assert_refused: Refusals, arguments: list[str], says: list[str]) -> None:
    assert_refused(*arguments, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*FINETUNE, GOOD, "epochs=abc"], ["epochs: found 'abc'", "valid number"]),
        ([*FINETUNE, GOOD, "epochs=true"], ["epochs: found true; expected a number"]),
        ([*FINETUNE, GOOD, "workers.count=1.5"], ["workers.count: found 1.5", "valid integer"]),
        ([*FINETUNE, GOOD, "workers=3"], ["workers: found 3; expected a group of keys: count, cpus_each"]),
        ([*FINETUNE, GOOD, "record_rows=maybe", "--json"], ["record_rows: found 'maybe'", "valid boolean"]),
        ([*PRETRAIN, "data=built", "mask_share=2"], ["mask_share: found 2", "less than 1"]),
        ([*FINETUNE, GOOD, "precision=fp16", "--json"], ["precision is fp16, but workers.gpus_each is 0", "use precision=auto"]),
        ([*FINETUNE, GOOD, "attention=varlen", "dropout=0"], ["attention is varlen, but workers.gpus_each is 0", "use attention=auto"]),
        ([*TUNE, f"recipe.{GOOD}", "trials=two"], ["trials: found 'two'", "valid integer"]),
        ([*BUILD, "sources.r.path=good.csv", "sequence_length=long"], ["sequence_length: found 'long'", "valid integer"]),
        (["serve", "up", "model=bundle", "port=high"], ["port: found 'high'", "valid integer"]),
        (["cluster", "up", "--nodes", "0"], ["nodes: found 0", "greater than or equal to 1"]),
        (["quickstart", "--port", "abc"], ["--port", "valid integer"]),
        (["evaluate", "--model", "bundle", "--data", "good.csv", "--gate", "accuracy=x"], ["--gate accuracy=x: expected METRIC=NUMBER"]),
    ],
)
def test_a_wrong_type_is_named_with_its_key_and_what_was_found(assert_refused: Refusals, arguments: list[str], says: list[str]) -> None:
    assert_refused(*arguments, says=says)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("none.yaml", ["none.yaml: no such file"]),
        ("latin.yaml", ["latin.yaml: byte 5 is not UTF-8"]),
        ("syntax.yaml", ["syntax.yaml: line 2: not valid YAML"]),
        ("list.yaml", ["list.yaml: found a list, expected a mapping"]),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named_with_its_place(assert_refused: Refusals, recipe: str, says: list[str]) -> None:
    assert_refused("finetune", "-c", recipe, says=says)


DATA = {
    "none.csv": ["none.csv: no such file"],
    "empty.csv": ["empty.csv: is empty; expected a header with text, label"],
    "header.csv": ["header.csv: holds no rows"],
    "nolabel.csv": ["nolabel.csv: no column 'label'; it has text, stars"],
    "one.csv": ["one.csv: every row has the label 'positive'; a classifier needs at least two classes"],
    "latin.csv": ["latin.csv: line 3: byte 28 (0xe9) is not UTF-8"],
    "corrupt.parquet": ["corrupt.parquet: not a readable Parquet file"],
}


@pytest.mark.parametrize("file", DATA)
@pytest.mark.parametrize("verb", ["finetune", "data build"])
def test_a_wrong_data_file_is_named_with_what_is_wrong_in_it(assert_refused: Refusals, verb: str, file: str) -> None:
    arguments = {
        "finetune": [*FINETUNE, f"data.train={file}"],
        "data build": [*BUILD, f"sources.r.path={file}"],
    }
    assert_refused(*arguments[verb], says=DATA[file])


def test_a_check_that_is_to_refuse_ends_every_verb_before_it_begins(assert_refused: Refusals) -> None:
    says = ["fewer than 11 rows in train: negative (10), positive (10)"]
    asked = ("checks.small_classes=refuse", "checks.smallest_class=11")
    assert_refused(*FINETUNE, GOOD, "data.validation_fraction=0", *(f"data.{key}" for key in asked), says=says)
    assert_refused(*TUNE, f"recipe.{GOOD}", "recipe.data.validation_fraction=0", *(f"recipe.data.{key}" for key in asked), says=says)


@pytest.mark.parametrize("file", ["empty.csv", "one.csv", "latin.csv", "nolabel.csv"])
def test_an_evaluation_and_a_study_refuse_the_same_files(assert_refused: Refusals, file: str) -> None:
    assert_refused("evaluate", "--model", "bundle", "--data", file, says=DATA[file])
    if file == "one.csv":
        assert_refused(*TUNE, f"recipe.data.train={file}", says=DATA[file])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("none.csv", ["none.csv: no such file"]),
        ("empty.csv", ["empty.csv: is empty"]),
        ("header.csv", ["header.csv: holds no rows"]),
        ("latin.csv", ["latin.csv: line 3: byte 0xe9 is not UTF-8"]),
        ("corrupt.parquet", ["corrupt.parquet: not a readable Parquet file"]),
    ],
)
def test_classify_refuses_its_input_before_it_looks_for_a_model(assert_refused: Refusals, source: str, says: list[str]) -> None:
    assert_refused("classify", source, f"out{Path(source).suffix}", "--model", "bundle", says=says)


def test_pretrain_names_the_folder_that_is_no_build(assert_refused: Refusals) -> None:
    assert_refused(*PRETRAIN, "data=none", says=["none: no manifest.json", "raybert data build"])


@pytest.mark.parametrize(
    "arguments",
    [
        [*FINETUNE, GOOD, "data.test=other.csv"],
        [*TUNE, f"recipe.{GOOD}", "recipe.data.test=other.csv"],
        [
            *BUILD,
            "sources.r.path=good.csv",
            *("sources.t.path=other.csv", "sources.t.label_column=label", "sources.t.split=test"),
        ],
    ],
    ids=["finetune", "tune", "data build"],
)
def test_a_label_of_test_that_train_lacks_is_named_with_its_row(assert_refused: Refusals, arguments: list[str]) -> None:
    assert_refused(*arguments, says=["'strange': not a label in train", "other.csv#2", "train has negative, positive"])


def test_evaluate_wants_rows_of_the_split_that_is_asked_for(assert_refused: Refusals) -> None:
    asked = ["evaluate", "--model", "bundle", "--split-column", "split", "--data"]
    assert_refused(*asked, "marked.csv", "--split", "validation", says=["marked.csv: holds no validation rows", "--split chooses others"])
    assert_refused(*asked, "packed", says=["--split-column: is of a plain file, packed is a folder with splits of its own"])


def test_evaluate_names_a_label_that_the_model_lacks(assert_refused: Refusals) -> None:
    assert_refused("evaluate", "--model", "bundle", "--data", "other.csv", says=["other.csv: label 'strange' is unknown to the model"])


BUNDLES = {
    "altered": ["altered/config.json: altered (its SHA-256 is not the manifest's)"],
    "missing": ["missing/model.safetensors: missing from the bundle"],
}


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize(
    "verb",
    [
        ["finetune", GOOD, "encoder={}"],
        ["evaluate", "--data", "good.csv", "--model", "{}"],
        ["classify", "nolabel.csv", "out.csv", "--model", "{}"],
        ["serve", "up", "model={}"],
        ["models", "verify", "{}"],
        ["models", "promote", "{}"],
    ],
    ids=lambda verb: " ".join(verb[: 2 if verb[0] in ("serve", "models") else 1]),
)
def test_a_bundle_with_an_altered_or_missing_file_is_refused_by_name(assert_refused: Refusals, verb: list[str], bundle: str) -> None:
    assert_refused(*(word.format(bundle) for word in verb), says=BUNDLES[bundle])


def test_a_registered_bundle_that_was_altered_is_not_promoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused = Refusals(tmp_path / "place", tmp_path / "home")
    assert_refused.place.mkdir()
    monkeypatch.setenv("RAYBERT_HOME", str(assert_refused.home))
    bundle = make_classifier_bundle(tmp_path / "bundle")
    Registry().register("reviews", bundle, source=str(bundle.path), run_id="0" * 32)
    (bundle.path / "config.json").write_text("{}")
    assert_refused("models", "promote", "reviews/1", says=[f"{bundle.path}/config.json: altered"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["models", "verify", "gone"], ["gone: no such folder or model"]),
        (["models", "promote", "nobody/1", "--json"], ["nobody: no such model in the registry"]),
        (["serve", "up", "model=nobody@champion"], ["nobody: no such model in the registry"]),
        (["evaluate", "--model", "tiny", "--data", "good.csv"], ["tiny: not a bundle"]),
        (["finetune", GOOD, "encoder=./gone"], ["gone: no such folder"]),
        (["quickstart", "--encoder", "./gone"], ["gone: no such folder"]),
        ([*FINETUNE, GOOD, "start_from=gone"], ["start_from: ", "gone: no checkpoint.json there"]),
    ],
)
def test_a_model_that_is_not_there_is_named_and_no_registry_is_made(
    assert_refused: Refusals, arguments: list[str], says: list[str]
) -> None:
    assert_refused(*arguments, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["finetune", GOOD, "encoder=no-tokenizer"], ["no-tokenizer: holds no tokenizer", "tokenizer.json, vocab.txt"]),
        ([*TUNE, f"recipe.{GOOD}", "space.encoder={kind: choice, values: [tiny, no-tokenizer]}"], ["no-tokenizer: holds no tokenizer"]),
        (["pretrain", "data=none", "encoder=no-tokenizer"], ["no-tokenizer: holds no tokenizer"]),
        (["quickstart", "--encoder", "no-tokenizer"], ["no-tokenizer: holds no tokenizer"]),
        ([*BUILD, "sources.r.path=good.csv", "tokenizer=no-tokenizer"], ["no-tokenizer: no tokenizer.json and no vocab.txt"]),
        (["finetune", GOOD, "max_length=64", "encoder=no-weights"], ["no-weights: holds no weights"]),
        (["finetune", GOOD, "max_length=64", "encoder=cut-weights"], ["cut-weights/model.safetensors: holds", "cut off or damaged"]),
        (["finetune", GOOD, "encoder=tiny", "max_length=65"], ["max_length is 65 tokens, the model has positions for 64"]),
    ],
)
def test_an_encoder_that_cannot_be_used_is_refused_before_anything_starts(
    assert_refused: Refusals, arguments: list[str], says: list[str]
) -> None:
    assert_refused(*arguments, says=says)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["quickstart", "--encoder", "tiny", "--port", "{}"], "--port NUMBER"),
        (["serve", "up", "model=bundle", "port={}", "--json"], "port=NUMBER"),
        (["cluster", "up", "dashboard_port={}", "mlflow_port=null"], "dashboard_port="),
        (["cluster", "up", "mlflow_port={}", "dashboard_port={free}"], "mlflow_port="),
    ],
    ids=["quickstart", "serve up", "cluster up, dashboard", "cluster up, MLflow"],
)
def test_a_port_in_use_is_named_with_how_to_choose_another(assert_refused: Refusals, taken: int, arguments: list[str], remedy: str) -> None:
    free = free_port()
    assert_refused(*(word.format(taken, free=free) for word in arguments), says=[f"127.0.0.1:{taken}: in use", remedy])
    assert is_free(free)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*FINETUNE, GOOD, "workers.count=4000"], ["4000 CPUs wanted", "lower workers.count"]),
        ([*FINETUNE, GOOD, "workers.cpus_each=4000"], ["4000 CPUs wanted", "workers.cpus_each"]),
        ([*FINETUNE, GOOD, "workers.gpus_each=4000"], ["4000 GPUs wanted"]),
        ([*TUNE, f"recipe.{GOOD}", "concurrent=4000"], ["4000 CPUs wanted", "lower concurrent"]),
        ([*BUILD, "sources.r.path=good.csv", "workers=4000"], ["4000 CPUs wanted", "lower workers"]),
        (["classify", "nolabel.csv", "out.csv", "--model", "bundle", "--actors", "4000"], ["4000 CPUs wanted", "lower --actors"]),
        (["serve", "up", "model=bundle", "port={free}", "cpus_per_replica=4000"], ["4000 CPUs wanted", "lower cpus_per_replica"]),
    ],
    ids=["finetune, workers", "finetune, CPUs of a worker", "finetune, GPUs", "tune", "data build", "classify", "serve up"],
)
def test_more_than_this_machine_has_is_refused_with_what_it_has(assert_refused: Refusals, arguments: list[str], says: list[str]) -> None:
    assert_refused(*(word.replace("{free}", str(free_port())) for word in arguments), says=[*says, "the cluster has "])


@pytest.mark.parametrize(
    "arguments",
    [
        [*FINETUNE, GOOD],
        [*TUNE, f"recipe.{GOOD}"],
        [*BUILD, "sources.r.path=good.csv"],
        ["classify", "nolabel.csv", "out.csv", "--model", "bundle"],
        ["serve", "up", "model=bundle", "port={free}"],
    ],
    ids=["finetune", "tune", "data build", "classify", "serve up"],
)
def test_no_cluster_at_the_address_is_told_within_seconds(assert_refused: Refusals, arguments: list[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    words = [word.replace("{free}", str(free_port())) for word in arguments]
    assert_refused(*words, "--address", address, says=[f"{address}: no cluster answers there", "raybert cluster up"])


def test_jobs_submit_tells_of_no_cluster_at_the_address(assert_refused: Refusals) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    submit = ("jobs", "submit", "--address", url)
    assert_refused(*submit, "--json", "--", "models", "list", says=[f"{url}: no cluster answers there"])
    assert_refused("jobs", "submit", "--", "models", "list", says=["no cluster of this home is running"])
    assert_refused(*submit, "--", "models", "list", says=["gone: no token can be read there"], RAY_AUTH_TOKEN_PATH="gone")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Half a megabyte of disk."""
    try:
        with small_disk(tmp_path / "disk", kilobytes=512) as folder:
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


def test_data_build_refuses_a_disk_without_room(assert_refused: Refusals, disk: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.csv"
    large.write_text("text,label\n" + "".join(f"{i} {'word ' * 200},{i % 2}\n" for i in range(2000)))
    assert_refused(
        *BUILD, f"sources.r.path={large}", f"out={disk / 'built'}", says=[f"{disk / 'built'}: no room on the disk", "another disk"]
    )
    assert snapshot(disk) == {}


def test_a_disk_that_fills_up_while_a_folder_is_written_leaves_nothing_of_it(disk: Path) -> None:
    def fill_up() -> None:
        with new_folder(disk / "built", 1000) as folder:
            for number in range(10):
                (folder / f"{number}.arrow").write_bytes(b"x" * 100_000)

    with pytest.raises(RunError, match="no room on the disk") as failed:
        fill_up()
    assert failed.value.exit_code == 1
    assert snapshot(disk) == {}


@pytest.mark.parametrize("arguments", [[*FINETUNE, GOOD], [*TUNE, f"recipe.{GOOD}"]], ids=["finetune", "tune"])
def test_a_run_is_refused_when_its_checkpoints_cannot_fit(assert_refused: Refusals, disk: Path, arguments: list[str]) -> None:
    says = [f"{disk / 'runs'}: no room on the disk", "MB are free", "point RAYBERT_HOME to a folder on a larger disk"]
    Refusals(assert_refused.place, disk)(*arguments, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "a/b"], ["--name: 'a/b': a run's name has up to 80 letters"]),
        (["--resume", "nobody"], ["nobody: no such run in", "`raybert runs list` lists them"]),
        (["--resume", "nobody", "--name", "x"], ["--name and --resume are both given"]),
        (["--accept-changes"], ["--accept-changes goes with --resume"]),
    ],
)
def test_a_wrong_name_of_a_run_is_refused(assert_refused: Refusals, arguments: list[str], says: list[str]) -> None:
    assert_refused(*FINETUNE, GOOD, *arguments, says=says)


def test_what_a_run_may_write_grows_with_the_checkpoints_that_it_keeps() -> None:
    recipe = PretrainConfig(data="built", checkpoint=CheckpointConfig(keep=3))
    assert checkpoint_bytes(1000) == 12_000
    assert run_bytes(1000, recipe) == (3 + 2) * 12_000 + 4_000


def test_room_is_looked_for_where_the_folder_will_be(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "made" / "yet", 1)
    with pytest.raises(InputError, match=r"not/made/yet: no room .* about 1,000,000,000,000\.0 MB"):
        check_room(tmp_path / "not" / "made" / "yet", 10**18)
