"""A trial of several workers: actors in the trial's own placement group, so that Tune counts them, starts a trial only when all of them
have room, and frees them with it.

The trial's actor trains nothing itself. It hands each worker its rank, passes on what rank 0 reports, and tells it when the trial is
stopped; when one of them fails or is lost, it ends them all. Otherwise they stay for the next trial that Tune hands this actor, which finds
torch, DeepSpeed and a process group there.
"""

from __future__ import annotations

import gc
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
        tell: Takes each report; Tune's way to stop the trial there is ``SystemExit``.

    Raises:
        SystemExit: The trial is stopped, after its workers have ended it as well.
        OSError: A worker is gone.
        Exception: What a worker raised.
    """
    members = _kept.pop() if _kept else _gathered(workers)
    try:
        given = asdict(job)
        stopped = _pass_on(members[0], [member.train.remote(given) for member in members], tell)
    except BaseException:
        _end(members)
        raise
    _kept.append(members)
    if stopped:
        raise stopped


_kept: list[list[Any]] = []
"""The last trial's workers, unless they failed: at most one gang, since an actor has one placement group."""


def _gathered(workers: WorkersConfig) -> list[Any]:
    """New workers that know each other."""
    import ray

    group, count = ray.util.get_current_placement_group(), workers.most
    members = [_member(workers, group, rank) for rank in range(count)]
    try:
        nodes = ray.get([member.node.remote() for member in members])
        main = ray.get(members[0].rendezvous.remote())
        local_ranks = [0 if workers.gpus_each else nodes[:rank].count(node) for rank, node in enumerate(nodes)]
        ray.get([member.join.remote(rank, count, main, local_ranks[rank]) for rank, member in enumerate(members)])
    except ray.exceptions.RayError as error:
        _end(members)
        raise OSError(f"a gang's workers did not meet: {first_line(error)}") from error
    return members


def _end(members: Sequence[Any]) -> None:
    import ray

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


def _pass_on(first: Any, running: Sequence[Any], tell: Tell) -> SystemExit | None:
    """Pass on reports until all workers have ended, and nobody waits for a report any more. Returns what stopped the trial, if it was."""
    import ray

    stopped: SystemExit | None = None
    left, asked = [*running], first.next_report.remote()
    while left or asked:
        ended = ray.wait([asked, *left] if asked else left, num_returns=1)[0][0]
        if ended == asked:
            try:
                report = ray.get(asked)
            except ray.exceptions.RayError:
                report = None  # its training has ended as well, and tells why
            asked = None
            if report is not None:
                try:
                    tell(report[0], Path(report[1]))
                except SystemExit as stop:
                    stopped = stop
                first.answer.remote(stopped is None)
                asked = first.next_report.remote()
            continue
        left.remove(ended)
        if error := _error_of(ended):
            if left and not isinstance(error, OSError):
                ray.wait(left, num_returns=len(left), timeout=_OTHERS_S)
            others = [other for one in left if (other := _error_of(one, timeout_s=0))]
            raise next((one for one in [error, *others] if isinstance(one, OSError)), error)
    return stopped


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
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def node(self) -> str:
        """Its id."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def rendezvous(self) -> tuple[str, int]:
        """Where the others find rank 0."""
        import ray

        from cluster.ports import free_port

        address = ray.util.get_node_ip_address()
        return address, free_port(address)

    def join(self, rank: int, world_size: int, main: tuple[str, int], local_rank: int) -> None:
        """Meet the others."""
        import os

        import torch

        host, port = main
        # DeepSpeed reads them, and names its shared memory by the last two.
        places = {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": world_size, "MASTER_ADDR": host, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in places.items()}
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", rank=rank, world_size=world_size)

    def train(self, job: dict[str, Any]) -> None:
        """Train a trial, together with the others."""
        import torch.distributed as dist

        gc.collect()  # the last trial's engine holds itself
        try:
            train_trial(Job(**job), self._tell, rank=dist.get_rank(), world_size=dist.get_world_size())
        finally:
            self._reports.put(None)

    def _tell(self, figures: dict[str, Any], folder: Path) -> bool:
        self._reports.put((figures, str(folder)))
        return self._answers.get()

    def next_report(self) -> tuple[dict[str, Any], str] | None:
        """Wait for one; None when there are no more."""
        return self._reports.get()

    def answer(self, goes_on: bool) -> None:
        """The report was taken; whether the trial goes on."""
        self._answers.put(goes_on)
