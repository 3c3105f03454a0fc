"""Made-up personal data in the notations that people use, and what only looks like it: for planting into texts."""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable

from corpus.pii import PiiKind

US_SSN = (("us_ssn", r"\b(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b"),)
NAMES = ["anna", "bob.lee", "chen_wei", "dmitri", "o'neil", "fatima", "grace-ann", "i.jones", "maria", "zoë"]
HOSTS = ["gmail.com", "example.org", "mail.uni-bonn.de", "münchen.de", "corp.co.uk", "почта.рф", "xn--bcher-kva.ch", "a1.dev", "例え.jp"]
SENTENCES = [
    "{}",
    "{} is what she wrote on the card.",
    "Please use {} from Monday on, because the old one has changed.",
    "He left it on the desk ({}) and went home.",
    "Reach us here: {}. We answer within 3 days!",
    "Was it {}? Nobody knew, not even in 1998.",
    "The log of 2024-05-17 12:34:56 mentions {}, version 2.3.1, twice",
    "First line\n{}\nthird line",
    'They said "{}"; it was in the list <{}> too.',
    "The last thing in the file is {}",
]


def entries(table: str) -> list[str]:
    return [entry.strip() for entry in re.split(r" \| |\n", table.strip())]


def digits(rng: random.Random, shape: str) -> str:
    """Fill # with any digit and % with one from 2 to 9."""
    return re.sub("[#%]", lambda mark: str(rng.randint(0 if mark[0] == "#" else 2, 9)), shape)


def email(rng: random.Random) -> str:
    tag = rng.choice(["", "", f"+{rng.choice(['news', 'x1'])}", str(rng.randint(1, 99))])
    name = rng.choice(NAMES) + tag
    return f"{name.upper() if rng.random() < 0.1 else name}@{rng.choice(HOSTS)}"


PHONES = """
+1 ### ###-#### | +1-%##-###-#### | +1 (%##) ###-#### | +1%########## | (%##) ###-#### | (%##)###-#### | %##-###-#### | %##.###.####
%## ###-#### | 1-800-###-#### | 1 (%##) ###-#### | %##-###-#### ext. ### | %##-###-####x#### | 001-%##-###-#### | +44 20 #### ####
+44 (0)20 #### #### | +44 7### ###### | 020 7### #### | 07### ###### | (0117) ### #### | 07######### | 0049 17# #######
+49 30 ###### | +49 (0) 89 ### ## ## | +49-171-####### | 0171 ####### | 030/###### | 0%#/####-## | 0171/####### | (030) ######
06### - ##### | 030 ### ## ## | +33 6 ## ## ## ## | 01 ## ## ## ## | 06.##.##.##.## | +41 44 ### ## ## | 044 ### ## ## | +43 1 #######
+31 6 ######## | 06-######## | +46 8-### ### ## | 070-### ## ## | +34 6## ### ### | +39 02 ######## | +48 ### ### ###
+7 (495) ###-##-## | 8 (800) ###-##-## | +90 (%##) ### ## ## | +86 13# #### #### | 138-####-#### | +81 3-####-#### | 03-####-####
090-####-#### | +82 10-####-#### | +91 9#### ##### | 0#%## ###### | +55 11 9####-#### | (11) 9####-#### | +61 4## ### ###
04## ### ### | 1300 ### ### | +353 85 ### #### | +972-54-###-#### | 054-###-#### | +27 82 ### #### | 082 ### #### | +234 80# ### ####
tel: ### ####
"""


def phone(rng: random.Random) -> str:
    # A trunk digit is never followed by 0.
    return digits(rng, rng.choice(entries(PHONES)).replace("0#", "0%"))


def ip(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return ".".join(str(rng.randint(1, 254)) for _ in range(4)) + rng.choice(["", "", ":8080"])
    groups = [f"{rng.getrandbits(16):x}" for _ in range(8)]
    groups[0] = rng.choice(["2a02", "2001", "2600", "fe80", "fd12"])
    mapped = f"::ffff:{rng.randint(33, 254)}.0.7.{rng.randint(1, 254)}"
    full = str(ipaddress.IPv6Address(":".join(groups)).exploded)
    return rng.choice(
        [":".join(groups), full, full.upper(), ":".join(groups[:3]) + "::" + groups[7], ":".join(groups[:1]) + "::" + groups[6], mapped]
    )


IBANS = [
    "DE" + "#" * 18,
    "GBNWBK" + "#" * 14,
    "FR" + "#" * 20 + "A##",
    "NLABNA" + "#" * 10,
    "NO" + "#" * 11,
    "MTMALT" + "#" * 16 + "MTLCAST",
    "CH" + "#" * 17,
]


def iban(rng: random.Random) -> str:
    bare = digits(rng, rng.choice(IBANS))
    country, rest = bare[:2], bare[2:]
    value = int("".join(str(int(letter, 36)) for letter in rest + country + "00"))
    whole = f"{country}{98 - value % 97:02d}{rest}"
    return rng.choice([whole, re.sub("(.{4})(?=.)", r"\1 ", whole)])


CARDS = [
    *(
        "4" + "#" * 15,
        "4" + "#" * 12,
        "51" + "#" * 14,
        "55" + "#" * 14,
        "2221" + "#" * 12,
        "2720" + "#" * 12,
        "34" + "#" * 13,
        "37" + "#" * 13,
    ),
    *("6011" + "#" * 12, "65" + "#" * 14, "3528" + "#" * 12, "3589" + "#" * 12, "300" + "#" * 11, "36" + "#" * 12, "62" + "#" * 14),
    *("62" + "#" * 17, "5018" + "#" * 12, "6304" + "#" * 9, "6759" + "#" * 15),
]


def doubled(digit: str) -> int:
    return sum(divmod(2 * int(digit), 10))


def card(rng: random.Random) -> str:
    bare = digits(rng, rng.choice(CARDS))[:-1]
    bare += str(-(sum(map(doubled, bare[::-2])) + sum(map(int, bare[-2::-2]))) % 10)
    by_issuer = r"(^.{4})(.{6})" if len(bare) in (14, 15) else r"(.{4})(?=.)"
    separator = rng.choice(["", " ", "-"])
    return re.sub(by_issuer, lambda part: separator.join([*part.groups(), ""]), bare)


def url_credentials(rng: random.Random) -> str:
    scheme = rng.choice(["https", "http", "ftp", "postgresql", "redis", "git+https", "amqp", "smb"])
    secret = rng.choice(["hunter2", "s3cr3t!", "p%40ss", "a:b:c", "p@ss", "x" * 30])
    host = rng.choice(["db.internal", "localhost:5432", "10.1.2.3", "[2001:db8::5]:80", "host.example.org"])
    return f"{scheme}://{rng.choice(['root', 'anna', ''])}:{secret}@{host}{rng.choice(['', '/', '/path/to?x=1&y=2'])}"


def national_id(rng: random.Random) -> str:
    return f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"


def bare(kind: PiiKind, planted: str) -> str:
    """What has to be replaced of a planted string: not the word before a number, nor the port behind an address."""
    return planted.removeprefix("tel: ").removesuffix(":8080") if kind in ("phone", "ip") else planted


PLANTERS: dict[PiiKind, Callable[[random.Random], str]] = {
    "email": email,
    "phone": phone,
    "ip": ip,
    "iban": iban,
    "card": card,
    "url_credentials": url_credentials,
    "national_id": national_id,
}


LOOKALIKES = """
in 1998 | from 1990-1995 | 2019-2020-2021 | on 2024-05-17 | on 17.05.2024 | on 05/17/2024 | 01-02-2003 | 01 02 2003 | at 12:34:56
2024-05-17T12:34:56Z | 12:34:56.789 | 20201124024954 | 2024-05-17 12:34:56 +0200 | UTC+05:30 | Tel: 2024-05-17 | pages 123-456
pp. 1234-1245 | vol. 12 (34) 567-890 | 12(3):456-4567 | RFC 3986 | RFC 3986-4291 | 1,234,567,890 | 1 234 567 890 | 3.141592653589793
0.4111111111111111 | 0,4111111111111111 | -922337203685477.5808 to +922337203685477.5807 | 1e+1234567890 | 1234567890
ISBN 0-306-40615-2 | ISBN 0306406152 | 0306406152 | ISBN-13 978-3-16-148410-0 | 9783161484100 | 978-0306406157 | ISSN 0317-8471
0xffffffff81000000 | ffffffff81000000-ffffffff82000000 | commit 4111111111111111deadbeef4111111111111111 | 1234567890abcdef
00 00 00 02 00 00 00 | 01 02 03 04 05 06 07 08 | 0123 4567 89ab cdef | 00112233-4455-6677-8899-aabbccddeeff | 0123456789 | v1.2.3.4
version 10.20.30.40 | Section 4.1.2.1 | 1.2.3.4 | libz.so.1.2.3.40 | Chrome/114.0.0.0 | 256.100.50.25 | .1.3.6.1.2.1.99.5.0
127.0.0.1 | 0.0.0.0 | 255.255.255.0 | 0.0.0.255 | 192.0.2.55 | 10.0.0.0/8 | 192.168.5.0/24 | 100.64.0.0/255.192.0.0 | 01.02.03.40
std::string | DBIx::Class | Face::Bed | a[1::2] | :: | ::1 | 2001:db8::7 | fe80::/10 | wrote in 1864:: so | 00:1a:2b:3c:4d:5e
00:1A:2B:FF:FE:3C:4D:5E | 0000:00:1f.3 | YUV 4:2:0 | 4111 1111 1111 1112 | 4111111111111112 | 9111 1111 1111 1111 | 0000000000000000
DE89 3704 0044 0532 0130 01 | DE893704004405320131 | XX89370400440532013000 | AM65 CPSW NUSS | DE8937040044053201300000
part 555-123-4567 | P/N 555-123-4567 | PN-555-123-4567 | 555-123-4567A | 1555-123-4567-8 | 12-345-6789 | 123-45-6789 | 20008-1234
$555 123 4567 | 100 200 3000 400 | user@localhost | getty@tty1.service | a @ b.com | @abstractmethod | exec @ARGV | A@B | x = y @ z.T
https://lore.kernel.org/r/20140717193330.GB4703@kroah.com | https://x.org/a:b/c@d | https://x.org:80/a | ://a:b@c | C++ 2013-2022
doi:10.1201/9780429485572 | doi:10.1016/j.cell.2015.05.002
"""
