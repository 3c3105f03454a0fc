"""Which language a text is in: a cheap guess by the script of its letters and by function words, one text at a time.

Counts words such as "the", "und" or "что", of which a short list per language makes up a fifth to half of running text. That needs no model
and tells prose of the listed languages apart, and nothing more. Character n-grams (Cavnar and Trenkle 1994, "N-Gram-Based Text
Categorization") or a trained classifier (fastText, CLD3) are better and should be preferred for a corpus that mixes many languages. Limits:

- Word lists, tables, headlines and code hold few function words: undetermined. So are texts below ``MIN_WORDS`` words.
- A language without a list is undetermined at best, and taken for a relative at worst: Danish and Norwegian for Swedish, Catalan for
  Spanish, Afrikaans for Dutch, Ukrainian's neighbours for Ukrainian or Russian.
- Greek, Hebrew, Thai, Korean, Chinese and Japanese are told by script alone, so Yiddish is Hebrew and Cantonese is Chinese.
- Of a text in two languages the more frequent one is named, with a share that says so; it is not cut apart.

Knows nothing of documents worth keeping; ``quality.py`` does.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.quality_config import LanguageCode, LanguageConfig

SCRIPTS: Final = ("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "CJK", "Hangul", "Thai", "other")
MIN_WORDS: Final = 20
"""Fewer words of a script that has several listed languages decide nothing."""
MIN_LETTERS: Final = 20
"""Fewer letters of a script that stands for one language decide nothing."""
MIN_FUNCTION_WORDS: Final = 0.08
"""Least share of all words that must be function words of the guessed language; running text has 0.15 to 0.5."""
MIN_DIFFERENT: Final = 4
"""Least number of different ones: the ``i`` of a program is no Italian."""

# First and last code point (Unicode's Blocks.txt). CJK: kana with extensions and half-width forms, bopomofo, Han with extensions.
_BLOCKS: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "Latin": ((0x41, 0x24F), (0x250, 0x2AF), (0x1D00, 0x1DBF), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF),
              (0xFB00, 0xFB06), (0xFF21, 0xFF5A)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "CJK": ((0x3005, 0x3007), (0x3031, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
            (0xFF66, 0xFF9F), (0x20000, 0x3FFFF)),
    "Hangul": ((0x1100, 0x11FF), (0x3131, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC)),
    "Thai": ((0xE00, 0xE7F),),
}  # fmt: skip
_KANA = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
# Of the letters of a Chinese text a tenth would be a long quotation; Japanese prose is half kana.
_JAPANESE_KANA: Final = 0.1
# One says about as much as three Latin letters; without this a Chinese manual full of English names would be English.
_WEIGHT: Final = {"CJK": 3}
_ONE_LANGUAGE: Final[dict[str, LanguageCode]] = {"Greek": "el", "Hebrew": "he", "Hangul": "ko", "Thai": "th"}
# Marks belong to words: vowel signs of Devanagari, Arabic vowels, accents that have no composed form; the joiner of Persian too.
_WORD = re.compile(r"(?:[^\W\d_]|[\u0300-\u036f\u064b-\u0655\u0900-\u0903\u093a-\u094f\u200c])+")

_LISTS: Final[dict[LanguageCode, str]] = {
        "en": "the of and to a in is that for it as was with be by on not he his are this at from or have an they which but you were had "
        "their been has will would there if can all",
        "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat dass sie nach "
        "wird bei einer um am sind noch wie einem über so zum war haben nur oder aber",
        "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la avec son aux elle cette ou "
        "mais nous ont été ses comme leur être",
        "es": "de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si sin sobre este ya "
        "entre cuando muy fue también hasta hay",
        "it": "di e il la che in a per un è del una non della con le si da i al dei sono come nel ha più alla o delle gli ma anche lo "
        "dal nella questo essere se su suo degli",
        "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou ser "
        "quando muito há nos já está também pelo",
        "nl": "de van het een en in is dat op te zijn met voor niet aan er om ook als die bij door dan hij ze maar nog uit naar wordt kan "
        "was worden heeft deze over tot meer wat zich of had",
        "sv": "och i att det som en på är av för med den till inte om ett han har de var jag från så men vi kan när hon eller efter "
        "under sig man också ska vid sin nu mot hade",
        "pl": "w i na z się do nie że jest to o jak po od przez za dla co ale są oraz ma tym jego tylko czy już był być było jej przy "
        "może może ich który która które tak także lub",
        "tr": "ve bir bu da de için ile çok daha olarak olan gibi kadar sonra en ne o ama her var ki değil ise mi veya olduğu göre "
        "ancak bunu tarafından onun şu diye hem",
        "ru": "и в не на что с он как по это но из у за от его к она так то для же или были был бы мы при о их все было когда также "
        "который которые ещё чтобы только до",
        "uk": "і в на не що з у до та за як це він по від але його для є а про вони був було які або також яка який ми так її при "
        "щоб бути може й ще після через",
        "ar": "في من على إلى أن عن هذا هذه التي الذي كان لا ما مع كل قد بعد بين ذلك أو لم ثم كما هو هي عند حتى إن كانت أي لكن و وقد "
        "تم يكون غير منذ تلك هناك فيها عليه",
        "fa": "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز می شد او ما اما یا شده هر باید بود دارد کند آنها بین پس "
        "اگر همه بوده شود کرده های ها هستند",
        "hi": "के में की है और से का को पर ने यह कि हैं भी एक लिए इस नहीं था कर तो हो गया ही या जो वह थे करने किया थी साथ अपने वे "
        "जाता बाद हुए उनके जा रहा",
}  # fmt: skip
FUNCTION_WORDS: Final = {code: frozenset(words.split()) for code, words in _LISTS.items()}
_BY_SCRIPT: Final[dict[str, tuple[LanguageCode, ...]]] = {
    "Latin": ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "tr"),
    "Cyrillic": ("ru", "uk"),
    "Arabic": ("ar", "fa"),
    "Devanagari": ("hi",),
}


class Language(NamedTuple):
    """A guess."""

    code: LanguageCode
    """ISO 639; ``und`` if undetermined."""
    share: float
    """0 to 1: how much of what could be told apart speaks for ``code``. For scripts with several languages, of the words that are function
    words of any of them, those that are of this one; times the script's share of letters, of which one of CJK counts for three. 0 if
    undetermined."""


def script_shares(text: str) -> dict[str, float]:
    """Share of each script, one of ``SCRIPTS``, among the letters of a text; scripts that do not occur are absent."""
    # Lone surrogates are no letters.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    counts = np.bincount(_scripts()[codes], minlength=len(SCRIPTS) + 1)[: len(SCRIPTS)].tolist()
    letters = sum(counts)
    return {name: number / letters for name, number in zip(SCRIPTS, counts, strict=True) if number}


def language_of(text: str) -> Language:
    """Guess the language of a text; ``und`` when it is too short or speaks too little for one language."""
    shares = script_shares(text)
    if not shares:
        return Language("und", 0.0)
    weights = {name: share * _WEIGHT.get(name, 1) for name, share in shares.items()}
    script = max(weights, key=lambda name: weights[name])
    share = weights[script] / sum(weights.values())
    if script in _BY_SCRIPT:
        return _by_function_words(text, script, share)
    letters = sum(map(str.isalpha, text)) * shares[script]
    if letters < MIN_LETTERS:
        return Language("und", 0.0)
    if script == "CJK":
        return Language("ja" if len(_KANA.findall(text)) > _JAPANESE_KANA * letters else "zh", share)
    return Language(_ONE_LANGUAGE[script], share) if script in _ONE_LANGUAGE else Language("und", 0.0)


def reason_to_drop_language(text: str, config: LanguageConfig) -> str | None:
    """``language: de`` for a language that is not to be kept, ``language: mixed`` for too small a share of one that is; None keeps it."""
    if config.keep is None:
        return None
    code, share = language_of(text)
    if code not in config.keep:
        return f"language: {code}"
    return "language: mixed" if code != "und" and share < config.min_share else None


def _by_function_words(text: str, script: str, share: float) -> Language:
    words = Counter(_WORD.findall(text.lower()))
    total = words.total()
    if total < MIN_WORDS:
        return Language("und", 0.0)
    function_words = {word: number for word, number in words.items() if word in _any_function_word(script)}
    hits = {code: sum(n for word, n in function_words.items() if word in FUNCTION_WORDS[code]) for code in _BY_SCRIPT[script]}
    first, *others = sorted(hits, key=lambda code: -hits[code])
    is_tie = bool(others) and hits[first] == hits[others[0]]
    if is_tie or hits[first] < MIN_FUNCTION_WORDS * total or len(FUNCTION_WORDS[first] & words.keys()) < MIN_DIFFERENT:
        return Language("und", 0.0)
    return Language(first, share * hits[first] / sum(function_words.values()))


@cache
def _any_function_word(script: str) -> frozenset[str]:
    return frozenset().union(*(FUNCTION_WORDS[code] for code in _BY_SCRIPT[script]))


@cache
def _scripts() -> npt.NDArray[np.uint8]:
    """(0x110000,) index into ``SCRIPTS`` of every letter; ``len(SCRIPTS)`` for what is no letter."""
    no_letter = len(SCRIPTS)
    table = np.full(0x110000, no_letter, dtype=np.uint8)
    # Beyond are no letters: unassigned planes, tags and private use.
    is_letter = np.array([unicodedata.category(chr(code))[0] == "L" for code in range(0x40000)])
    table[:0x40000][is_letter] = SCRIPTS.index("other")
    for name, blocks in _BLOCKS.items():
        for first, last in blocks:
            block = table[first : last + 1]
            block[block != no_letter] = SCRIPTS.index(name)
    return table
