"""Studies under random kills: ``make prove-tuning`` (a quarter of an hour on two cores).

Each study runs on two nodes of one CPU and loses a worker, a node (the raylet) and its driver, each with SIGKILL at a random moment; a lost
node is replaced, a lost driver is followed by ``--resume``. With one trial at a time the study has to end as an undisturbed one: the same
hyperparameters, steps, scores and states, no report twice. With two at once each trial has to end finished, stopped or failed by itself, no
report twice. Nothing is left running.

Then a population, whose members have two workers each, sharded by ZeRO 2, and go on from each other's checkpoints: every copy is compared
with its donor's checkpoint bit for bit, and studies under such kills end as an undisturbed one, the winner's way included.

Prints each kill, and a table; exit code 1 when a figure breaks its limit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tests.prove.verdict import Finding, judge

KINDS = ("worker", "node", "driver")
BUDGET = 480
POPULATION_BUDGET = 96
_PATIENCE_S = 240.0


class Victim:
    """A study, its driver's process and the nodes below it."""

    def __init__(self, cli: Any, cluster: Any, home: Path, name: str, file: Path, draw: random.Random) -> None:
        self._cli, self._cluster, self._home, self._name, self._draw = cli, cluster, home, name, draw
        self._nodes = [cluster.add() for _ in range(2)]
        self.process = cli.start("tune", "-c", file, "--name", name, "--address", cluster.address, "--json")

    def reported(self) -> int:
        """Reports so far."""
        from tests.support.studies import reports

        return len(reports(self._home, self._name))

    def wait(self, reports: int) -> bool:
        """Until so many reports; False when the study has ended before."""
        from tests.conftest import wait_for

        wait_for(lambda: self.reported() >= reports or self.process.poll() is not None, _PATIENCE_S, f"report {reports}")
        return self.process.poll() is None

    def kill(self, kind: str) -> None:
        """Kill one, and bring back what does not come by itself."""
        from tests.conftest import wait_for

        before = self.reported()
        if kind == "worker":
            wait_for(self._kill_worker, _PATIENCE_S, "a worker that lives")
        elif kind == "node":
            self._cluster.lose(self._nodes.pop(self._draw.randrange(len(self._nodes))))
            self._nodes.append(self._cluster.add())
        else:
            os.kill(self.process.pid, signal.SIGKILL)
        wait_for(lambda: self.reported() > before or self.process.poll() is not None, _PATIENCE_S, f"a report after a {kind}")
        if self.process.poll():
            print("the driver goes on with --resume", flush=True)
            self.process.communicate()
            self.process = self._cli.start("tune", "--resume", self._name, "--address", self._cluster.address, "--json")

    def _kill_worker(self) -> bool:
        from tests.support.studies import trial_workers

        workers = trial_workers(self._home)
        if not workers:
            return False
        self._draw.choice(workers).kill()
        return True


def _undisturbed(folder: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """What a study comes to that nobody kills, in a home of its own."""
    from tests.conftest import Cli, environment_of

    print("an undisturbed one", flush=True)
    done = Cli(environment_of(folder / "other"), folder)("tune", "-c", _written(folder, tree), "--name", "whole", "--json", timeout_s=900)
    if done.exit_code:
        raise SystemExit(done.err)
    return done.json


def _under_kills(folder: Path, tree: dict[str, Any], home: Path, what: str, draw: random.Random) -> dict[str, Any]:
    """What it comes to when one of each kind is killed, within the first two thirds of the reports that the undisturbed one made."""
    from tests.conftest import Cli
    from tests.support.nodes import nodes
    from tests.support.studies import reports

    kinds, count = draw.sample(KINDS, len(KINDS)), len(reports(folder / "other", "whole"))
    with nodes(home) as cluster:
        cli = Cli(cluster.env, folder)
        victim = Victim(cli, cluster, home, "victim", _written(folder, tree), draw)
        for kind, at in zip(kinds, sorted(draw.sample(range(1, max(5, count * 2 // 3)), len(KINDS))), strict=True):
            if not victim.wait(at):
                break
            print(f"{what}: {kind} after {victim.reported()} reports", flush=True)
            victim.kill(kind)
        ended = cli.finish(victim.process, timeout_s=900)
    if ended.exit_code:
        raise SystemExit(ended.err)
    return ended.json


def _written(folder: Path, tree: dict[str, Any]) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def _differing(one: dict[str, Any], other: dict[str, Any]) -> float:
    from tests.support.studies import what_came_of

    return float(sum(mine != its for mine, its in zip(what_came_of(one), what_came_of(other), strict=True)))


def prove(folder: Path, studies: int, seed: int) -> list[Finding]:
    """Rows of the table."""
    from tests.conftest import left_running
    from tests.support.studies import killable_study, reports
    from tests.support.tiny import make_encoder

    draw = random.Random(seed)
    tree = killable_study(folder, [str(make_encoder(folder / f"encoder{number}", seed=number)) for number in range(2)], BUDGET)
    whole = _undisturbed(folder, tree)
    found = []
    for number in range(studies):
        at_once = 1 + number % 2
        what, home = f"study {number}, {at_once} at once", folder / f"home{number}"
        ended = _under_kills(folder, tree | {"concurrent": at_once}, home, what, draw)
        trials = ended["trials"]
        causes = [trial["cause"] for trial in trials if trial["state"] == "failed"]
        twice = sum(count - 1 for count in Counter(reports(home, "victim")).values())
        found += [
            Finding(what, "reports that came twice", float(twice), 0.0),
            Finding(what, "trials without an end", float(sum(trial["state"] == "unfinished" for trial in trials)), 0.0),
            Finding(what, "trials that a kill made fail", float(sum("could not be applied" not in cause for cause in causes)), 0.0),
            Finding(what, "processes left", float(len(left_running(home))), 0.0),
        ]
        if at_once == 1:
            found.append(Finding(what, "trials unlike the undisturbed ones", _differing(ended, whole), 0.0))
    return found


def prove_population(folder: Path, studies: int, seed: int) -> list[Finding]:
    """The same of a population."""
    from tests.conftest import left_running
    from tests.support.studies import rows_of, tiny_population
    from tests.support.tiny import make_encoder

    draw = random.Random(seed)
    folder.mkdir()
    encoder = str(make_encoder(folder / "encoder", seed=7))
    tree = tiny_population(folder, encoder, POPULATION_BUDGET, rates=(1e-2, 3e-3, 1e-3, 1e-9), workers=2, every=POPULATION_BUDGET // 4)
    whole = _undisturbed(folder, tree)
    rows = rows_of(folder / "other", "whole")
    exploits = sum(len(row["exploits"]) for row in rows if row["event"] == "compared")
    # A member's stretch of several reports tells in each where it began.
    copies = len({(row["number"], row["copied_from"]) for row in rows if "copied_from" in row})
    found = [
        Finding("the population", "exploits", float(exploits), 1.0, better="higher"),
        Finding("the population", "exploits whose copy was not compared", float(exploits - copies), 0.0),
    ]
    for number in range(studies):
        what, home = f"population {number}", folder / f"home{number}"
        ended = _under_kills(folder, tree, home, what, draw)
        found += [
            Finding(what, "members unlike the undisturbed ones", _differing(ended, whole), 0.0),
            Finding(what, "winners' ways that differ", float(ended["lineage"] != whole["lineage"]), 0.0),
            Finding(what, "processes left", float(len(left_running(home))), 0.0),
        ]
    return found


def main() -> int:
    """Prove, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10)
    parser.add_argument("--populations", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of what is killed when")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="raybert-prove-tuning-") as name:
        found = prove(Path(name), given.studies, given.seed) if given.studies else []
        found += prove_population(Path(name) / "populations", given.populations, given.seed) if given.populations else []
        code = judge(found)
    print(f"{time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
