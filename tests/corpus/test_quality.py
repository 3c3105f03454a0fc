"""Every rule keeps a text on one side of its threshold and drops one on the other, in any script, and no text breaks one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.quality import Page, keep_lines, mean_word_length, reason_to_drop, reasons_to_drop, repeated_ngrams, split_words
from corpus.quality_config import C4Config, FineWebConfig, GopherConfig, GopherRepetitionConfig, QualityConfig
from foundation.config import dump_yaml, load, parse
from foundation.errors import ConfigError

EVERYTHING = QualityConfig(gopher=GopherConfig(), gopher_repetition=GopherRepetitionConfig(), c4=C4Config(), fineweb=FineWebConfig())

ENGLISH = """The harbour was quiet when the first boats came home that evening, with their lamps still burning.
Nobody had expected them before Sunday, and so the market stood empty except for two old women who sold onions.
One of them asked what had happened out there. A storm had turned the fleet around near the northern islands.
They would have stayed longer, said the captain, but the nets were torn and the water was getting too cold.
On Monday everyone went to mend what could be mended. It took until the end of the week."""
CHINESE = """港口那天晚上很安静，第一批渔船回来的时候，船上的灯还亮着。没有人想到他们会在星期天以前回家，所以市场上只有两个卖洋葱的老太太。
其中一个人问外面发生了什么事情。船长说，北方岛屿附近的暴风雨迫使整个船队掉头返航。如果渔网没有破，水也没有变得那么冷，他们本来会多留几天。
星期一大家都去修补能修补的东西，一直忙到周末才结束。孩子们在码头上跑来跑去，看大人怎样把绳子重新接好。"""
ARABIC = """كان الميناء هادئا عندما عادت القوارب الأولى في ذلك المساء ومصابيحها لا تزال مضاءة. لم يكن أحد ينتظرها قبل يوم الأحد.
لهذا بقي السوق فارغا إلا من امرأتين عجوزين تبيعان البصل قرب الباب الكبير. سألت إحداهما عما حدث هناك في البحر؟
قال القبطان إن عاصفة شديدة قرب الجزر الشمالية أجبرت الأسطول كله على الرجوع. كانوا سيبقون وقتا أطول لولا تمزق الشباك وبرودة الماء.
وفي صباح الاثنين ذهب الجميع لإصلاح ما يمكن إصلاحه، واستغرق العمل حتى نهاية الأسبوع."""
THAI = """ท่าเรือเงียบสงบเมื่อเรือลำแรกกลับมาถึงบ้านในเย็นวันนั้น โดยที่ตะเกียงยังคงส่องสว่างอยู่ ไม่มีใครคาดว่าพวกเขาจะมาก่อนวันอาทิตย์
ตลาดจึงว่างเปล่า มีเพียงหญิงชราสองคนที่ขายหัวหอม คนหนึ่งถามว่าเกิดอะไรขึ้นข้างนอก
พายุใกล้หมู่เกาะทางเหนือทำให้กองเรือต้องหันกลับ กัปตันบอกว่าอวนขาดและน้ำเย็นเกินไป วันจันทร์ทุกคนไปซ่อมสิ่งที่ซ่อมได้"""
JAPANESE = """その夜、最初の船が灯りをともしたまま港に帰ってきたとき、あたりはとても静かだった。日曜日より前に戻るとは誰も思っていなかった。
市場には玉ねぎを売る二人の老女しかいなかった。一人が海で何があったのかと尋ねた。船長は、北の島の近くで嵐に遭って引き返したのだと答えた。
網が破れず、水があれほど冷たくならなければ、もっと長く残るつもりだったという。"""


def words(number: int) -> list[str]:
    """Different words of five characters."""
    return [f"{chr(97 + i // 676 % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}xy" for i in range(number)]


def lines(*shares: tuple[int, str], words_each: int = 6) -> str:
    """Lines of different words, so many with each template around them."""
    source = iter(words(words_each * sum(number for number, _ in shares)))
    return "\n".join(template.format(" ".join(islice(source, words_each))) for number, template in shares for _ in range(number))


def repeat_some(repeats: int, of: int, pattern: str) -> str:
    """Words of five characters, ``of`` in all, in which ``pattern`` stands so often; what stands between is different each time."""
    size = len(pattern.split())
    gap = (of - repeats * size) // repeats
    source = iter(words(of))
    text = [part for _ in range(repeats) for part in [*pattern.split(), *islice(source, gap)]]
    return " ".join([*text, *islice(source, of - len(text))])


GOPHER = GopherConfig(min_words=0, min_stop_words=0)
REPETITION = GopherRepetitionConfig()
NGRAMS_ONLY = {"max_duplicate_lines": 1.0, "max_duplicate_line_characters": 1.0}
C4 = C4Config(min_sentences=0)
PARAGRAPHS = GopherRepetitionConfig.model_validate({**NGRAMS_ONLY, "max_top_ngrams": [], "max_duplicate_ngrams": []})
LINES = GopherRepetitionConfig.model_validate({"max_top_ngrams": [], "max_duplicate_ngrams": []})


def gopher(**limits: object) -> QualityConfig:
    return QualityConfig(gopher=GopherConfig.model_validate({"min_words": 0, "min_stop_words": 0, **limits}))


def ngrams(**limits: object) -> QualityConfig:
    tree = {**NGRAMS_ONLY, "max_top_ngrams": [], "max_duplicate_ngrams": [], **limits}
    return QualityConfig(gopher_repetition=GopherRepetitionConfig.model_validate(tree))


def text_of_lengths(short: int, long: int, number: int) -> str:
    return " ".join(["ab" + "c" * (short - 2)] * number + ["ab" + "c" * (long - 2)] * number)


CASES = {
    "gopher: word count": (
        QualityConfig(gopher=GopherConfig(min_stop_words=0)),
        lines((1, "{}"), words_each=50),
        lines((1, "{}"), words_each=49),
    ),
    "gopher: word count (most)": (gopher(max_words=60), " ".join(words(60)), " ".join(words(61))),
    "gopher: mean word length": (gopher(), text_of_lengths(2, 4, 30), text_of_lengths(2, 4, 30) + " ab"),
    "gopher: mean word length (most)": (gopher(), text_of_lengths(9, 11, 30), text_of_lengths(9, 11, 30) + " " + "a" * 11),
    "gopher: symbols": (gopher(), "# " * 5 + " ".join(words(45)), "# " * 6 + " ".join(words(45))),
    "gopher: symbols (ellipses)": (gopher(max_ellipsis_lines=1), lines((1, "{}..."), words_each=10), lines((1, "{}… a..."), words_each=10)),
    "gopher: bullet lines": (gopher(), lines((9, "• {}"), (1, "{}")), lines((10, "• {}"), (1, "{}"))),
    "gopher: ellipsis lines": (gopher(), lines((3, "{}..."), (7, "{}")), lines((4, "{} …"), (7, "{}"))),
    "gopher: alphabetic words": (gopher(), " ".join([*words(40), *["2024"] * 10]), " ".join([*words(40), *["2024"] * 11])),
    "gopher: stop words": (gopher(min_stop_words=2), "The fleet sailed, and it stayed", "The fleet sailed the sea"),
    "gopher repetition: duplicate lines": (
        QualityConfig(gopher_repetition=LINES),
        "\n".join(["ab"] * 4 + [word * 3 for word in words(6)]),
        "\n".join(["ab"] * 5 + [word * 3 for word in words(6)]),
    ),
    "gopher repetition: characters in duplicate lines": (
        QualityConfig(gopher_repetition=LINES),
        "\n".join(["ab" * 10] * 2 + words(12)),
        "\n".join(["ab" * 10] * 2 + words(11)),
    ),
    "gopher repetition: duplicate paragraphs": (
        QualityConfig(gopher_repetition=PARAGRAPHS),
        "\n\n".join(["ab"] * 4 + [word * 3 for word in words(6)]),
        "\n\n".join(["ab"] * 5 + [word * 3 for word in words(6)]),
    ),
    "gopher repetition: characters in duplicate paragraphs": (
        QualityConfig(gopher_repetition=PARAGRAPHS),
        "\n\n".join(["ab" * 10] * 2 + words(12)),
        "\n\n".join(["ab" * 10] * 2 + words(11)),
    ),
    **{
        f"gopher repetition: top {n}-gram": (
            ngrams(max_top_ngrams=[[n, share]]),
            repeat_some(round(100 * share) // n, 100, " ".join(f"same{i}" for i in range(n))),
            repeat_some(round(100 * share) // n + 1, 100, " ".join(f"same{i}" for i in range(n))),
        )
        for n, share in REPETITION.max_top_ngrams
    },
    **{
        f"gopher repetition: duplicate {n}-grams": (
            # Of r occurrences the first is no duplicate: (r - 1) n words of five characters.
            ngrams(max_duplicate_ngrams=[[n, share]]),
            repeat_some(round(500 * share) // n + 1, 500, " ".join(f"dup{i:02}" for i in range(n))),
            repeat_some(round(500 * share) // n + 2, 500, " ".join(f"dup{i:02}" for i in range(n))),
        )
        for n, share in REPETITION.max_duplicate_ngrams
    },
    "c4: curly bracket": (QualityConfig(c4=C4), "Plain (text) here.", "int main() {"),
    "c4: lorem ipsum": (QualityConfig(c4=C4), "Lorem, as they say, ipsum.", "And then Lorem Ipsum dolor sit."),
    "c4: sentences": (
        QualityConfig(c4=C4Config()),
        "One stands here. Two stand there! Is this three?\nThe fourth one is here.\nFive is a number.",
        "One stands here. Two stand there! Is this e.g. three?\nA line without an end mark\nThe fourth one is here.",
    ),
    "fineweb: short lines": (
        QualityConfig(fineweb=FineWebConfig()),
        lines((66, "{:.28}."), (34, "{}.")),
        lines((67, "{:.28}."), (33, "{}.")),
    ),
    "fineweb: duplicate lines": (
        QualityConfig(fineweb=FineWebConfig()),
        "\n".join(["This line stands here more often."] * 2) + "\n" + lines((9, "{}.")),
        "\n".join(["This line stands here more often."] * 2) + "\n" + lines((7, "{}.")),
    ),
    "fineweb: punctuation": (QualityConfig(fineweb=FineWebConfig()), lines((13, "{}."), (87, "{}")), lines((12, "{}."), (88, "{}"))),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_keeps_what_is_just_within_and_drops_what_is_just_outside(name: str) -> None:
    config, within, outside = CASES[name]
    assert list(reasons_to_drop(within, config)) == []
    assert next(reasons_to_drop(outside, config)) == name.partition(" (")[0]


def test_every_rule_has_a_case() -> None:
    everything_wrong = QualityConfig(
        gopher=GopherConfig(min_words=10**5, max_symbols_per_word=0, max_bullet_lines=0, max_ellipsis_lines=0, min_alphabetic_words=1),
        gopher_repetition=GopherRepetitionConfig(
            max_duplicate_lines=0, max_duplicate_line_characters=0, max_duplicate_paragraphs=0, max_duplicate_paragraph_characters=0
        ),
        c4=C4Config(min_sentences=1000),
        fineweb=FineWebConfig(punctuated_lines=1, short_line_characters=10**4),
    )
    text = "\n\n".join(["• lorem ipsum {# 1 x x x x x x x x x x x x x x x x x x x x x ..."] * 20)
    assert set(reasons_to_drop(text, everything_wrong)) == {name.partition(" (")[0] for name in CASES}


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, ARABIC, THAI, JAPANESE], ids=["English", "Chinese", "Arabic", "Thai", "Japanese"])
def test_prose_is_kept_in_any_script(text: str) -> None:
    assert list(reasons_to_drop(text, EVERYTHING)) == []
    assert keep_lines(text, C4Config()) == (text, {})


def test_what_is_off_drops_nothing() -> None:
    assert reason_to_drop("{" * 10, QualityConfig()) is None


def test_a_run_of_chinese_words_is_twice_as_many_characters() -> None:
    config = ngrams(max_duplicate_ngrams=[[5, 0.15]])
    different = [chr(0x4E00 + i) for i in range(40)]
    nine, ten = "港口那天晚上很安静", "港口那天晚上很安静了"
    assert reason_to_drop(nine + different[0] + nine + "".join(different[1:]), config) is None
    assert reason_to_drop(ten + different[0] + ten + "".join(different[1:]), config) == "gopher repetition: duplicate 5-grams"


def test_letters_of_scripts_without_spaces_are_words() -> None:
    assert split_words("你好，「世界」。Linux 6.1 內核") == ["你", "好，「", "世", "界」。", "Linux", "6.1", "內", "核"]
    assert split_words("ที่นี่ ok") == ["ที่", "นี่", "ok"]
    assert split_words("naïve café, ok") == ["naïve", "café,", "ok"]


def test_the_length_of_words_is_asked_where_there_are_words() -> None:
    assert mean_word_length(Page("港口那天晚上很安静 abcd")) is None
    assert mean_word_length(Page("abcd efgh ijklm mnopq 港")) == 4.5


def test_bad_lines_go_and_are_counted() -> None:
    text = (
        "First we say something.\n\nA heading without an end\n\nThen we go on...\nPlease enable JavaScript to see this page.\n"
        "This site uses cookies to help you.\nToo short.\n\n“And this one stays.”"
    )
    kept, removed = keep_lines(text, C4Config())
    assert kept == "First we say something.\n\n“And this one stays.”"
    assert removed == {"no end mark": 2, "javascript": 1, "policy": 1, "few words": 1}


def test_lines_with_endless_words_go() -> None:
    longest = "a" * 999 + "."
    assert keep_lines(f"This is {longest}", C4Config())[1] == {}
    assert keep_lines(f"This is {longest}.", C4Config())[1] == {"long word": 1}


def naive_top_share(texts: list[str], n: int) -> float:
    found = Counter(tuple(texts[i : i + n]) for i in range(len(texts) - n + 1))
    most = max(found.values(), default=0)
    if most < 2:
        return 0.0
    return most * max(len("".join(run)) for run, number in found.items() if number == most) / len("".join(texts))


def naive_duplicate_share(texts: list[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for i in range(len(texts) - n + 1):
        run = tuple(texts[i : i + n])
        covered |= set(range(i, i + n)) if run in seen else set()
        seen.add(run)
    return sum(len(texts[i]) for i in covered) / max(len("".join(texts)), 1)


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=60))
def test_repeated_runs_are_those_of_the_plain_count(texts: list[str]) -> None:
    found = {run.n: run for run in repeated_ngrams(texts, longest=10)}
    for n in range(2, 11):
        top, duplicate = (found[n].top_share(), found[n].duplicate_share()) if n in found else (0.0, 0.0)
        assert top == pytest.approx(naive_top_share(texts, n))
        assert duplicate == pytest.approx(naive_duplicate_share(texts, n))


PARTS = st.sampled_from(
    ["\n", "\n\n", " ", ".", "…", "...", "•", "#", "{", "a", "the", "你", "。", "ที่", "\u0301", "👩\u200d👧", "\ud800", "١", "_"]
)


@given(st.one_of(st.text(max_size=200), st.lists(PARTS, max_size=60).map("".join)))
def test_no_text_breaks_a_rule(text: str) -> None:
    reasons = list(reasons_to_drop(text, EVERYTHING))
    assert reason_to_drop(text, EVERYTHING) == next(iter(reasons), None)
    kept, removed = keep_lines(text, C4Config())
    assert keep_lines(kept, C4Config()) == (kept, {})
    assert len(kept) <= len(text)
    assert bool(removed) == (kept != text)


@pytest.mark.parametrize("text", ["", "a", "\u0301", "👩\u200d👧", "\u0e31\u0e31", "\ud800", "\n", "。"])
def test_next_to_nothing_has_too_few_words(text: str) -> None:
    assert reason_to_drop(text, gopher(min_words=2)) == "gopher: word count"
    list(reasons_to_drop(text, EVERYTHING))


@pytest.mark.parametrize("unit", ["a", "a ", "ab. ", "!", "\u0301", "你", "你好 ", "ก", ". ", "。", "#" * 9 + " ", "\n", "} "])
def test_a_long_line_of_one_piece_takes_linear_time(unit: str) -> None:
    # Quadratic time would be minutes.
    text = unit * (2**17 // len(unit))
    reasons = list(reasons_to_drop(text, EVERYTHING))
    assert reasons[:1] == [reason for reason in [reason_to_drop(text, EVERYTHING)] if reason is not None]
    kept, _ = keep_lines(text, C4Config())
    assert keep_lines(kept, C4Config()) == (kept, {})


def refusals(tree: dict[str, object]) -> Iterable[str]:
    try:
        parse(QualityConfig, tree, where="recipe.yaml")
    except ConfigError as error:
        yield str(error)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"gopher": {"min_stop_words": 9}}, "gopher: min_stop_words is 9, but stop_words holds only 8"),
        ({"gopher": {"min_words": 9, "max_words": 8}}, "gopher: min_words is 9 and max_words 8; no text has both"),
        ({"gopher": {"min_mean_word_characters": 12}}, "gopher: min_mean_word_characters is greater than max_mean_word_characters"),
        ({"gopher": {"bullets": [""]}}, "gopher.bullets: holds an empty text"),
        ({"gopher_repetition": {"max_top_ngrams": [[1, 0.2]]}}, "found [1, 0.2]; expected [n, share]"),
        ({"gopher_repetition": {"max_duplicate_ngrams": [[5, 0.2], [5, 0.1]]}}, "two limits for the same n"),
        ({"c4": {"min_sentence": 3}}, "c4.min_sentence: unknown key; did you mean min_sentences?"),
        ({"fineweb": {"short_lines": 1.5}}, "fineweb.short_lines: found 1.5"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(tree: dict[str, object], message: str) -> None:
    assert message in "".join(refusals(tree))


def test_a_recipe_survives_being_written(tmp_path: Path) -> None:
    file = tmp_path / "quality.yaml"
    file.write_text(dump_yaml(EVERYTHING), encoding="utf-8")
    assert load(QualityConfig, file) == EVERYTHING
