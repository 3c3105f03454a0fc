"""Prose is named by its script and function words; what is too short, too mixed or no prose is left undetermined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.language import FUNCTION_WORDS, SCRIPTS, Language, language_of, reason_to_drop_language, script_shares
from corpus.quality_config import LanguageConfig
from foundation.config import parse
from foundation.errors import ConfigError

TEXTS = {
    "en": "Nobody had expected them before Sunday, and so the market stood empty except for two old women who sold onions by the gate, "
    "and one of them asked what had happened to the fleet.",
    "de": "Niemand hatte sie vor dem Sonntag erwartet, und so stand der Markt leer, nur zwei alte Frauen verkauften Zwiebeln an der Ecke, "
    "und eine von ihnen fragte, was mit der Flotte auf dem Meer geschehen ist.",
    "fr": "Personne ne les attendait avant dimanche, et le marché était vide, sauf pour deux vieilles femmes qui vendaient des oignons sur "
    "la place, et une des deux a demandé ce qui est arrivé à la flotte dans les îles.",
    "es": "Nadie los esperaba antes del domingo, y por eso el mercado estaba vacío, salvo dos viejas que vendían cebollas en la puerta, y "
    "una de las dos preguntó qué había pasado con la flota en el mar.",
    "it": "Nessuno li aspettava prima della domenica, e il mercato era vuoto, se non per due vecchie che vendevano cipolle vicino alla "
    "porta, e una di loro ha chiesto che cosa è successo alla flotta nel mare del nord.",
    "pt": "Ninguém os esperava antes do domingo, e por isso o mercado estava vazio, com duas velhas que vendiam cebolas ao lado da porta, "
    "e uma das duas perguntou o que tinha acontecido com a frota no mar.",
    "nl": "Niemand had ze voor de zondag verwacht, en daarom was de markt leeg, op twee oude vrouwen na die uien verkochten bij de poort, "
    "en een van hen vroeg wat er met de vloot op zee was gebeurd.",
    "sv": "Ingen hade väntat dem före söndagen, och därför var torget tomt, utom två gamla kvinnor som sålde lök vid porten, och en av dem "
    "frågade vad som hade hänt med flottan på havet, men det var inte lätt att säga.",
    "pl": "Nikt nie oczekiwał ich przed niedzielą, a na rynku było pusto, tylko dwie stare kobiety sprzedawały cebulę przy bramie, i jedna "
    "z nich zapytała, co się stało z flotą na morzu, ale nie było jak odpowiedzieć.",
    "tr": "Kimse onları pazar gününden önce beklemiyordu, bu yüzden pazar yeri boştu ve kapının yanında soğan satan iki yaşlı kadın vardı, "
    "biri denizde ne olduğunu sordu ama daha sonra bir cevap için çok geç olduğu söylendi.",
    "ru": "Никто не ждал их до воскресенья, и на рынке было пусто, только две старые женщины продавали лук у ворот, и одна из них "
    "спросила, что же случилось с флотом в море, но это так и не стало известно.",
    "uk": "Ніхто не чекав на них до неділі, і на ринку було порожньо, тільки дві старі жінки продавали цибулю біля воріт, і одна з них "
    "запитала, що ж сталося з флотом у морі, але це так і не стало відомо.",
    "ar": "لم يكن أحد ينتظرها قبل يوم الأحد، لهذا بقي السوق فارغا إلا من امرأتين، ثم سألت إحداهما عن ما حدث في البحر، لكن كل ما كان لا "
    "يزال هناك هو الصمت، ولم يكن من أحد على الميناء بعد ذلك إلى أن عاد الجميع.",
    "fa": "هیچ کس تا روز یکشنبه در انتظار آنها نبود و به همین دلیل بازار خالی بود و دو پیرزن که پیاز می فروختند از یک ملوان پرسیدند که چه "
    "شده است و او گفت که این را با کسی نمی گوید.",
    "hi": "रविवार से पहले किसी को उनके आने की उम्मीद नहीं थी और इस लिए बाजार खाली था, दो बूढ़ी औरतें दरवाजे के पास प्याज बेच रही थी और एक ने "
    "पूछा कि समुद्र में क्या हुआ है पर यह कोई नहीं कह रहा था।",
    "el": "Κανείς δεν τους περίμενε πριν από την Κυριακή και η αγορά ήταν άδεια.",
    "he": "איש לא ציפה להם לפני יום ראשון והשוק היה ריק.",
    "ko": "일요일 전에 그들이 돌아올 것이라고 아무도 기대하지 않았고 시장은 비어 있었다.",
    "th": "ไม่มีใครคาดว่าพวกเขาจะมาก่อนวันอาทิตย์ ตลาดจึงว่างเปล่า",
    "ja": "日曜日より前に戻るとは誰も思っていなかったので、市場には玉ねぎを売る二人の老女しかいなかった。",
    "zh": "没有人想到他们会在星期天以前回家，所以市场上只有两个卖洋葱的老太太。",
}


@pytest.mark.parametrize("code", TEXTS)
def test_prose_is_named(code: str) -> None:
    guess = language_of(TEXTS[code])
    assert guess.code == code
    assert guess.share >= LanguageConfig().min_share


def test_every_listed_language_has_a_text() -> None:
    assert FUNCTION_WORDS.keys() <= TEXTS.keys()


def test_a_chinese_manual_full_of_english_names_is_chinese() -> None:
    text = "可以通过 vm.overcommit_ratio 或 vm.overcommit_kbytes 来设置超限数量，这些只有在 vm.overcommit_memory 被设置为二时才有效果。"
    assert script_shares(text)["Latin"] > 0.5
    assert language_of(text).code == "zh"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "👩\u200d👧",
        "\u0301",
        "12345 67890",
        "The end of the story.",
        "σύντομο",
        "int i = 0; while (i < n) { total += a[i]; i++; } " * 9,
    ],
)
def test_what_is_too_short_or_no_prose_is_undetermined(text: str) -> None:
    assert language_of(text) == Language("und", 0.0)


def test_of_two_languages_the_more_frequent_one_is_named_with_less_confidence() -> None:
    alone, mixed = language_of(TEXTS["en"]), language_of(f"{TEXTS['en']} {TEXTS['en']} {TEXTS['ru']}")
    assert mixed.code == "en"
    assert mixed.share < LanguageConfig().min_share < alone.share


def test_shares_are_of_letters() -> None:
    assert script_shares("ab, 12! д") == pytest.approx({"Latin": 2 / 3, "Cyrillic": 1 / 3})
    assert script_shares("ก่ 你 א") == pytest.approx({"Thai": 1 / 3, "CJK": 1 / 3, "Hebrew": 1 / 3})
    assert script_shares("12 ... 👍") == {}


@pytest.mark.parametrize(
    ("letters", "script"),
    [
        ("aZéßøłŞȸɐḀﬀＡ", "Latin"),
        ("яЇѢ", "Cyrillic"),
        ("αΩἀ", "Greek"),
        ("عپﷲ", "Arabic"),
        ("אש", "Hebrew"),
        ("अह", "Devanagari"),
        ("漢あア々ㄅ𠀀ｱ", "CJK"),
        ("한ᄀㄱ", "Hangul"),
        ("กฮ", "Thai"),
        ("ბԱக", "other"),
    ],
)
def test_letters_have_their_script(letters: str, script: str) -> None:
    assert script_shares(letters) == {script: 1.0}


def test_unwanted_languages_go() -> None:
    english = LanguageConfig(keep=("en",))
    assert reason_to_drop_language(TEXTS["en"], english) is None
    assert reason_to_drop_language(TEXTS["de"], english) == "language: de"
    assert reason_to_drop_language("abc", english) == "language: und"
    assert reason_to_drop_language("abc", LanguageConfig(keep=("en", "und"))) is None
    assert reason_to_drop_language("abc", LanguageConfig()) is None


def test_the_share_decides_on_both_sides_of_its_threshold() -> None:
    share = language_of(TEXTS["en"]).share
    assert reason_to_drop_language(TEXTS["en"], LanguageConfig(keep=("en",), min_share=share)) is None
    assert reason_to_drop_language(TEXTS["en"], LanguageConfig(keep=("en",), min_share=min(share + 1e-6, 1.0))) == (
        "language: mixed" if share < 1 else None
    )


def test_a_language_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"recipe.yaml: keep.0: found 'xx'"):
        parse(LanguageConfig, {"keep": ["xx"]}, where="recipe.yaml")


@given(st.text(max_size=200))
def test_no_text_breaks_the_guess(text: str) -> None:
    shares = script_shares(text)
    assert set(shares) <= set(SCRIPTS)
    assert sum(shares.values()) == pytest.approx(1.0 if shares else 0.0)
    code, share = language_of(text)
    assert 0 <= share <= 1
    assert (code == "und") == (share == 0)
    assert reason_to_drop_language(text, LanguageConfig(keep=("en",))) in (None, "language: mixed", f"language: {code}")


@pytest.mark.parametrize("unit", ["a", "the ", "д", "ู", "\u0301", "你"])
def test_a_megabyte_in_one_line_is_judged_too(unit: str) -> None:
    code, share = language_of(unit * (2**18 // len(unit)))
    assert (code == "und") == (share == 0)
