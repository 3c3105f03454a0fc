"""One elastic run under random kills, and a rank that fails wherever others wait for it: ``make prove-elastic`` (about a quarter of an
hour on two cores).

Three nodes of one CPU each, of which nobody is spared: workers, nodes (the raylet) and the driver are killed with SIGKILL at random steps,
and nodes are drained, then killed; a lost node is replaced, a lost driver is followed by ``--resume``. At the end every row was applied
once and in its step, the loss is that of an undisturbed run on one worker, no step was done twice for a drain, and nothing is left running.

Prints each kill with what it cost, and a table; exit code 1 when a figure breaks its limit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.prove.training import relative
from tests.prove.verdict import Finding, judge

LOSS_LIMIT = 1e-3
ROWS_PER_STEP, SEED = 7, 11
RESTART_LIMIT_S = 60.0
_KINDS = ("worker", "worker", "node", "node", "drained node", "drained node", "driver")
_NOTICE_S = 30.0
_PATIENCE_S = 240.0


class Victim:
    """The run, its driver's process and the nodes below it."""

    def __init__(self, cli: Any, cluster: Any, folder: Path, begin: list[str], draw: random.Random) -> None:
        self._cli, self._cluster, self._folder, self._draw = cli, cluster, folder, draw
        self._nodes = [cluster.add() for _ in range(3)]
        self.process: subprocess.Popen[str] = cli.start("finetune", *begin, "--address", cluster.address)

    def kill(self, kind: str) -> None:
        """Kill one, and bring back what does not come by itself."""
        from tests.conftest import wait_for
        from tests.support.history import attempts

        made, drained = len(attempts(self._folder)), None
        if kind == "drained node":
            drained = self._nodes.pop(self._draw.randrange(len(self._nodes)))
            self._cluster.drain(drained, _NOTICE_S)
        elif kind == "worker":
            wait_for(self._kill_worker, _PATIENCE_S, "a worker that lives")  # between two gangs there is none
        elif kind == "node":
            self._cluster.lose(self._nodes.pop(self._draw.randrange(len(self._nodes))))
        else:
            os.kill(self.process.pid, signal.SIGKILL)
            self._resume()
        wait_for(lambda: len(attempts(self._folder)) > made or self.process.poll() is not None, _PATIENCE_S, f"an attempt after a {kind}")
        if len(attempts(self._folder)) == made and self.process.poll():
            print(f"the driver was on that {kind}, and went with it", flush=True)
            self._resume()
            wait_for(lambda: len(attempts(self._folder)) > made, _PATIENCE_S, "an attempt after that")
        if drained is not None:
            self._cluster.lose(drained)
        if kind.endswith("node"):
            self._nodes.append(self._cluster.add())

    def _kill_worker(self) -> bool:
        from tests.support.history import workers

        pids = workers(self._folder)
        try:
            os.kill(pids[self._draw.choice(sorted(pids))], signal.SIGKILL)
        except (ProcessLookupError, IndexError):
            return False
        return True

    def _resume(self) -> None:
        self.process.communicate()
        self.process = self._cli.start("finetune", "--resume", self._folder.name, "--address", self._cluster.address)


def steps_done(folder: Path) -> int:
    """Of the attempt that runs; 0 before its first."""
    from foundation.records import read_rows
    from training.runs import METRICS_FILE

    done = 0
    for row in read_rows(folder / METRICS_FILE):
        if row["event"] in ("attempt", "step"):
            done = row["step"] + (row["event"] == "step")
    return done


def prove(folder: Path, kills: int, seed: int, epochs: int) -> list[Finding]:
    """Rows of the table."""
    from corpus.config import LabelledDataConfig
    from corpus.labelled import load_labelled
    from tests.conftest import Cli, environment_of, left_running, wait_for
    from tests.support.history import attempts, expected_rows, surviving_losses, surviving_rows
    from tests.support.nodes import nodes
    from tests.support.tiny import make_encoder, write_reviews

    data, home = write_reviews(folder / "reviews.csv", 400), folder / "home"
    same = [f"encoder={make_encoder(folder / 'encoder', layers=2)}", f"data.train={data}", f"epochs={epochs}", f"seed={SEED}"]
    same += [f"rows_per_step={ROWS_PER_STEP}", "rows_per_microbatch=2", "max_length=32", "dropout=0", "schedule.peak_lr=1e-4"]
    same += ["checkpoint.every_steps=1000", "record_rows=true"]
    print("an undisturbed run on one worker", flush=True)
    undisturbed = Cli(environment_of(folder / "other"), folder)("finetune", *same, "--json", timeout_s=900)
    if undisturbed.exit_code:
        raise SystemExit(undisturbed.err)
    whole = Path(undisturbed.json["run_folder"])
    wanted = surviving_losses(whole)
    draw, run = random.Random(seed), home / "runs" / "victim"
    gang = ["workers.min=1", "workers.max=3", "workers.resize_interval_s=8", "workers.max_failures=1000"]
    waits: dict[str, list[float]] = {}
    with nodes(home) as cluster:
        victim = Victim(Cli(cluster.env, folder), cluster, run, ["--name", "victim", *same, *gang, "checkpoint.every_s=2"], draw)
        for number, step in enumerate(sorted(draw.sample(range(200, len(wanted) - 200), kills)), 1):
            wait_for(lambda at=step: steps_done(run) >= at or victim.process.poll() is not None, _PATIENCE_S, f"step {step}")  # type: ignore[misc]
            kind, before, began = draw.choice(_KINDS), steps_done(run), time.monotonic()
            victim.kill(kind)
            waits.setdefault(kind, []).append(time.monotonic() - began)
            last = attempts(run)[-1]
            told = f"goes on from {last['step']} with {last['world_size']} workers after {waits[kind][-1]:.1f} s"
            print(f"kill {number}: {kind} at step {before}; {told}", flush=True)
        ended = Cli(cluster.env, folder).finish(victim.process, timeout_s=900)
        if ended.exit_code:
            raise SystemExit(ended.err)
    for kind, seconds in waits.items():
        print(f"{kind}: {len(seconds)} kills, {statistics.median(seconds):.1f} s in the median, {max(seconds):.1f} s at most")
    sizes = [attempt["world_size"] for attempt in attempts(run)]
    print(f"{len(sizes)} attempts, workers: {' '.join(map(str, sizes))}")
    rows, expected = (
        surviving_rows(run),
        expected_rows(load_labelled(LabelledDataConfig(train=str(data))).train.ids, len(wanted), rows_per_step=ROWS_PER_STEP, seed=SEED),
    )
    wrong = sum(rows.get(step) != expected[step] for step in expected) + len(rows.keys() - expected.keys())
    held_out = [evaluation_of(folder) for folder in (run, whole)]
    what = f"{kills} kills, {seed}"
    return [
        Finding(what, "steps with other rows", float(wrong), 0.0),
        Finding(what, "loss, largest of all steps", max(relative(surviving_losses(run), wanted)), LOSS_LIMIT),
        Finding(what, "held-out loss at the end", abs(held_out[0] - held_out[1]) / held_out[1], LOSS_LIMIT),
        Finding(what, "steps done twice after a notice", float(done_twice(run)), 0.0),
        Finding(what, "processes left", float(len(left_running(home))), 0.0),
    ]


def done_twice(run: Path) -> int:
    """Steps that an attempt did again although the one before had left with a checkpoint."""
    from foundation.records import read_rows
    from training.runs import METRICS_FILE

    left, twice = None, 0
    for row in read_rows(run / METRICS_FILE):
        if row["event"] == "leaving" and row["leaves"]:
            left = row["step"]
        elif row["event"] in ("failure", "resumed"):
            left = None  # the gang, or its driver, was killed before it could leave
        elif row["event"] == "attempt" and left is not None:
            twice, left = twice + left - row["step"], None
    return twice


def prove_points(folder: Path) -> list[Finding]:
    """A rank of two fails once at each point, the last of them after a drain."""
    from foundation.records import read_rows
    from tests.conftest import ROOT, Cli, left_running, wait_for
    from tests.support.faults import POINTS, RANK, planted, used
    from tests.support.history import attempts
    from tests.support.nodes import nodes
    from tests.support.tiny import make_encoder, write_reviews
    from training.runs import METRICS_FILE

    home, faults = folder / "home", folder / "faults"
    run, environment = home / "runs" / "faulty", planted(faults, POINTS, ROOT)
    arguments = [f"encoder={make_encoder(folder / 'encoder', layers=1)}", f"data.train={write_reviews(folder / 'reviews.csv', 100)}"]
    arguments += ["workers.min=1", "workers.max=2", "workers.max_failures=100", "max_length=32", f"rows_per_step={ROWS_PER_STEP}"]
    with nodes(home, environment=environment) as cluster:
        cluster.add()
        going = cluster.add()
        cli = Cli(cluster.env, folder)
        process = cli.start(
            "finetune", "--name", "faulty", "--address", cluster.address, *arguments, "epochs=5000", "checkpoint.every_steps=8"
        )
        wait_for(lambda: len(used(faults)) == len(POINTS) - 1, 600, "all points but the last")
        wait_for(lambda: attempts(run)[-1]["time"] > max(used(faults).values()) and steps_done(run) > attempts(run)[-1]["step"] + 10, 120)
        cluster.drain(going, _NOTICE_S)
        wait_for(lambda: len(used(faults)) == len(POINTS), 120, "the last point")
        wait_for(lambda: attempts(run)[-1]["time"] > max(used(faults).values()), 120, "an attempt after that")
        cli.interrupt(process)
    told = [row["ranks"].get(str(RANK), "") for row in read_rows(run / METRICS_FILE) if row["event"] == "failure"]
    findings = []
    for point, failed in sorted(used(faults).items(), key=lambda item: item[1]):
        again = min(attempt["time"] for attempt in attempts(run) if attempt["time"] > failed)
        findings.append(Finding(f"a fault {point}", "seconds until the next attempt", again - failed, RESTART_LIMIT_S))
        findings.append(Finding(f"a fault {point}", "times not told with its rank", float(not any(point in one for one in told)), 0.0))
    return [*findings, Finding("all faults", "processes left", float(len(left_running(home))), 0.0)]


def evaluation_of(run: Path) -> float:
    """The held-out loss at a run's last step."""
    from foundation.records import read_rows
    from training.runs import METRICS_FILE

    return float([row for row in read_rows(run / METRICS_FILE) if row["event"] == "evaluation"][-1]["validation_loss"])


def main() -> int:
    """Prove, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of what is killed when")
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    began = time.monotonic()
    table = []
    for part in (prove_points, lambda folder: prove(folder, given.kills, given.seed, given.epochs) if given.kills else []):
        with tempfile.TemporaryDirectory(prefix="raybert-prove-elastic-") as name:
            table += part(Path(name))
    code = judge(table)
    print(f"{time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
