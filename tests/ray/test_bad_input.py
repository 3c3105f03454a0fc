"""Bad input that only a cluster can tell, and Ctrl-C of verbs that hold one: a clean stop within seconds, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.ports import free_port
from tests.conftest import Cli, SharedCluster, environment_of, snapshot
from tests.support.bad_input import Refusals, Watched, check_clean_stop, make_place

pytestmark = pytest.mark.ray

STOP_S = 30.0
"""Ten seconds are promised on an idle machine; tests share theirs with other tests."""
GOOD = "data.train=good.csv"
LONG = "scheduler={kind: asha, max_steps: 100000, grace_steps: 1000}"
SPACE = "space={schedule.peak_lr: {kind: log_uniform, low: 1.0e-5, high: 1.0e-3}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_place(tmp_path_factory.mktemp("bad_input_on_ray") / "place")
    rows = "".join(f"this is text number {i},{'positive' if i % 2 else 'negative'}\n" for i in range(40_000))
    (folder / "many.csv").write_text("text,label\n" + rows)
    return folder


@pytest.fixture
def assert_refused(place: Path, tmp_path: Path) -> Refusals:
    return Refusals(place, tmp_path / "home")


@pytest.fixture
def start(place: Path, tmp_path: Path) -> Callable[..., Watched]:
    """Start a verb in the place with a home of this test."""
    cli = Cli(environment_of(tmp_path / "home"), place)
    return lambda *arguments: Watched(cli.start(*arguments))


FINETUNE = ("finetune", "encoder=tiny", "max_length=64", GOOD)


@pytest.mark.parametrize("arguments", [FINETUNE, ("classify", "nolabel.csv", "out.csv", "--model", "bundle")], ids=["finetune", "classify"])
def test_a_wrong_token_is_refused_within_seconds(
    assert_refused: Refusals, shared_cluster: SharedCluster, arguments: tuple[str, ...]
) -> None:
    address = shared_cluster.state["address"]
    wrong = str(assert_refused.place / "token")
    assert_refused(*arguments, "--address", address, says=[address, "refuses", wrong], RAY_AUTH_TOKEN_PATH=wrong)


def test_a_wrong_token_in_a_variable_is_refused_and_the_variable_is_named(assert_refused: Refusals, shared_cluster: SharedCluster) -> None:
    address = shared_cluster.state["address"]
    assert_refused(*FINETUNE, "--address", address, says=[address, "RAY_AUTH_TOKEN"], RAY_AUTH_TOKEN="0" * 64)


def test_a_job_with_a_wrong_token_is_not_submitted(assert_refused: Refusals, shared_cluster: SharedCluster) -> None:
    url, wrong = shared_cluster.state["dashboard_url"], str(assert_refused.place / "token")
    submit = ("jobs", "submit", "--address", url, "--json", "--", *FINETUNE)
    assert_refused(*submit, says=[url, "refuses the token", wrong], RAY_AUTH_TOKEN_PATH=wrong)
    jobs = shared_cluster.cli(assert_refused.place)("jobs", "list", "--json").json["jobs"]
    assert not [job for job in jobs if "good.csv" in job["entrypoint"]]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["workers.count=5"], ["5 CPUs wanted, the cluster has 4 on 2 node(s)", "lower workers.count"]),
        (["workers.cpus_each=3"], ["1 workers of 3 CPUs each wanted", "there is room for 0", "the nodes have 2, 2 CPUs"]),
    ],
    ids=["in all", "on one node"],
)
def test_workers_that_the_cluster_can_never_hold_are_not_waited_for(
    assert_refused: Refusals, shared_cluster: SharedCluster, asked: list[str], says: list[str]
) -> None:
    token = shared_cluster.state["token_file"]
    assert_refused(*FINETUNE, *asked, "--address", shared_cluster.state["address"], says=says, within_s=20, RAY_AUTH_TOKEN_PATH=token)


def test_ctrl_c_ends_a_data_build_and_leaves_no_folder(start: Callable[..., Watched], place: Path, tmp_path: Path) -> None:
    before = snapshot(place)
    source = ("sources.r.path=many.csv", "sources.r.label_column=label")
    build = start("data", "build", *source, "tokenizer=tiny", "out=built", "batch_documents=50")
    build.wait_for_line("clean: ", within_s=90)
    check_clean_stop(build.interrupt(STOP_S), tmp_path / "home")
    assert snapshot(place) == before


def test_ctrl_c_ends_a_study_and_its_trials(start: Callable[..., Watched], tmp_path: Path) -> None:
    recipe = ("recipe.encoder=tiny", "recipe.max_length=64", f"recipe.{GOOD}", "recipe.epochs=100000")
    study = start("tune", *recipe, SPACE, "concurrent=1", LONG, "report_every_steps=5")
    study.wait_for_line("best so far", within_s=120)
    ran = study.interrupt(STOP_S)
    check_clean_stop(ran, tmp_path / "home")
    assert ran.out == ""
    said = [line for line in ran.err.splitlines() if not line.startswith(("tune: ", "warning: ", "error: "))]
    assert said == [], "lines of Ray or Optuna among ours"


@pytest.mark.parametrize("moment", ["starting a local one", "deploying classifier"], ids=["its cluster", "its application"])
def test_ctrl_c_ends_a_service_that_is_starting(start: Callable[..., Watched], tmp_path: Path, moment: str) -> None:
    port, home = free_port(), tmp_path / "home"
    service = start("serve", "up", "model=bundle", f"port={port}", "autoscaling.preset=fixed")
    service.wait_for_line(moment, within_s=120)
    check_clean_stop(service.interrupt(STOP_S), home, [port])
    recorded = [path.name for folder in ("services", "clusters") for path in (home / folder).glob("*.json")]
    assert recorded == []


def test_ctrl_c_ends_a_quickstart_with_the_stage_that_runs(start: Callable[..., Watched], tmp_path: Path) -> None:
    port = free_port()
    quickstart = start("quickstart", "--encoder", "tiny", "--port", str(port))
    quickstart.wait_for_line("clean: ", within_s=120)
    check_clean_stop(quickstart.interrupt(STOP_S), tmp_path / "home", [port])
