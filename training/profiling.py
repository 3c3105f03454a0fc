"""``--profile``: a few steps timed by phase, then a few more traced by ``torch.profiler``. Hooks of rank 0; other ranks run as always.

Timing and tracing take turns, because a traced step is slower. Reads ``phases.py``; the table is made there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.loop import StepReport
from training.phases import Phases

_WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Window:
    """Which steps are timed and which are traced."""

    timed: range
    traced: range


def window(first: int, last: int, wanted: int) -> Window:
    """``wanted`` steps to time and as many to trace, after a warm-up, of the steps ``first`` to ``last``; fewer when there are fewer."""
    there = max(0, last - first)
    each = min(wanted, max(1, there // 2))
    begin = first + max(0, min(_WARM_UP_STEPS, there - 2 * each))
    return Window(range(begin, min(last, begin + each)), range(begin + each, min(last, begin + 2 * each)))


class StepProfiler:
    """Watches the steps of a window; give the loop its two hooks, and leave its block when the loop has ended."""

    def __init__(self, steps: Window, phases: Phases, trace: Path, write: Callable[..., None], device: torch.device) -> None:
        """``write`` takes the event's name and its values, as ``Recorder.write`` does."""
        self._steps, self._phases, self._trace, self._write, self._device = steps, phases, trace, write, device
        self._timing, self._tracing = ExitStack(), ExitStack()
        self._seconds, self._spent = 0.0, dict[str, float]()

    def __enter__(self) -> StepProfiler:
        self._before(self._steps.timed.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._timing.close()
        self._tracing.close()

    def after_step(self, report: StepReport) -> None:
        """The loop's first hook: take the times of the step that has ended, before other hooks add to them."""
        taken = self._phases.take()
        if report.step in self._steps.timed:
            self._seconds += report.seconds
            for name, seconds in ({"data": report.loader_seconds} | taken).items():
                self._spent[name] = self._spent.get(name, 0.0) + seconds
            if report.step == self._steps.timed[-1]:
                self._timing.close()
                timed = self._steps.timed
                self._write("profile", step=timed.start, steps=len(timed), seconds=self._seconds, phases=self._spent)
        if self._steps.traced and report.step == self._steps.traced[-1]:
            self._tracing.close()

    def before_next(self, report: StepReport) -> None:
        """The loop's last hook: forget what other hooks spent, and switch on what the next step needs."""
        self._phases.take()
        self._before(report.step + 1)

    def _before(self, step: int) -> None:
        if self._steps.timed and step == self._steps.timed.start:
            self._timing.enter_context(_device_awaited(self._phases, self._device))
            self._timing.enter_context(_waits_counted(self._phases))
            self._phases.take()
        if self._steps.traced and step == self._steps.traced.start:
            self._tracing.enter_context(_traced(self._phases, self._trace, self._device))


@contextmanager
def _device_awaited(phases: Phases, device: torch.device) -> Iterator[None]:
    phases.wait_for_device = torch.cuda.synchronize if device.type == "cuda" else None
    try:
        yield
    finally:
        phases.wait_for_device = None


@contextmanager
def _waits_counted(phases: Phases) -> Iterator[None]:
    """Count what a rank waits for collectives as communication, wherever they are called: ZeRO reduces within the backward pass.

    Each collective of torch.distributed ends in ``Work.wait``. With NCCL that only orders streams; there the trace shows what overlaps.
    """
    if not torch.distributed.is_available():
        yield
        return
    work: Any = torch.distributed.Work
    plain = work.wait

    def wait(self: Any, *arguments: Any, **values: Any) -> Any:
        with phases("communication"):
            return plain(self, *arguments, **values)

    work.wait = wait
    try:
        yield
    finally:
        work.wait = plain


@contextmanager
def _traced(phases: Phases, file: Path, device: torch.device) -> Iterator[None]:
    """Trace the block into ``file`` (Chrome's format, gzipped; chrome://tracing and ui.perfetto.dev open it)."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    phases.mark = _named
    try:
        with torch.profiler.profile(activities=activities) as profile:
            yield
        profile.export_chrome_trace(str(file))
    finally:
        phases.mark = None


def _named(phase: str) -> AbstractContextManager[object]:
    context: AbstractContextManager[object] = torch.profiler.record_function(f"raybert:{phase}")
    return context
