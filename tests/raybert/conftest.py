"""A folder of wrong files for the tests of bad input."""

from __future__ import annotations

import pytest

from tests.support.bad_input import Refusals, make_place


@pytest.fixture(scope="module")
def assert_refused(tmp_path_factory: pytest.TempPathFactory) -> Refusals:
    """One folder of wrong files for all cases: none of them may change it."""
    folder = tmp_path_factory.mktemp("bad_input")
    return Refusals(make_place(folder / "place"), folder / "home")
