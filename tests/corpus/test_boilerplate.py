"""Lines of the web site go, lines of the text stay; what very many documents share can be counted without the documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.boilerplate import filter_lines, line_digests, normalise, without_boilerplate, without_lines
from corpus.quality_config import BoilerplateConfig
from foundation.config import dump_yaml, parse
from foundation.errors import ConfigError

CONFIG = BoilerplateConfig()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("This site uses cookies to give you the best experience.", "cookie notice"),
        ("Accept all cookies", "cookie notice"),
        ("© 2024 Example Ltd.", "copyright"),
        ("Copyright (c) 2019 Example. All rights reserved.", "copyright"),
        ("Click here to subscribe", "click here"),
        ("For more details, click here.", "click here"),
        ("Read more »", "read more"),
        ("Continue reading", "read more"),
        ("Home | About us | Contact", "navigation"),
        ("Home › Products › Log in", "navigation"),
        ("Share this on", "sharing"),
        ("Skip to main content", "page controls"),
        ("Leave a comment", "page controls"),
    ],
)
def test_lines_of_the_site_go(line: str, name: str) -> None:
    assert without_boilerplate(f"Before.\n{line}\nAfter.", CONFIG) == ("Before.\nAfter.", {name: 1})


@pytest.mark.parametrize(
    "line",
    [
        "Licensed under the Apache License, Version 2.0 (the License); you may not use this file except in compliance with it.",
        "Permission is hereby granted, free of charge, to any person obtaining a copy of this software.",
        "She baked cookies and shared them with the neighbours.",
        "cat access.log | grep home | wc -l",
        "mode: on | off | auto",
        "The next page of the book was torn, and so was the previous article.",
        "Read more books, and you will write better letters.",
        "In 1998 (c) was the usual way to write the copyright sign.",
        "The editor lets you click here and there without a thought.",
        "We use cookies " + "and explain at length what for, " * 8,
    ],
)
def test_lines_of_the_text_stay(line: str) -> None:
    assert without_boilerplate(line, CONFIG) == (line, {})


def test_paragraphs_stay_apart_and_come_no_further_apart() -> None:
    assert without_boilerplate("One.\n\nClick here\n\nTwo.\nRead more", CONFIG) == ("One.\n\nTwo.", {"click here": 1, "read more": 1})


def test_patterns_are_the_recipes_to_choose() -> None:
    config = BoilerplateConfig(patterns=(("sighs", "^alas$"),))
    assert without_boilerplate("Alas\nClick here", config) == ("Click here", {"sighs": 1})
    assert without_boilerplate("Click here", BoilerplateConfig(patterns=())) == ("Click here", {})


def test_a_pattern_for_short_lines_is_not_asked_about_long_ones() -> None:
    line = "all rights reserved"
    assert without_boilerplate(line, BoilerplateConfig(max_characters=19))[0] == ""
    assert without_boilerplate(line, BoilerplateConfig(max_characters=18))[0] == line


@pytest.mark.parametrize(("pattern", "message"), [("(", "bad: '(' is not a regular expression"), ("x*", "bad: 'x*' matches an empty line")])
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.yaml: patterns: ") as refusal:
        parse(BoilerplateConfig, {"patterns": [["bad", pattern]]}, where="recipe.yaml")
    assert message in str(refusal.value)


def test_a_recipe_survives_being_written() -> None:
    import yaml

    assert parse(BoilerplateConfig, yaml.safe_load(dump_yaml(CONFIG)), where="here") == CONFIG


def test_lines_are_the_same_but_for_case_numbers_and_spaces() -> None:
    assert normalise("Page 9 of  10") == normalise("page 12 OF 345") == "page 0 of 0"
    first, second = line_digests("Posted on 12 May 2019, 10:45"), line_digests("posted on 3  May 2024, 1:02")
    assert first.dtype == np.uint64
    assert first.tolist() == second.tolist()
    assert line_digests("Posted on 12 June 2019, 10:45").tolist() != first.tolist()


def test_a_digest_is_the_same_on_every_machine() -> None:
    assert line_digests("The quick brown fox jumps.").tolist() == [2642450182355792204]


def test_short_lines_are_not_counted() -> None:
    assert len(line_digests("}\nExample:\n\n   \n1234567890 1234567890 1234567890")) == 0
    assert len(line_digests("a" * 19)) == 0
    assert len(line_digests("a" * 20)) == 1
    assert len(line_digests("}\nExample:", min_characters=1)) == 2


def test_a_line_counts_once_for_each_document() -> None:
    text = "Sign in to see this page.\nSomething else of some length.\nSIGN IN to see this page."
    digests = line_digests(text)
    assert digests.tolist() == sorted(set(digests.tolist()))
    assert len(digests) == 2


@pytest.mark.parametrize("form", [frozenset, lambda digests: np.array(sorted(digests), dtype=np.uint64)], ids=["set", "array"])
def test_counted_lines_go_wherever_they_stand(form: type[frozenset[int]]) -> None:
    digests = form(line_digests("Posted on 12 May 2019 by the editor").tolist())
    text = "First line of the text.\n\nPosted on 3 May 2020 by the editor\n\nLast line of the text.\nposted on 4 May 2021 by the editor"
    assert without_lines(text, digests) == ("First line of the text.\n\nLast line of the text.", 2)
    assert without_lines("Nothing of this sort is here.", digests) == ("Nothing of this sort is here.", 0)


@given(st.lists(st.text(max_size=30), max_size=8).map("\n".join), st.sets(st.integers(0, 7)))
def test_exactly_the_named_lines_go(text: str, which: set[int]) -> None:
    lines = text.split("\n")
    named = "\n".join(lines[i] for i in which if i < len(lines))
    digests = line_digests(named, min_characters=1)
    kept, removed = without_lines(text, digests, min_characters=1)
    assert not set(line_digests(kept, min_characters=1).tolist()) & set(digests.tolist())
    assert (removed == 0) == (kept == text) == (len(digests) == 0)
    assert without_lines(text, frozenset(digests.tolist()), min_characters=1) == (kept, removed)
    assert without_lines(kept, digests, min_characters=1) == (kept, 0)


@given(st.text(max_size=200))
def test_no_text_breaks_a_pattern(text: str) -> None:
    kept, removed = without_boilerplate(text, CONFIG)
    assert without_boilerplate(kept, CONFIG) == (kept, {})
    assert bool(removed) == (kept != text)


@pytest.mark.parametrize("unit", ["a", " ", "|", "home|", "©", "read more ", "\u0301"])
def test_a_megabyte_in_one_line_is_no_line_of_a_site(unit: str) -> None:
    text = unit * (2**20 // len(unit))
    assert without_boilerplate(text, CONFIG) == (text, {})
    line_digests(text)


def test_blank_lines_are_nobodys_to_remove() -> None:
    assert filter_lines("\n \na\n\n", lambda line: line != "a") == ("", 1)
    assert filter_lines("\n \n", lambda line: False) == ("\n \n", 0)
