"""Every Ray setting that raybert relies on and that Ray reads from the environment, in one place, each with its reason.

Many are read before a process of Ray starts, so they have to be set by whoever starts the driver or the nodes. A value that the user
has set already wins.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

_EVERYWHERE = {
    # The dashboard's Train page stays empty otherwise.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # A rank missing at report() would leave the others waiting for ever; Ray's default is no limit.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
    # A hung worker is noticed after this; Ray's default is ten minutes.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    # The controller looks this often whether workers have ended; Ray's default is 2 s, of which a restart waits two or three.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Workers are told this often of a node that is about to go; Ray's default of 5 s is a sixth of the notice that a node gives.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Seconds between SIGTERM and SIGKILL of a stopped job's driver; Ray's default of 3 is too short to end a training run cleanly.
    "RAY_JOB_STOP_WAIT_TIME_S": "12",
    # Replicas tell the autoscaler of their load this often; Ray's default is 10 s.
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # Tune lets us decide how to end on Ctrl-C.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Nothing is sent anywhere.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Forked workers warn about it on every batch.
    "TOKENIZERS_PARALLELISM": "false",
    # Ray Data's own bars would be drawn over ours.
    "RAY_TQDM": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Tune prints a table on stdout otherwise, where the result belongs.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ray is about to stop hiding GPUs from workers that ask for none; taking that now spares a warning at every start.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def has_gpu() -> bool:
    """Whether this machine seems to have an NVIDIA GPU, told without torch."""
    return shutil.which("nvidia-smi") is not None and Path("/proc/driver/nvidia").exists()


def node_environment() -> dict[str, str]:
    """What a Ray node, and with it every worker on it, needs."""
    environment = dict(_EVERYWHERE)
    if not has_gpu():
        # DeepSpeed asks for an accelerator at import; on a machine without one it has to be told.
        environment["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed compiles an op on first use and looks for ninja on PATH, which a virtual environment's bin need not be on.
    environment["PATH"] = path_with_environment(os.environ.get("PATH", ""))
    return environment


def failure_detection(seconds: float) -> dict[str, str]:
    """What the head needs so that a node which died is noticed within ``seconds``: it asks each node four times, and three without an
    answer are enough."""
    quarter_ms = str(round(1000 * seconds / 4))
    return {
        "RAY_health_check_initial_delay_ms": quarter_ms,
        "RAY_health_check_period_ms": quarter_ms,
        "RAY_health_check_timeout_ms": quarter_ms,
        "RAY_health_check_failure_threshold": "3",
    }


def driver_environment() -> dict[str, str]:
    """What the process of a verb needs before it imports ray."""
    # After Ctrl-C, Tune's or Train's thread may still ask Ray for something; Ray would start a whole new cluster to answer it.
    return node_environment() | {"RAY_ENABLE_AUTO_CONNECT": "0"}


def path_with_environment(path: str) -> str:
    """``path`` with the running interpreter's folder in it."""
    folder = str(Path(sys.executable).parent)
    return path if folder in path.split(os.pathsep) else f"{folder}{os.pathsep}{path}"


def merged(environment: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """``environment`` with the settings that it does not hold yet; PATH is taken from the settings, which extend it."""
    return {**settings, **environment, **({"PATH": settings["PATH"]} if "PATH" in settings else {})}


def apply(settings: Mapping[str, str]) -> None:
    """Give this process the settings that it does not have yet."""
    os.environ.update(merged(os.environ, settings))
