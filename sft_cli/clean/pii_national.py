"""National identity numbers, by option: the form people write, and the check that python-stdnum knows."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple

NEAR = 60
"""Characters before a number in which its name must stand, where the check alone proves little."""


class Number(NamedTuple):
    """One number of a country.

    Attributes:
        module: The module of python-stdnum that checks it.
        pattern: The form, one match per candidate.
        words: What must stand before it; None where form and check suffice.
    """

    module: str
    pattern: re.Pattern[str]
    words: re.Pattern[str] | None


def _number(module: str, pattern: str, words: str | None = None) -> Number:
    named = None if words is None else re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    return Number(module, re.compile(rf"(?<![\w.+-])(?:{pattern})(?![\w-]|[.,]\d)"), named)


NATIONAL: dict[str, tuple[Number, ...]] = {
    "id_be": (_number("be.nn", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}"),),
    "id_br": (_number("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"), _number("br.cpf", r"\d{11}", "cpf")),
    "id_ca": (_number("ca.sin", r"\d{3}[- ]?\d{3}[- ]?\d{3}", "sin|social insurance|assurance sociale|nas"),),
    "id_ch": (_number("ch.ssn", r"756\.\d{4}\.\d{4}\.\d{2}"), _number("ch.ssn", r"756\d{10}")),
    "id_cn": (_number("cn.ric", r"\d{17}[\dX]"),),
    "id_de": (_number("de.idnr", r"\d{2} \d{3} \d{3} \d{3}|\d{11}"),),
    "id_dk": (_number("dk.cpr", r"\d{6}-?\d{4}", "cpr(?:-?(?:nr|nummer|number|no))?|personnummer"),),
    "id_es": (_number("es.dni", r"\d{8}-?[A-Z]"), _number("es.nie", r"[XYZ]-?\d{7}-?[A-Z]")),
    "id_fi": (_number("fi.hetu", r"\d{6}[-+A]\d{3}[0-9A-Y]"),),
    "id_fr": (_number("fr.nir", r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}"),),
    "id_gb": (
        _number("gb.nhs", r"\d{3} \d{3} \d{4}|\d{10}|\d{3}-\d{3}-\d{4}", "nhs|national health|patient"),
    ),
    "id_in": (
        _number("in_.aadhaar", r"\d{4} \d{4} \d{4}|\d{12}", "aadhaar|aadhar|uid|uidai"),
        _number("in_.pan", r"[A-Z]{5}\d{4}[A-Z]"),
    ),
    "id_it": (_number("it.codicefiscale", r"[A-Z]{6}[0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{3}[A-Z]"),),
    "id_kr": (_number("kr.rrn", r"\d{6}-\d{7}"),),
    "id_mx": (_number("mx.curp", r"[A-Z]{4}\d{6}[A-Z]{6}[0-9A-Z]\d"),),
    "id_nl": (_number("nl.bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}", "bsn|burgerservicenummer|sofi(?:nummer)?"),),
    "id_no": (_number("no.fodselsnummer", r"\d{6} ?\d{5}"),),
    "id_pl": (_number("pl.pesel", r"\d{11}", "pesel"),),
    "id_se": (_number("se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}"),),
    "id_tr": (_number("tr.tckimlik", r"\d{11}", "tc|tckn|kimlik|t\\.c\\."),),
    "id_us": (_number("us.ssn", r"\d{3}-\d{2}-\d{4}"), _number("us.itin", r"9\d{2}-\d{2}-\d{4}")),
    "id_za": (_number("za.idnr", r"\d{13}"),),
}  # fmt: skip
"""Kind -> the numbers it looks for."""


def national(kind: str, text: str) -> Iterator[tuple[int, int]]:
    """Character ranges of a country's numbers in the text."""
    for number in NATIONAL[kind]:
        for match in number.pattern.finditer(text):
            near = text[max(0, match.start() - NEAR) : match.start()]
            if number.words is not None and not number.words.search(near):
                continue
            if import_module(f"stdnum.{number.module}").is_valid(match[0]):
                yield match.span()
