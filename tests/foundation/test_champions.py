"""Where aliases stand after moves, for any sequence of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from foundation.champions import Move, broken_links, challenged, is_under_way, promoted, read_move

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VERSIONS = st.integers(1, 5)
MOVES = st.lists(st.tuples(st.sampled_from((promoted, challenged)), VERSIONS), max_size=20)


def a_move(number: int, before: int | None, champion: int) -> Move:
    return Move(
        number=number, action="promote", version=champion, before=before, aliases={"champion": champion}, at=NOW.isoformat(), by="a@b"
    )


@given(MOVES)
def test_previous_is_the_last_other_champion_and_nothing_stands_beside_itself(moves: list[tuple]) -> None:  # type: ignore[type-arg]
    aliases: dict[str, int] = {"mine": 9}
    champions: list[int] = []
    for policy, version in moves:
        if policy is challenged and aliases.get("champion") == version:
            continue  # the registry refuses it
        aliases = policy(aliases, version)
        if policy is promoted and champions[-1:] != [version]:
            champions.append(version)
    assert aliases.get("champion") == (champions[-1] if champions else None)
    assert aliases.get("previous") == (champions[-2] if len(champions) > 1 else None)
    assert aliases.get("challenger", 0) != aliases.get("champion")
    assert aliases["mine"] == 9


def test_a_challenger_stays_when_another_version_becomes_champion() -> None:
    assert promoted({"champion": 1, "challenger": 3}, 2) == {"champion": 2, "challenger": 3, "previous": 1}


def test_a_history_with_a_missing_or_contradicting_move_is_told() -> None:
    whole = [a_move(1, None, 1), a_move(2, 1, 2)]
    assert broken_links(whole) == []
    assert broken_links([whole[0], a_move(3, 1, 2)]) == ["move 3 follows move 1"]
    assert broken_links([whole[0], a_move(2, 5, 2)]) == ["move 2 found champion 5, but move 1 left 1"]


def test_a_claim_counts_for_a_while() -> None:
    assert not is_under_way([], NOW)
    assert is_under_way([NOW.isoformat()], NOW + timedelta(seconds=59))
    assert not is_under_way([NOW.isoformat()], NOW + timedelta(seconds=61))


def test_what_is_no_move_is_passed_over() -> None:
    kept = a_move(1, None, 2)
    assert read_move(kept.model_dump_json()) == kept
    assert read_move("{}") is None
