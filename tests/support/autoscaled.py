"""A cluster with Ray's own autoscaler (v2), whose nodes are real raylets on this host that Ray's fake provider starts and ends.

Ray's wheel lacks the defaults that the provider's own name asks for, so it is named as an external one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster import processes, ray_settings
from cluster.ports import free_port
from tests.conftest import end_group, environment_of, wait_for

_HOST = "127.0.0.1"
_HEAD = "ray.head.default"  # as the provider has it
_EMPTY = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands")
_STORE = 100_000_000


def configuration(address: str, *, cpus: float, most: int) -> dict[str, Any]:
    """A head without CPUs, and up to ``most`` nodes of ``cpus`` each."""
    provider: Any = importlib.import_module("ray.autoscaler._private.fake_multi_node.node_provider")
    return {
        "cluster_name": "tests",
        "max_workers": most,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": f"{provider.__name__}.FakeMultiNodeProvider",
            "head_node_id": provider.FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "gcs_address": address,
        },
        "available_node_types": {
            _HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": cpus, "object_store_memory": _STORE}, "node_config": {}, "max_workers": most},
        },
        "head_node_type": _HEAD,
        "auth": {},
        "docker": {},
        **{name: [] for name in (*_EMPTY, "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    }


@contextlib.contextmanager
def autoscaled(folder: Path, home: Path, *, cpus: float, most: int) -> Iterator[str]:
    """The address of a cluster that begins with no node but its head."""
    address, mark = f"{_HOST}:{free_port()}", secrets.token_hex(8)
    config = configuration(address, cpus=cpus, most=most)
    file = folder / "autoscaling.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    env = environment_of(home, **ray_settings.node_environment()) | {
        processes.MARK: mark,
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": config["provider"]["head_node_id"],
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": config["provider"]["head_node_id"],
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else 127.0.0.1 becomes this host's address in the network
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--port", address.rpartition(":")[2], "--node-ip-address", _HOST, "--num-cpus", "0", "--include-dashboard", "false"]
    command += ["--object-store-memory", str(_STORE), "--autoscaling-config", str(file), "--temp-dir", f"/tmp/rb-{mark}"]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, text=True, start_new_session=True)
        try:
            wait_for(lambda: "will now block" in (folder / "head.log").read_text(), 60, "the head is up")
            with processes.ended_behind(mark):
                yield address
        finally:
            end_group(process)
            subprocess.run(["rm", "-rf", f"/tmp/rb-{mark}"], check=True)
