"""Personal data in one text, replaced by typed placeholders. Pure; whoever calls it counts and decides which texts it is applied to.

Rules and checksums only: a name or a street is not seen here. A finder per kind proposes spans, ``_IN_ORDER`` says who goes first,
``scrub`` replaces what nobody before has claimed. A text that holds neither a digit nor an ``@`` costs one search. Phone numbers have no
checksum: what their notations are taken to be stands beside ``_PHONE``.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from foundation.errors import ConfigError

PiiKind = Literal["email", "phone", "ip", "iban", "card", "url_credentials", "national_id"]
Span = tuple[int, int]

PLACEHOLDERS: Final[dict[PiiKind, str]] = {
    "email": "[EMAIL]",
    "phone": "[PHONE]",
    "ip": "[IP]",
    "iban": "[IBAN]",
    "card": "[CARD]",
    "url_credentials": "[URL]",
    "national_id": "[ID]",
}


def placeholders_of(kinds: Iterable[PiiKind]) -> tuple[str, ...]:
    """The words that stand for personal data of these kinds."""
    return tuple(PLACEHOLDERS[kind] for kind in kinds)


@dataclass(frozen=True)
class PiiRules:
    """What to look for and what to leave."""

    kinds: tuple[PiiKind, ...] = ("email", "phone", "ip", "iban", "card", "url_credentials", "national_id")
    allow: tuple[str, ...] = ()
    """Never replaced: exact strings, case ignored; one that starts with ``@`` means every e-mail address at exactly that domain."""
    national_ids: tuple[tuple[str, str], ...] = ()
    """(name, regular expression) pairs; see ``check_patterns``."""


class Scrubbed(NamedTuple):
    """A text without what the rules found."""

    text: str
    counts: dict[PiiKind, int]
    """Replacements per kind; a kind that was not found is absent."""


def check_patterns(national_ids: Iterable[tuple[str, str]], *, key: str = "national_ids") -> None:
    """Refuse patterns that ``scrub`` could not use.

    Args:
        national_ids: (name, regular expression) pairs.
        key: The recipe's key that holds them; messages start with it and the pair's name.

    Raises:
        ConfigError: A name stands twice, or a pattern is not a regular expression or matches the empty text.
    """
    seen: set[str] = set()
    for name, pattern in national_ids:
        if name in seen:
            raise ConfigError(f"{key}.{name}: stands twice; give each pattern its own name")
        seen.add(name)
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{key}.{name}: {pattern!r} is not a regular expression: {error}; correct it") from None
        if compiled.match(""):
            raise ConfigError(f"{key}.{name}: {pattern!r} matches the empty text; require at least one character, such as \\d{{9}}")


def scrub(text: str, rules: PiiRules) -> Scrubbed:
    """Replace what ``rules`` ask for; scrubbing a scrubbed text changes nothing, and placeholders already there stay.

    Args:
        text: Any text; ``cleaning.repair`` before it makes more separators plain.
        rules: Checked with ``check_patterns``.

    Raises:
        re.error: A national id's pattern is not a regular expression.
    """
    counts: Counter[PiiKind] = Counter()
    # Again until nothing is found: a replacement can free what stood beside it. Each round leaves less text outside placeholders.
    while spans := _spans(text, rules):
        pieces: list[str] = []
        last = 0
        for start, end, kind in spans:
            pieces += (text[last:start], PLACEHOLDERS[kind])
            last = end
            counts[kind] += 1
        text = "".join(pieces) + text[last:]
    return Scrubbed(text, dict(counts))


def _spans(text: str, rules: PiiRules) -> list[tuple[int, int, PiiKind]]:
    """What to replace, ascending and disjoint."""
    patterns, allowed, domains = _prepared(rules)
    if not (_DIGIT_OR_AT.search(text) or patterns):
        return []
    claimed: list[Span] = [match.span() for match in _PLACEHOLDER.finditer(text)]
    found: list[tuple[int, int, PiiKind]] = []
    for kind, find in _IN_ORDER:
        if kind not in rules.kinds:
            continue
        for start, end in find(text) if find else (match.span() for pattern in patterns for match in pattern.finditer(text)):
            place = bisect(claimed, (start, end))
            before, after = claimed[place - 1 : place], claimed[place : place + 1]
            if start == end or (before and before[0][1] > start) or (after and after[0][0] < end):
                continue
            # Allowed text is claimed too, or another kind would take a piece of it.
            claimed.insert(place, (start, end))
            value = text[start:end].casefold()
            if value not in allowed and not (kind == "email" and value[value.rindex("@") :] in domains):
                found.append((start, end, kind))
    return sorted(found)


@lru_cache(maxsize=8)
def _prepared(rules: PiiRules) -> tuple[list[re.Pattern[str]], frozenset[str], frozenset[str]]:
    patterns = [re.compile(pattern) for _, pattern in rules.national_ids] if "national_id" in rules.kinds else []
    allowed = frozenset(entry.casefold() for entry in rules.allow)
    return patterns, allowed, frozenset(entry for entry in allowed if entry.startswith("@"))


# Searches start with a character class and look behind it afterwards: `re` skips quickly to a leading class, never to a look-behind.
_DIGIT_OR_AT = re.compile(r"[0-9@]")
_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS.values())))

# ---- Addresses of people: URLs with credentials (RFC 3986, section 3.2.1) and e-mail (RFC 5321 and 6531, without quoted local parts).
# No pattern below crosses a square bracket, but for an IPv6 host, so none reaches into a placeholder.

_CREDENTIALS = re.compile(
    r"""://[^\s/?\#@:\[\]<>"]*:[^\s/?\#\[\]<>"]*@(?:\[[0-9A-Fa-f:.]+\]|[^\s/?\#@:\[\]<>"'(),;]+)[^\s<>"\[\]{}|\\^`]*""", re.VERBOSE
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_LETTERS = "A-Za-z\u00c0-\u024f\u0370-\u052f"
_LOCAL = re.compile(rf"[{_LETTERS}0-9_][{_LETTERS}0-9_.+%'~-]*(?<!\.)\Z")
_DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24}|(?:(?![A-Za-z0-9_])\w){2,24})(?![A-Za-z0-9_])"
)
# systemd.unit(5): an instance such as getty@tty1.service is not an address, and none of these is a top-level domain.
_UNIT = re.compile(r"\.(?:service|socket|target|timer|mount|automount|slice|device|path|swap|scope)\Z")
# Archives of mailing lists name a letter by its Message-ID in the path; that reads like an address and is none.
_LETTER_PATH = re.compile(r"://[^\s?#]*/[^\s?#/:]*\Z")
_WINDOW = 128  # characters before an @; a local part has at most 64 (RFC 5321, section 4.5.3.1.1)


def _urls(text: str) -> Iterator[Span]:
    """The whole URL: its path and query tend to repeat the secret, and ``[URL]`` reads as one."""
    for match in _CREDENTIALS.finditer(text) if "@" in text else ():
        scheme = _SCHEME.search(text[max(0, match.start() - 20) : match.start()])
        if scheme:
            yield match.start() - len(scheme[0]), match.start() + len(match[0].rstrip(".,;:!?'()*"))


def _emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        local = _LOCAL.search(text[max(0, at - _WINDOW) : at]) if domain else None
        if domain and local and not _UNIT.search(domain[0]):
            start = at - len(local[0])
            in_path = _LETTER_PATH.search(text[max(0, start - _WINDOW) : start])
            if not (in_path and any(letter.isdigit() for letter in local[0])):
                yield start, domain.end()
        at = text.find("@", at + 1)


# ---- Accounts. ISO 13616 (SWIFT's IBAN registry, release 99): length by country; check digits by ISO 7064, mod 97-10.

_IBAN_LENGTHS: Final = {
    entry[1]: int(entry[2])
    for entry in re.finditer(
        r"([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 "
        "FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 "
        "MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 "
        "SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
}
# The rest is only looked at, so that something shorter before an IBAN does not swallow its beginning.
_IBAN = re.compile(r"[A-Z](?<![0-9A-Za-z_].)(?=([A-Z][0-9]{2}(?:[ \u00a0-]?[0-9A-Z]){11,30}))")
# ISO/IEC 7812 issuer ranges as the networks publish them: Visa, Mastercard, American Express, Discover, JCB, Diners, UnionPay, Maestro.
_ISSUER = re.compile(
    r"""4(?:.{12}|.{15}|.{18})
    | 5[1-5].{14} | (?:222[1-9] | 22[3-9]. | 2[3-6].. | 27[01]. | 2720).{12}
    | 3[47].{13}
    | (?:6011 | 64[4-9]. | 65.. | 62.. | 81.. | 35(?:2[89] | [3-8].)).{12,15}
    | (?:2131 | 1800).{11}
    | (?:30[0-5]. | 3095 | 3[689]..).{10,15}
    | (?:50 | 5[6-8] | 6.).{11,17}""",
    re.VERBOSE,
)
_CARD = re.compile(r"[0-9](?<![\w/+-].)(?<![0-9][.,].)(?:[ \u00a0-]?[0-9]){12,18}(?!\w|[.,-][0-9])")
_SEPARATOR = re.compile(r"[ \u00a0-]")


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0] + match[1][0])
        end, taken = match.start(), 0
        while length and taken < length and end < match.end(1):
            taken += text[end].isalnum()
            end += 1
        if taken == length and not text[end : end + 1].isalnum():
            value = _SEPARATOR.sub("", text[match.start() : end])
            if int("".join(str(int(letter, 36)) for letter in value[4:] + value[:4])) % 97 == 1:
                yield match.start(), end


def _cards(text: str) -> Iterator[Span]:
    match = _CARD.search(text)
    while match:
        groups = _SEPARATOR.split(match[0])
        # What follows a card number (expiry, a count) may look like one group more.
        while groups and not _is_card(groups):
            groups.pop()
        end = match.start() + len("-".join(groups))
        if groups:
            yield match.start(), end
        else:
            end = match.start() + len(_SEPARATOR.split(match[0])[0])
        match = _CARD.search(text, end)


def _is_card(groups: list[str]) -> bool:
    digits = "".join(groups)
    if not _ISSUER.fullmatch(digits) or (len(groups) > 1 and (len(groups[0]) not in (4, 6) or any(len(one) < 3 for one in groups[:-1]))):
        return False
    # ISO/IEC 7812-1, annex B (Luhn).
    odd, even = digits[-1::-2], digits[-2::-2]
    return (sum(map(int, odd)) + sum(sum(divmod(2 * int(one), 10)) for one in even)) % 10 == 0 and len(set(digits)) > 1


# ---- Machines. Left alone: what names no single machine (below), and what is more likely a version, a section number or an object id.

# Loopback; documentation (RFC 5737, 3849, 9637); multicast: the local network's, and all of version 6.
_NAMELESS_V4 = ("127.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/24")
_NAMELESS_V6 = ("::1/128", "2001:db8::/32", "3fff::/20", "ff00::/8")
_NAMELESS = [ipaddress.ip_network(net) for net in _NAMELESS_V4 + _NAMELESS_V6]
_V4 = re.compile(r"[0-9](?<![\w.].)(?<![A-Za-z][/_-].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9])")
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_V6 = re.compile(r"[0-9A-Fa-f:]+(?:(?:\.[0-9]{1,3}){3})?")
_BEFORE_COLONS = re.compile(r"(?<![\w.])[0-9A-Fa-f:]*\Z")
_PREFIX = re.compile(r"/([0-9]{1,3})(?!\w|\.[0-9])")
_NUMBERED = re.compile(
    r"(?:\b(?:v|ver|versions?|rev|revision|release|sect?(?:ion)?|chapter|(?:sub)?clause|table|figure|build|firmware)\.?|§)[ :=#]*\Z",
    re.IGNORECASE,
)


def _ips(text: str) -> Iterator[Span]:
    """Versions 4 and 6. Private addresses count as personal: in a log they stand for someone's machine."""
    end = 0
    for match in _COLONS.finditer(text):
        head = _BEFORE_COLONS.search(text[max(0, match.start() - 40) : match.start()]) if match.start() >= end else None
        whole = _V6.match(text, match.start() - len(head[0])) if head else None
        if whole:
            # A colon may follow an address as punctuation.
            value = whole[0][:-1] if whole[0].endswith(":") and not whole[0].endswith("::") else whole[0]
            end = whole.start() + len(value)
            if _reads_as_v6(value) and not text[end : end + 1].isalnum() and _names_a_machine(value, text[end : end + 8]):
                yield whole.start(), end
    for match in _V4.finditer(text):
        # Below 32 throughout, it is nearly always a section or a version; of all addresses one in 4,096 is.
        if all(int(octet) < 32 for octet in match[0].split(".")) or _NUMBERED.search(text[max(0, match.start() - 24) : match.start()]):
            continue
        if _names_a_machine(match[0], text[match.end() : match.end() + 8]):
            yield match.span()


def _reads_as_v6(value: str) -> bool:
    # Short forms such as 1::2 are slices, Face::Bed is a class, eight pairs are an EUI-64 (RFC 4291, appendix A).
    groups = value.split(":")
    if "::" in value:
        return value.lower().startswith("::ffff:") or (len(groups[0]) >= 3 and any(letter.isdigit() for letter in value))
    return len(groups) in (7, 8) and any(len(group) > 2 for group in groups[:6])


def _names_a_machine(value: str, after: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    inner = address.ipv4_mapped or address if address.version == 6 else address
    number, prefix = int(inner), _PREFIX.match(after)
    # Host bits that are all zero name a network: those that /24 says, the last sixteen of version 4, those that a final :: leaves out.
    host_bits = max(inner.max_prefixlen - int(prefix[1]), 0) if prefix else 16 if inner.version == 4 else 0
    is_network = (host_bits > 0 and number % (1 << host_bits) == 0) or value.endswith("::")
    inverse = number ^ 0xFFFFFFFF
    is_mask = inner.version == 4 and (inverse & (inverse + 1) == 0 or number & (number + 1) == 0)
    return not (is_network or is_mask or any(inner in net for net in _NAMELESS))


# ---- Telephones: notations of ITU-T E.123 and national custom. Without + or a word such as "tel", only shapes that little else has.

# Groups of digits with at most three other characters between them; bounded, as is all repetition below, so that no text is slow.
_RUN = re.compile(r"[+(0-9](?:[ \u00a0\u2011()./-]{0,3}[0-9]){5,}")
_PHONE = re.compile(
    r"""(?<![\w@$€£\\/+-])(?<!\d[.,:])(?:
      (?P<international>\+[ ]?\(?[1-9]\d{0,14}\)?(?:[ .\u00a0\u2011()/-]{1,3}\d{1,14}){0,7})
    | (?P<exit>(?<![0-9A-Z]{3}\d[ ])0(?:0|11S)S?[1-9]\d{0,2}(?:S|S?\(0\)S?)\d{1,8}(?:S\d{2,8}){1,4} | 00[1-9]\d{1,2}S\d{7,12})
    | (?:1S)?\(\d{3}\)S?\d{3}S?\d{4}  # North America
    | (?:1-)?[2-9]\d{2}[/-]\d{3}-\d{4} | (?:1\.)?[2-9]\d{2}\.\d{3}\.\d{4}
    | (?<!\d[ ])(?:1[ ])?[2-9]\d{2}[ ]\d{3}[ -]\d{4}(?![ ]\d)
    | (?:[08]S?)?\(\d{3,5}\)S?\d{1,3}(?P<r>[ -])\d{2}(?P=r)\d{2} | 8-\d{3}-\d{3}-\d{2}-\d{2}  # Turkey, Russia
    | (?<!\d[ ])\([1-9]\d\)S?\d{4,5}S\d{4}  # Brazil, Mexico
    | 1[3-9]\d(?:-\d{4}-|[ ]\d{4}[ ])\d{4} | 1[38]00[ ]\d{3}[ ]\d{3}  # China; Australia
    | (?<!\d{2}[ ])0[1-9](?P<s>[ .-])\d{2}(?:(?P=s)\d{2}){3}(?![ ]\d{2}\b)  # France
    | (?P<trunk>(?<![0-9A-Z]{3}\d[ ])(?:\(0[1-9]\d{0,4}\)S?[/]?S?|0[1-9]\d{0,4}(?:S?[/]S?|S|[ ]-[ ]))  # trunk prefix 0
        (?:\d{5,8}(?:-\d{1,4})? | \d{4}-\d{2} | \d{3,5}S\d{3,5} | \d{2,3}S\d{2,3}S\d{2,4} | (?<=\d{3}S)\d{2}(?:S\d{2}){3}))
    | (?P<plain>0[1-9]\d{8,9})
    )(?!(?!x\d)\w|%|[-./,:]\d)""".replace("S", "[ .\\u00a0\\u2011-]"),
    re.VERBOSE | re.ASCII,  # ASCII: other scripts write no space before a number
)
_AFTER_WORD = re.compile(r"\(?[0-9](?:[ ./()\u00a0\u2011-]{0,2}[0-9]){5,13}(?![\w%]|[-./,:][0-9])")
_PHONE_WORD = re.compile(
    r"(?<![\w./])(?:(?:tele)?(?:phone|fax)|telefon|t[eé]l|mobile|mob|cell|hotline|whatsapp)(?:[.:]|(?: no| nr| number| at| is)\b){1,3} ?\Z",
    re.IGNORECASE,
)
_OTHER_WORD = re.compile(
    r"(?:\b(?:ISBN|ISSN|RFC|DOI|SKU|P/N|part|model|serial|item|patent|version)(?:-1[03])?(?: (?:no|nr|number)\b)?[.:#]*|#) ?\Z",
    re.IGNORECASE,
)
_DATE = re.compile(r"\(?(?:[12][0-9]{3}[-./ ][0-9]{1,2}[-./ ][0-9]{1,2}|[0-9]{1,2}[-./ ][0-9]{1,2}[-./ ][12][0-9]{3})\b")
_EXTENSION = re.compile(r"[ ,;]{0,2}(?:ext(?:ension|n)?\.?|x|durchwahl|poste|#)[ :]?[0-9]{1,6}(?![0-9])", re.IGNORECASE)


def _phones(text: str) -> Iterator[Span]:
    for run in _RUN.finditer(text):
        # Two characters more, so that the pattern sees what follows.
        matches = [match for match in _PHONE.finditer(text, run.start(), run.end() + 2) if _is_phone(match)]
        before = text[max(0, run.start() - 24) : run.start()]
        if matches and not matches[0][0].startswith("+") and _OTHER_WORD.search(before):
            continue
        if not matches and _PHONE_WORD.search(before) and not _DATE.match(run[0]):
            matches = [match for match in (_AFTER_WORD.match(text, run.start(), run.end() + 2),) if match]
        for match in matches:
            extension = _EXTENSION.match(text, match.end())
            yield match.start(), extension.end() if extension else match.end()


def _is_phone(match: re.Match[str]) -> bool:
    digits = [letter for letter in match[0] if letter.isdigit()]
    if match["international"]:
        return 7 <= len(digits) <= 16  # E.164 allows 15; a trunk (0) is often written too
    if match["exit"]:
        return 10 <= len(digits) <= 18
    if match["trunk"]:
        return 9 <= len(digits) <= 12
    # Ten digits from 0 on are an ISBN-10 as well; its checksum is right by chance in one phone number of eleven.
    is_isbn = len(digits) == 10 and sum(place * int(digit) for place, digit in enumerate(digits, 1)) % 11 == 0
    return not (match["plain"] and (is_isbn or match[0].startswith("0123456789")))


_IN_ORDER: Final[tuple[tuple[PiiKind, Callable[[str], Iterator[Span]] | None], ...]] = (
    ("url_credentials", _urls),  # "password@host.org" inside one is an e-mail address
    ("email", _emails),  # its local part may be a phone number, its domain an account's digits
    ("iban", _ibans),  # checksums before shapes: groups of an IBAN and of a card read as phone numbers, an IBAN's digits as a card
    ("card", _cards),
    ("national_id", None),  # the recipe's own pattern is more particular than the two below
    ("ip", _ips),
    ("phone", _phones),  # last, the shapes with the least to tell them: digits of an address or an id would do
)
