"""Of equal and of nearly equal documents the first stays, wherever partitions begin, and nothing is dropped that differs."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.config import NearDuplicateConfig
from corpus.duplicates import (
    Clusters,
    ParagraphDigests,
    clusters,
    document_digests,
    first_occurrences,
    paragraph_digests,
    seen_in_earlier_documents,
    without_paragraphs,
)
from corpus.minhash import band_keys, banding, signatures, verifier

CONFIG = NearDuplicateConfig(permutations=128)
# Documents over few words, so that equal and similar ones come up.
DOCUMENTS = st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), min_size=1, max_size=12)
PARAGRAPHED = st.lists(st.lists(st.sampled_from(["p one", "p two", "x", " p one "]), max_size=4).map("\n\n".join), min_size=1, max_size=6)


def clustered(texts: list[str], config: NearDuplicateConfig = CONFIG) -> Clusters:
    signed = signatures(texts, config)
    return clusters(band_keys(signed, banding(config)), verifier(signed, config.threshold))


def cut(items: list[str], borders: list[int]) -> list[list[str]]:
    places = [0, *sorted(border % (len(items) + 1) for border in borders), len(items)]
    return [items[start:stop] for start, stop in pairwise(places)]


@given(DOCUMENTS)
def test_of_equal_documents_the_first_is_kept(texts: list[str]) -> None:
    assert first_occurrences(document_digests(texts)).tolist() == [text not in texts[:i] for i, text in enumerate(texts)]


def test_digests_that_agree_in_half_their_bits_differ() -> None:
    digests = np.array([[1, 1], [1, 2], [2, 1], [1, 1], [1, 2]], dtype=np.uint64)
    assert first_occurrences(digests).tolist() == [True, True, True, False, False]


def test_no_documents_are_no_trouble() -> None:
    assert first_occurrences(document_digests([])).tolist() == []
    assert clusters(np.empty((0, 4), dtype=np.uint64)).pairs.shape == (0, 2)
    assert seen_in_earlier_documents(paragraph_digests([], 1)).tolist() == []


def test_digests_never_change_between_versions() -> None:
    # As `printf a | b2sum -l 128` prints it.
    assert document_digests(["a"]).astype("<u8").tobytes().hex() == "27c35e6e9373877f29e562464e46497e"


@settings(deadline=None)
@given(DOCUMENTS, st.lists(st.integers(0, 99), max_size=4))
def test_partition_borders_never_change_which_documents_are_kept(texts: list[str], borders: list[int]) -> None:
    parts = cut(texts, borders)
    digests = np.concatenate([document_digests(part) for part in parts])
    assert np.array_equal(first_occurrences(digests), first_occurrences(document_digests(texts)))
    signed = np.concatenate([signatures(part, CONFIG) for part in parts])
    found = clusters(band_keys(signed, banding(CONFIG)), verifier(signed, CONFIG.threshold))
    assert np.array_equal(found.keepers, clustered(texts).keepers)


@settings(deadline=None)
@given(DOCUMENTS, st.data())
def test_an_identical_copy_is_always_clustered_with_an_earlier_document(texts: list[str], data: st.DataObject) -> None:
    original = data.draw(st.integers(0, len(texts) - 1))
    found = clustered([*texts, texts[original]])
    assert found.keepers[-1] <= original
    assert found.keepers[-1] == found.keepers[original]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=12))
def test_texts_with_nothing_in_common_are_never_clustered(lengths: list[int]) -> None:
    texts = [" ".join(f"d{number}w{place}" for place in range(length)) or "-" * (number + 1) for number, length in enumerate(lengths)]
    assert clustered(texts).kept.all()


def test_copies_with_one_word_in_twenty_changed_are_found_and_originals_stay() -> None:
    chance, config = random.Random(0), NearDuplicateConfig()
    vocabulary = [f"word{i}" for i in range(500)]
    originals = [" ".join(chance.choices(vocabulary, k=chance.randrange(100, 400))) for _ in range(200)]
    copies = []
    for text in originals:
        words = text.split()
        for place in chance.sample(range(len(words)), round(0.05 * len(words))):
            words[place] = chance.choice(vocabulary)
        copies.append(" ".join(words))
    found = clustered(originals + copies, config)
    assert found.kept[:200].all()
    assert (found.keepers[200:] == np.arange(200)).mean() >= 0.95
    assert found.united <= found.candidates


def test_every_dropped_document_resembles_the_one_that_is_kept_for_it() -> None:
    # A chain: each text shares nine tenths with the next one, the ends share nothing.
    words = [f"w{i}" for i in range(600)]
    texts = [" ".join(words[start : start + 200]) for start in range(0, 400, 10)]
    signed = signatures(texts, CONFIG)
    found = clusters(band_keys(signed, banding(CONFIG)), verifier(signed, CONFIG.threshold))
    assert 2 <= found.kept.sum() < len(texts)
    assert verifier(signed, CONFIG.threshold)(found.pairs[:, 1], found.pairs[:, 0]).all()
    assert np.array_equal(found.keepers[found.keepers], found.keepers)


def test_without_a_verifier_a_shared_key_is_enough_and_chains_unite() -> None:
    keys = np.array([[1, 9], [2, 8], [1, 8], [4, 7], [5, 6]], dtype=np.uint64)
    found = clusters(keys)
    assert found.keepers.tolist() == [0, 0, 0, 3, 4]
    assert found.pairs.tolist() == [[1, 0], [2, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_clusters_without_a_verifier_are_the_connected_components(seed: int) -> None:
    keys = np.random.default_rng(seed).integers(0, 30, (40, 2), dtype=np.uint64)
    wanted = list(range(40))
    for _ in range(40):
        for a in range(40):
            wanted[a] = min(wanted[b] for b in range(40) if (keys[a] == keys[b]).any())
    assert clusters(keys).keepers.tolist() == wanted


def test_documents_that_only_share_a_key_are_not_united_and_do_not_hide_the_others() -> None:
    kinds = np.array([0, 1, 2, 1, 0, 2, 1])
    found = clusters(np.zeros((7, 1), dtype=np.uint64), lambda first, second: kinds[first] == kinds[second])
    assert found.keepers.tolist() == [0, 1, 2, 1, 0, 2, 1]


def test_a_key_shared_by_very_many_documents_costs_a_few_comparisons_each() -> None:
    compared = 0

    def differ(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        nonlocal compared
        compared += len(first)
        return np.zeros(len(first), dtype=np.bool_)

    found = clusters(np.zeros((10_000, 1), dtype=np.uint64), differ)
    assert found.kept.all()
    assert found.candidates == compared < 5 * 10_000


def test_documents_that_are_united_already_are_not_compared_again() -> None:
    keys = np.zeros((100, 20), dtype=np.uint64)
    assert clusters(keys, lambda first, second: first == first).candidates == 99


def test_a_paragraph_is_what_stands_between_blank_lines() -> None:
    found = paragraph_digests(["first one\nwith two lines\n\n\n second one \n \t\nno\n\r\nthird one", "", "second one"], 5)
    assert found.documents.tolist() == [0, 0, 0, 2]
    assert np.array_equal(found.digests[1], found.digests[3])
    assert np.array_equal(found.digests, document_digests(["first one\nwith two lines", "second one", "third one", "second one"]))


@given(PARAGRAPHED, st.lists(st.integers(0, 99), max_size=3))
def test_a_paragraph_stays_in_the_first_document_that_has_it(texts: list[str], borders: list[int]) -> None:
    parts = cut(texts, borders)
    found, before = [], 0
    for part in parts:
        paragraphs = paragraph_digests(part, 5)
        found.append(ParagraphDigests(paragraphs.digests, paragraphs.documents + before))
        before += len(part)
    merged = ParagraphDigests(np.concatenate([p.digests for p in found]), np.concatenate([p.documents for p in found]))
    seen = seen_in_earlier_documents(merged)
    split = [[piece.strip() for piece in text.split("\n\n")] for text in texts]
    for number, text in enumerate(texts):
        earlier = {piece for pieces in split[:number] for piece in pieces}
        left = without_paragraphs(text, seen[merged.documents == number], 5)
        wanted = [piece for piece in split[number] if len(piece) < 5 or piece not in earlier]
        assert [piece.strip() for piece in left.split("\n\n") if piece.strip()] == [piece for piece in wanted if piece]


def test_what_is_left_of_a_text_keeps_its_own_blank_lines() -> None:
    text = "first one\n\n\nsecond\nparagraph\n \nx\n\nlast one"
    assert without_paragraphs(text, [False, False, False], 5) is text
    assert without_paragraphs(text, [False, True, False], 5) == "first one\n\n\nx\n\nlast one"
    assert without_paragraphs(text, [True, False, True], 5) == "second\nparagraph\n \nx"
    assert without_paragraphs("all of it", [True], 5) == ""
