"""What every refusal has in common, checked in one place; and the wrong files that people bring."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cluster.ports import is_free
from tests.conftest import Cli, Ran, assert_no_processes, end_group, environment_of, processes_of, snapshot
from tests.support.tiny import make_classifier_bundle, make_encoder, make_packed, make_roberta_encoder

GOOD = "text,label\n" + "".join(f"this is text {i},{'positive' if i % 2 else 'negative'}\n" for i in range(20))
FILES: dict[str, str | bytes] = {
    "good.csv": GOOD,
    "marked.csv": "text,label,split\ngood,positive,train\nbad,negative,train\ngood one,positive,test\n",
    "empty.csv": "",
    "header.csv": "text,label\n",
    "nolabel.csv": "text,stars\ngood,1\n",
    "one.csv": "text,label\ngood,positive\nnice,positive\n",
    "other.csv": "text,label\ngood,positive\nodd,strange\nbad,negative\n",
    "latin.csv": b"text,label\ngood,positive\ncaf\xe9,negative\n",
    "corrupt.parquet": b"PAR1 cut off PAR1",
    "stars.csv": "text,label\n" + "".join(f"this is text {i},{i % 5}\n" for i in range(20)),
    "token": "0" * 64,
    "keys.yaml": "data: {train: good.csv}\nepoch: 3\nschedule: {peek_lr: 1.0}\n",
    "latin.yaml": b"# caf\xe9\ndata: {train: good.csv}\n",
    "syntax.yaml": "data: {train: good.csv\nepochs: 2\n",
    "list.yaml": "- good.csv\n",
}


def make_place(folder: Path) -> Path:
    """Fill ``folder`` with ``FILES``, an encoder ``tiny``, a bundle ``bundle``, a build ``packed``, and others that are damaged or do not
    fit."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    tiny = make_encoder(folder / "tiny")
    bundle = make_classifier_bundle(folder / "bundle").path
    for copy in ("no-tokenizer", "no-weights", "cut-weights"):
        shutil.copytree(tiny, folder / copy)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / "no-tokenizer" / name).unlink(missing_ok=True)
    weights = folder / "cut-weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (folder / "no-weights" / "model.safetensors").unlink()
    for copy in ("altered", "missing"):
        shutil.copytree(bundle, folder / copy)
    config = folder / "altered" / "config.json"
    config.write_text(config.read_text() + " ")
    (folder / "missing" / "model.safetensors").unlink()
    make_packed(folder / "packed", tiny)
    _make_unfitting(folder)
    return folder


def _make_unfitting(folder: Path) -> None:
    """Encoders, a build and a checkpoint that are sound and do not belong together."""
    from encoder.loading import new_classifier
    from training.checkpoint import Progress, write_manifest
    from training.engine import TorchEngine
    from training.optimiser_config import OptimiserConfig

    make_roberta_encoder(folder / "roberta")
    make_encoder(folder / "few-positions", positions=32)
    shutil.copytree(folder / "tiny", folder / "few-embeddings")
    config = folder / "few-embeddings" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 60}))
    shutil.copytree(folder / "packed", folder / "one-class")
    manifest = folder / "one-class" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"labels": ["negative"]}))
    other = new_classifier(str(make_encoder(folder / "wider", hidden=48)), ["negative", "positive"], seed=0)
    engine = TorchEngine(other, None, OptimiserConfig())  # type: ignore[arg-type]
    write_manifest(folder / "of-wider", Progress(0, 0), engine.save(folder / "of-wider"), engine.shapes(), {})


@dataclass(frozen=True)
class Refusals:
    """Runs verbs that must be refused, in ``place``, with a home that must stay as it is."""

    place: Path
    home: Path

    def cli(self, **env: str) -> Cli:
        """The command line in the place."""
        return Cli(environment_of(self.home, **env), self.place)

    def __call__(self, *arguments: str | Path, says: Sequence[str], within_s: float = 60, **env: str) -> Ran:
        """Run a verb and check everything that is promised of bad input; ``says`` must all be in the message."""
        before = snapshot(self.place), snapshot(self.home)
        began = time.monotonic()
        ran = self.cli(**env)(*arguments, timeout_s=2 * within_s)
        took_s = time.monotonic() - began
        assert ran.exit_code == 2, f"exit code {ran.exit_code}\n{ran.out}\n{ran.err}"
        check_one_message(ran, says)
        assert (snapshot(self.place), snapshot(self.home)) == before, "files appeared, vanished or changed"
        assert processes_of(self.home) == []
        if "--json" in arguments[: arguments.index("--") if "--" in arguments else None]:
            assert ran.json == {"error": message_of(ran), "exit_code": 2}
        else:
            assert ran.out == ""
        assert took_s < within_s, f"refused after {took_s:.1f} s"
        return ran


def message_of(ran: Ran) -> str:
    """The whole message: the ``error:`` line and what follows it (a recipe may be wrong in several keys)."""
    return ran.err[ran.err.index("error: ") :].removeprefix("error: ").rstrip("\n")


def check_one_message(ran: Ran, says: Sequence[str]) -> None:
    """One error, at the end of stderr, without a traceback, with all of ``says`` in it."""
    assert ran.error
    assert "Traceback" not in ran.err
    message = message_of(ran)
    for part in says:
        assert part in message, f"{part!r} is not in: {message}"


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """A port of loopback on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port: int = listener.getsockname()[1]
        yield port
        assert not is_free(port)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own at ``folder``.

    Raises:
        PermissionError: This process may not mount one.
    """
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "raybert-test", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PermissionError(f"cannot mount a small file system, so a full disk stays untested here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Watched:
    """A started verb whose stderr is read while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, self._lines[name]), daemon=True)
            for name, stream in (("out", process.stdout), ("err", process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], into: list[str]) -> None:
        into.extend(iter(stream.readline, ""))

    @property
    def err(self) -> str:
        """What it wrote to stderr so far."""
        return "".join(list(self._lines["err"]))

    def wait_for_line(self, marker: str, within_s: float) -> None:
        """Wait until ``marker`` is in stderr."""
        deadline = time.monotonic() + within_s
        while marker not in self.err:
            assert self.process.poll() is None, f"it ended before {marker!r}:\n{self.err}"
            if time.monotonic() > deadline:
                end_group(self.process)
                raise AssertionError(f"no {marker!r} within {within_s:g} s:\n{self.err}")
            time.sleep(0.05)

    def interrupt(self, within_s: float) -> Ran:
        """Press Ctrl-C: SIGINT to the whole group, as a terminal sends it; fails unless it ends within ``within_s``."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            end_group(self.process)
            raise AssertionError(f"still ran {within_s:g} s after Ctrl-C:\n{self.err}") from None
        for reader in self._readers:
            reader.join(timeout=5)
        return Ran(self.process.returncode, "".join(self._lines["out"]), self.err)


def check_clean_stop(ran: Ran, home: Path, ports: Sequence[int] = ()) -> None:
    """What is promised of Ctrl-C: code 130, one message, nothing left running, no port held."""
    assert ran.exit_code == 130, ran.err
    check_one_message(ran, ["interrupted"])
    assert_no_processes(home)
    assert [port for port in ports if not is_free(port)] == []
