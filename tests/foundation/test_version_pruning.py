"""Which versions can go."""

from __future__ import annotations

from foundation.version_pruning import choose
from foundation.versions import Version


def version(number: int, *aliases: str) -> Version:
    return Version("m", number, aliases, digest="d", source="/s", run_id=None, created="", tags={})


def test_what_is_named_referred_to_or_new_stays_and_the_rest_goes() -> None:
    versions = [version(5), version(4), version(3, "champion"), version(2), version(1)]
    choice = choose(versions, keep=1, referred={"m/2": "service s answers with it"})
    assert [item.ref for item in choice.go] == ["m/4", "m/1"]
    assert {item.version.ref: item.reason for item in choice.stay} == {
        "m/5": "is one of the 1 newest",
        "m/3": "is champion",
        "m/2": "service s answers with it",
    }
