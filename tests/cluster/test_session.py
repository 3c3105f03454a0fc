"""What a session refuses before it starts or connects to anything; no Ray runs here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.session import check_private, session
from foundation.errors import ClusterError
from tests.conftest import processes_of


def test_more_cpus_than_the_machine_has_start_nothing(raybert_home: Path) -> None:
    with pytest.raises(ClusterError, match=r"1000 CPUs wanted, the cluster has \d+ on 1 node"), session(cpus=1000):
        pass
    assert processes_of(raybert_home) == []


def test_what_the_machine_has_is_enough() -> None:
    check_private(os.cpu_count() or 1, 0)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "127.0.0.1:port"])
def test_what_is_no_address_is_told_so(address: str, raybert_home: Path) -> None:
    with pytest.raises(ClusterError, match="not an address; expected HOST:PORT"), session(address):
        pass
