"""Personal data and secrets in text: found by shape, and by checksum where the shape has one.

`find` returns what it finds, `replace` puts `[EMAIL]`, `[PHONE]` and so on in its place. Names of people and places
are not found: that takes a model. An address is found by its street, box or postal code, not always to its last line.

Measured on 2,606 synthetic sentences with labels (presidio-research); a finding that overlaps a label counts:

    kind      labels   recall   precision
    email         95     1.00        1.00
    iban          39     1.00        1.00
    ssn           60     1.00        1.00
    card         271     1.00        1.00
    phone        151     1.00        1.00
    address    1,400     0.75        1.00

The patterns were chosen with these sentences in view, so expect less elsewhere. They hold no secrets and no ip.

Each pattern starts only where a word may, repeats nothing without a bound and hardly ever backs up, so the time grows
with the length of the text and not with its square, whatever the text.

`presidio()` gives a finder that knows more: it adds what Presidio's patterns find. `FINDERS` has both by name.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from plumbline.errors import MissingExtra

Kind = Literal["secret", "email", "iban", "card", "ssn", "ip", "phone", "address"]


class Finding(NamedTuple):
    """A stretch of a text, `text[start:end]`, and what it is."""

    kind: str
    """One of `Kind`, or what another finder calls it."""
    start: int
    end: int
    text: str


Finder = Callable[[str], Sequence[Finding]]


def find(text: str) -> list[Finding]:
    """What there is, in the order of the text. No two findings overlap: what comes first in `RULES` wins."""
    taken = bytearray(len(text))
    findings: list[Finding] = []
    for kind, pattern, length in RULES:
        for match in pattern.finditer(text):
            start, end = match.span("found")
            if 1 in taken[start:end]:
                continue
            end = start + length(text[start:end])
            if end > start:
                findings.append(Finding(kind, start, end, text[start:end]))
                taken[start:end] = b"\1" * (end - start)
    return sorted(findings, key=lambda finding: finding.start)


def replace(text: str, findings: Sequence[Finding] | None = None) -> str:
    """The text with a placeholder such as `[EMAIL]` for each finding, by default for all that `find` finds."""
    pieces, done = [], 0
    for finding in find(text) if findings is None else sorted(findings, key=lambda each: each.start):
        pieces += [text[done : finding.start], f"[{finding.kind.upper()}]"]
        done = finding.end
    return "".join([*pieces, text[done:]])


# ---- how much of a candidate is one, from its beginning; 0 for none


PLACEHOLDER = re.compile(
    r"[\[<{$%*(]|your|my[_-]|example|change|xxx|\.\.\.|none|null|true|false"
    r"|(?:\w{1,20}[_-])?(?:password|passwd|pwd|secret|token|key)s?$",
    re.IGNORECASE,
)
VARIABLE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$")


def quoted_secret(value: str) -> int:
    """A value of some variety that is no placeholder."""
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return len(value) if entropy > 2.2 and not PLACEHOLDER.match(value) else 0


def bare_secret(value: str) -> int:
    """The same, and no word, type or variable either: it has a sign that those lack, or letters and a digit."""
    odd = any(char in "!@#$%^&*+=?~|" for char in value)
    mixed = any(char.isdigit() for char in value) and any(char.isalpha() for char in value)
    return quoted_secret(value) if (odd or mixed) and not VARIABLE.match(value) else 0


CARD_BRANDS = re.compile(
    r"(?P<visa>4)|(?P<mastercard>5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)|(?P<amex>3[47])|(?P<diners>30[0-5]|3095|3[689])"
    r"|(?P<jcb15>1800|2131)|(?P<jcb>35)|(?P<other>50|5[6-9]|6)"
)
CARD_LENGTHS = {
    "visa": (16, 13, 19),
    "mastercard": (16,),
    "amex": (15,),
    "diners": (14, 16),
    "jcb15": (15,),
    "jcb": (16,),
    "other": (16, 19, 18, 17, 15, 14, 13, 12),
}


def card_number(candidate: str) -> int:
    """A number with a brand's beginning, one of its lengths and a sound last digit."""
    places = [place for place, char in enumerate(candidate) if char.isdigit()]
    digits = [int(candidate[place]) for place in places]
    brand = CARD_BRANDS.match("".join(map(str, digits)))
    for count in CARD_LENGTHS[brand.lastgroup or ""] if brand else ():
        if count > len(digits) or (count < len(digits) and places[count] == places[count - 1] + 1):
            continue
        doubled = sum(digits[count - 2 :: -2]) * 2 - 9 * sum(digit > 4 for digit in digits[count - 2 :: -2])
        if (doubled + sum(digits[count - 1 :: -2])) % 10 == 0 and any(digits):
            return places[count - 1] + 1
    return 0


IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def iban(candidate: str) -> int:
    """A number of its country's length whose remainder by 97 is 1."""
    count = IBAN_LENGTHS.get(candidate[:2].upper(), 99)
    places = [place for place, char in enumerate(candidate) if char.isalnum()]
    if count > len(places) or (count < len(places) and places[count] == places[count - 1] + 1):
        return 0
    characters = "".join(candidate[place] for place in places[:count]).upper()
    number = "".join(str(int(char, 36)) for char in characters[4:] + characters[:4])
    return places[count - 1] + 1 if int(number) % 97 == 1 else 0


def ip_address(candidate: str) -> int:
    """An address of a machine somewhere: not of this machine, not a mask, not the number of a section or a version."""
    candidate = candidate.rstrip(".:") if not candidate.endswith("::") else candidate
    try:
        address = ipaddress.ip_address(candidate)
    except ValueError:
        return 0
    if address.version == 6:
        nobody = address.is_loopback or len(candidate) < 7 or not any(char.isdigit() for char in candidate)
    else:
        nobody = candidate.startswith(("127.", "255.", "0.")) or max(address.packed) < 10
    return 0 if nobody else len(candidate)


DATE = re.compile(
    r"(?:(?:19|20)\d\d([-./ ])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])([-./ ])(?:0?[1-9]|[12]\d|3[01])\2(?:19|20)\d\d)(?!\d)"
)


def phone_number(candidate: str) -> int:
    """From 6 to 15 digits, without an extension, that are no date and no span of years."""
    digits = sum(char.isdigit() for char in re.split("[xe#]", candidate, maxsplit=1)[0])
    years = re.fullmatch(r"(?:19|20)\d\d[ -]+(?:19|20)\d\d", candidate)
    decimal = re.fullmatch(r"\d+\.\d+", candidate)
    return len(candidate) if 6 <= digits <= 15 and not (DATE.match(candidate) or years or decimal) else 0


def phone_with_trunk(candidate: str) -> int:
    """A number that begins with 0 is long, or it is something else."""
    return phone_number(candidate) if sum(char.isdigit() for char in candidate) >= 8 else 0


# ---- the rules, the surest first

SECRETS = "|".join(
    [
        r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",  # Amazon
        r"gh[opsur]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,64}",
        r"sk-[A-Za-z0-9_-]{20,255}|gsk_[A-Za-z0-9]{20,128}|xai-[A-Za-z0-9]{20,128}|hf_[A-Za-z0-9]{30,64}",  # models
        r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,128}|whsec_[A-Za-z0-9]{24,64}|sq0[a-z]{3}-[A-Za-z0-9_-]{22,64}",  # shops
        r"xox[abeoprs]-[A-Za-z0-9-]{10,255}|https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,80}",
        r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{20,255}",  # Google
        r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,255}|dckr_pat_[A-Za-z0-9_-]{20,64}",
        r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}|SK[0-9a-f]{32}|key-[0-9a-f]{32}",  # mail
        r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}|AGE-SECRET-KEY-1[A-Z0-9]{58}|hvs\.[A-Za-z0-9_-]{24,255}",
        r"do[opr]_v1_[0-9a-f]{64}|dapi[0-9a-f]{32}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
        r"eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}",  # JSON web token
    ]
)
PRIVATE_KEY = (
    r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    # up to its end; where that is cut off, as long as the lines look like a key's
    r"(?:(?:[^-]|-(?!----)){0,20000}+-----END [A-Z0-9 ]{1,50}-----|(?:[\s\\nr]{0,8}+[A-Za-z0-9+/=]{16,128}+){0,400}+)"
)
SECRET_NAME = (
    r"(?i:(?:password|passwd|passphrase|passwort|pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|secret[_-]?key"
    r"|private[_-]?key|auth[_-]?key|credentials?)[\"']?\s{0,4}(?::=|=>|[:=]|\bis\b)\s{0,4})"
)

LETTER = r"[^\W\d_]"
# Digits are taken without giving back, else a long row of them could be cut into groups in countless ways.
DIGITS = r"(?:\(\d{1,6}+\)|\d{1,15}+)(?:(?:[ ]?-[ ]?|[ ./])?(?:\(\d{1,6}+\)|\d{1,15}+)){0,6}"
EXTENSION = r"(?:[ ,]{0,2}(?:x|ext\.?|extension|#)[ ]?\d{1,6})?"
CALLED = (
    r"(?i:\b(?:phone|telephone|telefon|tel|mobile|cell|cellphone|fax|desk|call|text|messages? to|whatsapp|sms|dial"
    r"|reach (?:me|us|him|her|them))(?![^\W_])(?:[ _](?:numbers?|no|me|us|him|her|them|is|at|on|now|back)\b){0,3}"
    r"[ .:=\"'#*|-]{0,6}\n?)"
)

HOUSE = r"\d{1,6}[A-Za-z]?\b"
GAP = r"[ ,\n]{1,3}"
SMALL = r"(?:a|an|and|are|at|between|by|down|for|from|in|is|miles?|minutes?|of|off|on|or|our|the|this|to|was|with)\b"
REST_OF_WORD = r"(?:[\w'’/-]{0,2}\.|[\w'’/-]{0,30})"  # a full stop ends an abbreviation, or else the sentence
WORD = rf"(?!{SMALL})(?:{LETTER}|\d{{1,3}}(?:st|nd|rd|th)\b){REST_OF_WORD}"
NAME = rf"(?![a-z\d_])\w{REST_OF_WORD}"
STREET = (
    r"(?:(?i:street|avenue|boulevard|road|lane|highway|parkway|blvd|ave|pkwy|hwy|rd|ln)"
    r"|Drive|Court|Place|Square|Terrace|Crescent|Way|Circle|Close|Alley|Trail|Plaza|Gardens?|Grove|Mews|Quay"
    r"|DRIVE|COURT|PLACE|SQUARE|WAY|St|Dr|Ct|Pl|Sq|Cir|Ter|ST|DR|CT)\b"
)
STREET_FIRST = (
    r"(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Cc]alle|Via|Viale|Piazza|Corso|Avenida|Paseo|Plaza|Rua|Travessa|Camiño|Ulica"
    r"|ul\.|Rruga|Strada)"
)
STREET_LAST = (
    r"(?:straße|strasse|str\.|gasse|platz|allee|weg|damm|gatan|gata|vägen|veien|vegen|vej|gade|katu|tie|straat|laan|plein"
    r"|gracht|dreef|kade)"
)
ROOM = r"(?i:suite|apt\.?|apartment|unit|flat|room|floor)[ ]?#?\d{1,5}[A-Za-z]?\b"
TOWN = rf"(?:{GAP}{NAME}){{1,8}}{GAP}(?:[A-Z]{{2}},?[ ])?\d{{5}}(?:-\d{{4}})?\b"
REST = rf"(?:{GAP}{ROOM})?(?:{TOWN})?"
ADDRESSES = [
    rf"{HOUSE}(?:[ ]\d{{1,5}})?[ ]{{1,2}}(?:{WORD}[ ]{{1,2}}){{1,5}}?{STREET}{REST}",
    rf"{HOUSE}(?:[ ]\d{{1,5}})?[ ,]{{1,2}}{STREET_FIRST}(?:[ ]{WORD}){{1,5}}(?:[ ]{HOUSE})?{REST}",
    rf"{STREET_FIRST}(?:[ ]{WORD}){{1,5}}[ ,]{{1,2}}{HOUSE}{REST}",
    rf"(?![a-z\d_])\w{{2,30}}?{STREET_LAST}[ ]{HOUSE}{REST}",
    rf"(?:{HOUSE}[ ])?(?:{NAME}[ ]){{1,5}}{HOUSE}{GAP}{ROOM}(?:{TOWN})?",
    rf"(?i:suite|apt\.?|apartment)[ ]#?\d{{1,5}}\b(?:{TOWN})?",
    rf"(?i:p\.?[ ]?o\.?[ ]?box|(?:psc|unit)[ ]\d{{1,6}},?[ ]{{1,2}}box)[ ]\d{{1,6}}\b{REST}",
    r"(?i:[afd]po[ ]a[aep])[ ]\d{5}\b",
    r"[A-Z]{1,2}\d[A-Z\d]?[ ]\d[ABD-HJLNP-UW-Z]{2}\b",
]
LIVES = r"(?i:\b(?:address(?:[ ]is)?:?|(?:lives?|located|office[ ]is)[ ]at:?)\s{1,4})"
POSTCODE = r"(?i:\b(?:zip|zip code|postcode|postal code)\b(?: is)?:?[ ])"


def rule(
    kind: Kind, pattern: str, length: Callable[[str], int] = len
) -> tuple[Kind, re.Pattern[str], Callable[[str], int]]:
    return kind, re.compile(pattern), length


RULES = [
    rule("secret", rf"(?P<found>{PRIVATE_KEY})"),
    rule("secret", rf"(?<![A-Za-z0-9_-])(?P<found>{SECRETS})(?![A-Za-z0-9])"),
    rule("secret", r"(?i:\b(?:bearer|basic)[ ]{1,4})(?P<found>[A-Za-z0-9+/_.~-]{16,2000}={0,2})", bare_secret),
    rule("secret", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,64}:(?P<found>[^\s:/@]{1,128})@", quoted_secret),
    rule("secret", SECRET_NAME + r"(?P<quote>[\"'`])(?P<found>[^\"'`\s]{6,200})(?P=quote)", quoted_secret),
    rule("secret", SECRET_NAME + r"(?P<found>[^\"'`\s,;()\[\]{}<>]{6,200})(?<![.?:])", bare_secret),
    rule(
        "email",
        r"(?<![\w.+%-])(?P<found>[\w+%-](?:[\w.+%'-]{0,62}[\w+%-])?"
        r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,6}[^\W\d_]{2,24})(?![\w@])",
    ),
    rule("iban", r"(?<![A-Za-z0-9])(?=(?P<found>[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}))", iban),
    rule("card", r"(?<![\w.,-])(?=(?P<found>\d{4}(?:[ -]?\d){8,15})(?!\d))", card_number),
    rule("ssn", r"(?<![\w-])(?P<found>(?!000|666)\d{3}-(?!00)\d{2}-(?!0000)\d{4})(?![\w-])"),
    rule("ip", r"(?<![\w.:])(?<!version )(?P<found>[0-9]{1,3}(?:\.[0-9]{1,3}){3})(?!\w|\.\d)", ip_address),
    rule(
        "ip", r"(?<![\w.:])(?P<found>[\da-fA-F]{0,4}(?::[\da-fA-F]{0,4}){2,8}(?:\.\d{1,3}){0,3})(?![\w:])", ip_address
    ),
    # international, North American, with a bracketed area, with a leading 0, and by the word before or after
    rule(
        "phone",
        rf"(?<![\w+.,/-])(?P<found>(?:\+\d{{1,3}}|(?<!\d )00[1-9]\d{{0,2}}[ .-])[ .-]?{DIGITS}{EXTENSION})(?!\w)",
        phone_number,
    ),
    rule(
        "phone",
        r"(?<![\w-])(?<!\d )(?P<found>(?:1[ .-])?(?:\(\d{3}\)[ ]?|\d{3}[-. ])\d{3}[-. ]\d{4}"
        rf"{EXTENSION})(?!-?\d|\w)",
        phone_number,
    ),
    rule("phone", r"(?<![\w-])(?P<found>\(\d{2,4}\)[ ]?\d{3,4}[ -]?\d{3,4})(?!-?\d|\w)", phone_number),
    rule(
        "phone",
        r"(?<![\w.,-])(?<!\d )(?P<found>0[1-9]\d{0,3}(?:[-. ]\d{2,8}){1,4}|0[1-9]\d{1,3}/\d{4,9})(?![.,·]?\w)",
        phone_with_trunk,
    ),
    rule("phone", rf"{CALLED}(?P<found>{DIGITS}{EXTENSION})(?!\w)", phone_number),
    rule(
        "phone",
        r"(?<![\w.-])(?=\(?\d{1,6}\)?[ .-]|\d{9,11}\b)"
        rf"(?P<found>{DIGITS}{EXTENSION})(?=[ -]{{1,3}}(?i:office|fax|mobile)\b)",
        phone_number,
    ),
    *(rule("address", rf"(?<![\w.,/-])(?P<found>{address})") for address in ADDRESSES),
    rule("address", rf"{LIVES}(?P<found>(?:{HOUSE}[ ])?(?:{WORD}[ ]){{1,5}}{HOUSE}{REST})"),
    rule("address", rf"{POSTCODE}(?P<found>\d{{4,6}}(?:-\d{{3,4}}|[ ]?[A-Z]{{2}})?\b)"),
]


# ---- another finder

NOT_PERSONAL = {"DATE_TIME", "URL", "UUID"}
"""What Presidio has patterns for and what tells of nobody by itself."""
SURE = 0.4
"""The score from which a finding of Presidio's counts; below are bare numbers that only words beside them explain."""
OUR_NAMES = {
    "CREDIT_CARD": "card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "US_SSN": "ssn",
}


def presidio() -> Finder:
    """What `find` finds, and elsewhere in the text what Presidio's patterns for English and the United States do.

    They need no language model and no network. Names of people and places do need a model, so they are not found.
    """
    if find_spec("presidio_analyzer") is None:
        raise MissingExtra("presidio", "finding personal data with Presidio")
    import logging

    import tldextract
    from presidio_analyzer import RecognizerRegistry
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it lists the languages that it is not set up for
    # The pattern for mail asks for the ends of addresses, which would be fetched: the list that is installed will do.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"])
    recognizers: list[Any] = [each for each in registry.recognizers if not isinstance(each, SpacyRecognizer)]

    def find_both(text: str) -> list[Finding]:
        found = find(text)
        said = [
            each
            for recognizer in recognizers
            for each in recognizer.analyze(text, recognizer.supported_entities, None)
            if each.score >= SURE and each.entity_type not in NOT_PERSONAL
        ]
        for each in sorted(said, key=lambda each: (each.start - each.end, each.start)):  # the longest first
            if all(each.end <= other.start or other.end <= each.start for other in found):
                kind = OUR_NAMES.get(each.entity_type, each.entity_type.lower())
                found.append(Finding(kind, each.start, each.end, text[each.start : each.end]))
        return sorted(found, key=lambda each: each.start)

    return find_both


FINDERS: dict[str, Callable[[], Finder]] = {"forms": lambda: find, "presidio": presidio}
