"""Find the positions of personal data in a text: one finder per kind, a cheap pattern, then a check of the digits.

A finder yields ``(start, end)`` ranges in characters. Numbers with a checksum are checked by python-stdnum, phone
numbers by phonenumbers; the other kinds follow the rules in the docstrings of their finders.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence

from sft_cli.clean.pii_secrets import secret_spans

Span = tuple[int, int]
CONTEXT_CHARACTERS = 40
"""Characters before a number in which a word such as ``phone`` marks it as one."""

EMAIL = re.compile(r"(?<![\w.+%'/=&-])[\w][\w.+%'-]{0,63}@(?:[\w-]{1,63}\.){1,6}[^\W\d_]{2,24}(?![\w-]|\.\w)")
FILE_NAME = re.compile(r"@\dx?\.|\.(?:png|jpe?g|gif|svg|webp|js|css|py)$", re.IGNORECASE)
"""``icon@2x.png`` is a file name."""
PHONE = re.compile(r"(?<![\w.])\+?\(?\d(?:[ \t().\-/\u00a0\u2010-\u2013]{0,3}\d){6,15}(?!\w)")
"""Candidates for phone numbers; phonenumbers decides."""
PHONE_WORDS = re.compile(
    r"(?<![\w<])(?:phone|tel|telephone|telefon|téléphone|teléfono|telefono|mobile|mobil|cell|fax|call|dial|text|sms|whatsapp"
    r"|contact|ring|hotline)\b|☎|📞",
    re.IGNORECASE,
)
CARD = re.compile(r"(?<![\w.,+*/=-])\d(?:[ -]?\d){12,18}(?!\w|[.,]\d|[-*/^]\d)")
CARD_GROUPS = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 1)}
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
IPV4 = re.compile(
    r"(?<![\w.-])(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?![\w-]|\.\w|/\d)"
)
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)")
VERSION_WORDS = re.compile(
    r"(?:version|ver|release|build|firmware|driver|section|chapter|figure|table|rfc|update|oid)s?[\s:=]*$"
    r"|\bv\.?\s*$|[=~<>]=\s*$|§\s*$",
    re.IGNORECASE,
)
IP_WORDS = re.compile(
    r"\b(?:ip|ips|ipv4|address|addresses|host|server|dns|ping|ssh|subnet|gateway)\b|://", re.IGNORECASE
)


def email_spans(text: str) -> Iterator[Span]:
    """Yield e-mail addresses, including those of example.com, but not ``git@host:path`` and ``icon@2x.png``."""
    if "@" not in text:
        return
    for match in EMAIL.finditer(text):
        remote = match[0].startswith("git@") and text[match.end() : match.end() + 1] in (":", "/")
        if not remote and not FILE_NAME.search(match[0]):
            yield match.span()


def phone_spans(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Yield numbers that exist in one of the regions or have a country code, grouped as usual in the country.

    A run of digits without separators counts only after a word such as ``phone`` or with a ``+``, so that results of
    calculations, order numbers and times in seconds are kept.
    """
    candidates = [match.span() for match in PHONE.finditer(text)]
    if not candidates:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for start, end in _merge_spans([(max(0, start - 3), end + 12) for start, end in candidates]):
        window, spans = text[start:end], set()
        for region in regions or ["ZZ"]:  # ZZ: only numbers with a country code
            for match in PhoneNumberMatcher(window, region, leniency=Leniency.STRICT_GROUPING):
                bracket = len(match.raw_string) - len(
                    match.raw_string.lstrip("[［")
                )  # the bracket of a list is not part of the number
                span = (start + match.start + bracket, start + match.end)
                if span not in spans and _is_phone(text, span):
                    spans.add(span)
                    yield span


def _is_phone(text: str, span: Span) -> bool:
    """Return whether the context of a valid number indicates a phone number."""
    start, end = span
    number = text[start:end]
    if text[end : end + 1] in ("%", "$", "€") or text[max(0, start - 2) : start].strip()[-1:] in tuple("=$€£*^<"):
        return False
    grouped = not number.strip("()（） ").isdigit() and "." not in number
    return grouped or "+" in number or bool(PHONE_WORDS.search(text[max(0, start - CONTEXT_CHARACTERS) : start]))


def _merge_spans(spans: Sequence[Span]) -> list[Span]:
    """Return ascending ranges with those that touch merged."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def card_spans(text: str) -> Iterator[Span]:
    """Yield payment card numbers: an issuer's length and prefix, a valid check digit (Luhn), usual grouping or none."""
    for match in CARD.finditer(text):
        groups = tuple(len(group) for group in re.split("[ -]", match[0]))
        plain = re.sub(r"\D", "", match[0])
        one_separator = len({separator for separator in " -" if separator in match[0]}) <= 1
        if (len(groups) == 1 or groups in CARD_GROUPS) and one_separator and _is_issued(plain) and _passes_luhn(plain):
            yield match.span()


def _passes_luhn(digits: str) -> bool:
    """Return whether the last digit is the correct check digit."""
    from stdnum import luhn

    return luhn.is_valid(digits)


def _is_issued(digits: str) -> bool:
    """Return whether an issuer uses numbers of this prefix and length (published ISO/IEC 7812 ranges)."""
    length, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    return (
        (digits[0] == "4" and length in (13, 16, 19))  # Visa
        or (length == 16 and (51 <= two <= 55 or 2221 <= four <= 2720))  # Mastercard
        or (length == 15 and two in (34, 37))  # American Express
        or (length in (16, 19) and (four == 6011 or two == 65 or 644 <= three <= 649))  # Discover
        or (length == 14 and (300 <= three <= 305 or two in (36, 38, 39)))  # Diners Club
        or (length == 16 and 3528 <= four <= 3589)  # JCB
        or (length in (16, 19) and two == 62)  # UnionPay
        or (length in (16, 18, 19) and four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763))  # Maestro
    )


def iban_spans(text: str) -> Iterator[Span]:
    """Yield international bank account numbers: the country's length and form, and the checksum of ISO 7064."""
    for match in IBAN.finditer(text):
        from stdnum import iban

        number = match[0]
        while number:
            if iban.is_valid(number):
                yield match.start(), match.start() + len(number)
                break
            number = number.rpartition(" ")[0]  # capital words may follow


def ip_spans(text: str) -> Iterator[Span]:
    """Yield IP addresses of the public internet, and those reserved for documentation.

    Not personal, and not found, are private, loopback, link-local and multicast addresses, masks, networks such as
    8.8.8.0/24, and numbers after a word for a version or a section. Four single digits such as 1.2.3.4 count only after
    a word such as ``ip`` or ``server``, or with a port.
    """
    if text.count(".") >= 3:
        for match in IPV4.finditer(text):
            if _is_public(ipaddress.IPv4Address(match[0])) and not _is_version(text, match.span()):
                yield match.span()
    if text.count(":") >= 2:
        for match in IPV6.finditer(text):
            try:
                address = ipaddress.IPv6Address(match[0])
            except ValueError:
                continue
            groups = [group for group in match[0].split(":") if group]
            if (
                len(groups) >= 3 and int(address) >> 125 == 1
            ):  # 2000::/3, all assigned addresses; not Python's [2000::3]
                yield match.span()


def _is_public(address: ipaddress.IPv4Address) -> bool:
    """Return whether an address is global, or of a range for documentation (RFC 5737)."""
    documentation = any(address in network for network in DOCUMENTATION)
    return documentation or (address.is_global and not address.is_multicast)


DOCUMENTATION = [ipaddress.IPv4Network(f"{start}.0/24") for start in ("192.0.2", "198.51.100", "203.0.113")]


def _is_version(text: str, span: Span) -> bool:
    """Return whether dotted numbers are a version or a section."""
    start, end = span
    before = text[max(0, start - CONTEXT_CHARACTERS) : start]
    if VERSION_WORDS.search(before):
        return True
    digits = len(text[start:end].replace(".", ""))
    return digits == 4 and not IP_WORDS.search(before) and text[end : end + 1] != ":"


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "secret": secret_spans,
    "email": email_spans,
    "iban": iban_spans,
    "card": card_spans,
    "ip": ip_spans,
}
"""Finders by kind, without phone (which takes regions) and national ids, in order of precedence."""
