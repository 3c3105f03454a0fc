"""Signatures estimate how much two texts share, are the same wherever they are made, and bands find the pairs they promise."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from corpus.config import NearDuplicateConfig
from corpus.minhash import Banding, band_keys, banding, estimated_jaccard, shingles, signatures, verifier
from corpus.words import split_words
from tests.support.alike import changed, jaccard

CONFIG = NearDuplicateConfig(shingle_words=5, threshold=0.54, permutations=256, false_negative_weight=0.97)
SMALL = NearDuplicateConfig(permutations=16)
LONG = " ".join(f"w{i}" for i in range(3_000))
TEXTS = st.lists(st.lists(st.sampled_from("abcd—"), max_size=12).map(" ".join), min_size=1, max_size=6)


@given(TEXTS, st.integers(1, 6))
def test_every_text_has_shingles_equal_exactly_where_its_words_are(texts: list[str], n: int) -> None:
    def plain(text: str) -> list[Sequence[str]]:
        words = split_words(text)
        return [tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))] if words else [text.strip()]

    wanted = [plain(text) for text in texts]
    found = shingles(texts, n)
    assert found.counts.tolist() == [len(runs) for runs in wanted]
    numbers = dict(zip([run for runs in wanted for run in runs], found.hashes.tolist(), strict=True))
    assert len(set(numbers.values())) == len(numbers)
    assert [numbers[run] for runs in wanted for run in runs] == found.hashes.tolist()


@given(TEXTS, st.data())
def test_a_signature_does_not_depend_on_the_partition(texts: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(texts)))
    apart = [signatures(part, SMALL) for part in (texts[:cut], texts[cut:])]
    assert np.array_equal(np.concatenate(apart), signatures(texts, SMALL))


def test_no_texts_have_no_signatures() -> None:
    signed = signatures([], CONFIG)
    assert signed.shape == (0, 256)
    assert band_keys(signed, banding(CONFIG)).shape == (0, 44)


def test_case_punctuation_white_space_and_repeats_make_no_difference() -> None:
    texts = ["One two, three four five six!", "one  TWO three\nfour-five (six)", "one two three four five six one two three four five six"]
    first, second, _ = signatures(texts, CONFIG)
    assert np.array_equal(first, second)
    cycle = signatures(["a b c d e a b c d e a b c d", "a b c d e a b c d e a b c d e a b c d"], CONFIG)
    assert np.array_equal(*cycle)


@pytest.mark.parametrize("words", [60, 300, 2_000])
def test_equal_places_estimate_the_jaccard_similarity_without_bias(words: int) -> None:
    chance = random.Random(words)
    errors = []
    for share in (0.02, 0.05, 0.1):
        originals = [" ".join(f"v{chance.randrange(10**6)}" for _ in range(words)) for _ in range(40)]
        copies = [changed(text, share, chance) for text in originals]
        truth = [jaccard(a, b, CONFIG.shingle_words) for a, b in zip(originals, copies, strict=True)]
        found = estimated_jaccard(signatures(originals + copies, CONFIG), np.arange(40), np.arange(40, 80))
        errors.append(found - truth)
    # 120 pairs, standard error of one at most 0.5 / sqrt(256): four standard errors of the mean.
    assert abs(np.mean(errors)) < 4 * 0.5 / 256**0.5 / 120**0.5
    assert np.sqrt(np.mean(np.square(errors))) < 0.036


def test_the_verifier_keeps_the_threshold() -> None:
    signed = np.zeros((3, 100), dtype=np.uint32)
    signed[1, :40] = 1
    signed[2, :41] = 2
    assert verifier(signed, 0.6)(np.array([0, 0]), np.array([1, 2])).tolist() == [True, False]


def test_pairs_are_compared_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = np.random.default_rng(0).integers(0, 2, (20, 16), dtype=np.uint32)
    first, second = np.divmod(np.arange(400), 20)
    at_once = estimated_jaccard(signed, first, second)
    monkeypatch.setattr("corpus.minhash._BLOCK_PAIRS", 7)
    assert np.array_equal(estimated_jaccard(signed, first, second), at_once)


def test_a_band_key_is_shared_exactly_where_all_rows_are() -> None:
    signed = np.arange(24, dtype=np.uint32).reshape(1, 24).repeat(3, axis=0)
    signed[1, 7] = 99
    signed[2, [0, 23]] = 99
    keys = band_keys(signed, Banding(bands=4, rows=5))
    assert (keys[0] == keys[1]).tolist() == [True, False, True, True]
    # The last four numbers of the 24 belong to no band.
    assert (keys[0] == keys[2]).tolist() == [False, True, True, True]


@pytest.mark.parametrize(("similarity", "least", "most"), [(0.6, 0.95, 1.0), (0.2, 0.0, 0.2)])
def test_bands_turn_pairs_into_candidates_as_often_as_promised(similarity: float, least: float, most: float) -> None:
    cut = banding(CONFIG)
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2**32, (4_000, 256), dtype=np.uint32)
    second = np.where(generator.random(first.shape) < similarity, first, ~first)
    found = (band_keys(first, cut) == band_keys(second, cut)).any(axis=1).mean()
    assert least <= found <= most
    assert abs(found - cut.probability(similarity)) < 0.02


def test_bands_have_the_smallest_weighted_error() -> None:
    # The figures of datasketch 2.0.0, which integrates with scipy.
    assert banding(CONFIG) == Banding(bands=44, rows=4)
    assert banding(NearDuplicateConfig(threshold=0.8, permutations=128, false_negative_weight=0.5)) == Banding(bands=9, rows=13)
    assert banding(NearDuplicateConfig(threshold=0.5, permutations=128, false_negative_weight=0.5)) == Banding(bands=25, rows=5)


def test_signatures_never_change_between_versions_processes_and_machines() -> None:
    # Few shingles and many take different roads through the library; both are held.
    short = signatures(["The quick brown fox jumps over the lazy dog", "short one", "---"], SMALL)
    assert short[:, :3].tolist() == [
        [3406123375, 3271637573, 2229352907],
        [3604571218, 4128612518, 4079252161],
        [4046943852, 3542800228, 4064503586],
    ]
    signed = signatures([LONG], CONFIG)
    assert hashlib.sha256(signed.astype("<u4").tobytes()).hexdigest()[:16] == "34c627bad21561d6"
    assert band_keys(signed, banding(CONFIG))[0, :2].tolist() == [0x319EDA84FFC91AF2, 0xDEEF591B3BEA3A27]


def test_another_process_signs_the_same() -> None:
    program = (
        "from corpus.config import NearDuplicateConfig; from corpus.minhash import signatures; "
        "print(signatures(['a b c d e f g'], NearDuplicateConfig()).tolist())"
    )
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}).stdout
    assert printed.strip() == str(signatures(["a b c d e f g"], CONFIG).tolist())


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"threshold": 0}, {"threshold": 1.1}, {"permutations": 8}, {"shingle_words": 0}):
        with pytest.raises(ValidationError):
            NearDuplicateConfig.model_validate(wrong)
