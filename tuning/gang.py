"""A trial of several workers: actors in the trial's own placement group, so that Tune counts them, starts a trial only when all of them
have room, and frees them with it.

The trial's actor trains nothing itself. It hands each worker its rank, passes on what rank 0 reports, and ends them all when Tune stops the
trial or when one of them is lost.
"""

from __future__ import annotations

import queue
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import first_line
from training.config import WorkersConfig
from tuning.trial_worker import Job, Tell, train_trial

if TYPE_CHECKING:
    from collections.abc import Sequence

_OTHERS_S = 15.0
"""In which the others' ends are waited for after the first error: a rank that lost its peer often tells sooner than Ray that the peer is
gone, and the peer's end is what counts."""
_THREADS = 3
"""Of a worker's actor: it trains, waits to be asked for a report, and hears that it goes on."""


def resources_of(workers: WorkersConfig, *, is_gang: bool) -> Any:
    """What Tune reserves for a trial: of a gang nothing for its actor, and a bundle for each worker."""
    from ray import tune

    one = {"CPU": workers.cpus_each} | ({"GPU": workers.gpus_each} if workers.gpus_each else {})
    return tune.PlacementGroupFactory([{}, *[one] * workers.most] if is_gang else [one])


def train_gang(job: Job, workers: WorkersConfig, tell: Tell) -> None:
    """Train a trial on as many workers as the recipe says.

    Args:
        job: The trial.
        workers: Of its recipe.
        tell: Takes each report; may raise to end the trial.

    Raises:
        OSError: A worker is gone.
        Exception: What a worker raised.
    """
    import ray

    group, count = ray.util.get_current_placement_group(), workers.most
    members = [_member(workers, group, rank) for rank in range(count)]
    try:
        places = ray.get([member.place.remote() for member in members])
        nodes = [node for node, _ in places]
        main = ray.get(members[0].rendezvous.remote())
        given = asdict(job)
        running = [
            member.train.remote(given, rank, count, main, 0 if workers.gpus_each else nodes[:rank].count(nodes[rank]))
            for rank, member in enumerate(members)
        ]
        _pass_on(members[0], running, tell)
    finally:
        for member in members:
            ray.kill(member)


def _member(workers: WorkersConfig, group: Any, rank: int) -> Any:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return (
        ray.remote(Member)
        .options(
            num_cpus=workers.cpus_each,
            num_gpus=workers.gpus_each,
            max_concurrency=_THREADS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        )
        .remote()
    )


def _pass_on(first: Any, running: Sequence[Any], tell: Tell) -> None:
    """Pass on reports until all workers have ended."""
    import ray

    left, asked = [*running], first.next_report.remote()
    while left:
        ended = ray.wait([asked, *left] if asked else left, num_returns=1)[0][0]
        if ended == asked:
            try:
                report = ray.get(asked)
            except ray.exceptions.RayError:
                report = None  # its training has ended as well, and tells why
            asked = None
            if report is not None:
                tell(report[0], Path(report[1]))
                first.go_on.remote()
                asked = first.next_report.remote()
            continue
        left.remove(ended)
        if error := _error_of(ended):
            if left and not isinstance(error, OSError):
                ray.wait(left, num_returns=len(left), timeout=_OTHERS_S)
            others = [other for one in left if (other := _error_of(one, timeout_s=0))]
            raise next((one for one in [error, *others] if isinstance(one, OSError)), error)


def _error_of(running: Any, timeout_s: float | None = None) -> Exception | None:
    """What a worker's training ended with; None if well, or not yet. That the worker is gone is an ``OSError``."""
    import ray

    try:
        ray.get(running, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        return None
    except ray.exceptions.RayActorError as error:
        return OSError(f"a worker of its gang is gone: {first_line(error)}")
    except ray.exceptions.RayTaskError as error:
        cause: Exception = error.cause
        cause.__cause__ = error  # with the worker's traceback
        return cause
    return None


class Member:
    """One worker of a gang, in a process of its own."""

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[tuple[dict[str, Any], str] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[None] = queue.SimpleQueue()

    def place(self) -> tuple[str, str]:
        """Node id and address."""
        import ray

        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def rendezvous(self) -> tuple[str, int]:
        """Where the others find rank 0."""
        import ray

        from cluster.ports import free_port

        address = ray.util.get_node_ip_address()
        return address, free_port(address)

    def train(self, job: dict[str, Any], rank: int, world_size: int, main: tuple[str, int], local_rank: int) -> None:
        """Train the trial, together with the others."""
        import os

        import torch

        host, port = main
        # DeepSpeed reads them, and names its shared memory by the last two.
        places = {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": world_size, "MASTER_ADDR": host, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in places.items()}
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", rank=rank, world_size=world_size)
        try:
            train_trial(Job(**job), self._tell, rank=rank, world_size=world_size)
        finally:
            self._reports.put(None)

    def _tell(self, figures: dict[str, Any], folder: Path) -> None:
        self._reports.put((figures, str(folder)))
        self._answers.get()

    def next_report(self) -> tuple[dict[str, Any], str] | None:
        """Wait for one; None when there are no more."""
        return self._reports.get()

    def go_on(self) -> None:
        """The report was taken."""
        self._answers.put(None)
