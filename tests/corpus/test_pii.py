"""Planted personal data is found, what only looks like it stays, and scrubbing twice is scrubbing once."""

from __future__ import annotations

import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.pii import PLACEHOLDERS, PiiKind, PiiRules, check_patterns, scrub
from foundation.errors import ConfigError
from tests.support.personal import LOOKALIKES, PLANTERS, SENTENCES, US_SSN, bare, entries

RULES = PiiRules()


@pytest.mark.parametrize("kind", PLANTERS)
def test_of_a_thousand_planted_of_each_kind_at_most_twenty_are_missed(kind: PiiKind) -> None:
    rng, missed = random.Random(f"planted {kind}"), []
    for _ in range(1_000):
        planted, sentence = PLANTERS[kind](rng), rng.choice(SENTENCES)
        wanted = sentence.replace("{}", planted.replace(bare(kind, planted), PLACEHOLDERS[kind]))
        if scrub(sentence.replace("{}", planted), PiiRules(national_ids=US_SSN)).text != wanted:
            missed.append((planted, sentence))
    assert len(missed) <= 20, missed[:30]


@pytest.mark.parametrize("text", entries(LOOKALIKES))
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    for sentence in SENTENCES:
        whole = sentence.replace("{}", text)
        assert scrub(whole, RULES) == (whole, {})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("psql postgres://anna:pw@db.example.org:5432/x?y=anna@a.org.", "psql [URL]."),
        ("+49 171 1234567@example.org", "+49 171 [EMAIL]"),
        ("DE89 3704 0044 0532 0130 00, then 4111 1111 1111 1111 12/27", "[IBAN], then [CARD] 12/27"),
        ("AB12 DE89 3704 0044 0532 0130 00 7", "AB12 [IBAN] 7"),
        ("2 4111-1111-1111-1111 5", "2 [CARD] 5"),
        ("2001:4860:4860::8888: up; [2001:4860:4860::8844]:443", "[IP]: up; [[IP]]:443"),
        ("::ffff:192.168.3.40 and ssh root@192.168.3.40", "[IP] and ssh root@[IP]"),
        ("https://x.org/leave?mail=anna@x.org and mailto:anna@x.org", "https://x.org/leave?mail=[EMAIL] and mailto:[EMAIL]"),
        ("请写anna@x.org谢谢", "请写[EMAIL]谢谢"),
        ("telephone: (202) 939-6200 FAX: (202) 387-0484", "telephone: [PHONE] FAX: [PHONE]"),
        ("Fax no. 612 345 678", "Fax no. [PHONE]"),
        ("请拨打010-12345678谢谢", "请拨打[PHONE]谢谢"),
    ],
)
def test_each_kind_takes_its_own_and_no_more(text: str, wanted: str) -> None:
    assert scrub(text, RULES).text == wanted


def test_replacements_are_counted_by_kind() -> None:
    text = "a@b.org, c@d.org or 555-123-4567; SSN 123-45-6789"
    assert scrub(text, PiiRules(national_ids=US_SSN)) == (
        "[EMAIL], [EMAIL] or [PHONE]; SSN [ID]",
        {"email": 2, "phone": 1, "national_id": 1},
    )


def test_only_the_kinds_asked_for_are_replaced() -> None:
    text = "a@b.org or 555-123-4567; SSN 123-45-6789"
    assert scrub(text, PiiRules(kinds=("phone",), national_ids=US_SSN)).text == "a@b.org or [PHONE]; SSN 123-45-6789"


def test_what_the_recipe_allows_stays_whole() -> None:
    rules = PiiRules(allow=("Info@Team.example", "@example.org", "8.8.4.44", "http://u:p@x.org/"))
    kept = "info@team.example, 555-123-4567@EXAMPLE.org, 8.8.4.44, http://u:p@x.org/"
    assert scrub(kept, rules) == (kept, {})
    assert scrub("you@team.example, a@sub.example.org, 8.8.4.45", rules).text == "[EMAIL], [EMAIL], [IP]"


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [*PLACEHOLDERS.values(), "[", "]", "@", ".", " ", "-", "/", ":", "://", "+", "(", ")", "x", "0", "EMAIL", "ID"]
            ),
            st.integers(0, 2**32).map(lambda seed: PLANTERS[random.Random(seed).choice(list(PLANTERS))](random.Random(seed))),
            st.text(max_size=6),
        ),
        max_size=12,
    )
)
def test_scrubbing_twice_is_scrubbing_once_and_placeholders_stay(pieces: list[str]) -> None:
    text = "".join(pieces)
    # A national id as greedy as this one must not eat placeholders either.
    rules = PiiRules(national_ids=(*US_SSN, ("capitals", r"[A-Z\]]{2,5}|(?<!\d)\d{3}(?!\d)")), allow=("@example.org",))
    once = scrub(text, rules)
    assert scrub(once.text, rules) == (once.text, {})
    for kind, placeholder in PLACEHOLDERS.items():
        assert once.text.count(placeholder) == text.count(placeholder) + once.counts.get(kind, 0)


def test_rules_reach_a_worker_and_scrub_the_same_there() -> None:
    rules = PiiRules(national_ids=US_SSN, allow=("@example.org",))
    assert pickle.loads(pickle.dumps(rules)) == rules
    assert PiiRules(kinds=("email",)) != RULES


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("ssn", "(")], r"cleaning\.pii\.national_ids\.ssn: '\(' is not a regular expression"),
        ([("ssn", r"\d*")], r"national_ids\.ssn: .* matches the empty text; require at least one"),
        ([("ssn", "1"), ("ssn", "2")], r"national_ids\.ssn: stands twice"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_by_its_key(pairs: list[tuple[str, str]], message: str) -> None:
    check_patterns(US_SSN)
    with pytest.raises(ConfigError, match=message):
        check_patterns(pairs, key="cleaning.pii.national_ids")
