from __future__ import annotations

import inspect
import pickle

import pytest

from foundation import errors

ALL = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, errors.RaybertError)]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_the_way_between_processes(kind: type[errors.RaybertError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("file: key: found this")))
    assert type(copy) is kind
    assert str(copy) == "file: key: found this"


def test_exit_codes_tell_bad_input_failed_gate_and_failure_apart() -> None:
    assert {kind.__name__: kind.exit_code for kind in ALL if kind.exit_code not in (2,)} == {
        "RaybertError": 1,
        "RunError": 1,
        "ServiceError": 1,
        "GateError": 3,
    }
    assert all(kind.exit_code == 2 for kind in ALL if issubclass(kind, errors.InputError))
