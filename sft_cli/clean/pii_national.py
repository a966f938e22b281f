"""Find national identity numbers, by their written form and the checks of python-stdnum."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple

CONTEXT_CHARACTERS = 60
"""Characters before a number in which its name must occur, if the check alone is too weak."""


class NationalIdForm(NamedTuple):
    """One form of a national number.

    Attributes:
        module: The module of python-stdnum that checks it.
        pattern: The form, one match per candidate.
        words: Words of which one must occur before it; None if form and check suffice.
    """

    module: str
    pattern: re.Pattern[str]
    words: re.Pattern[str] | None


def _form(module: str, pattern: str, words: str | None = None) -> NationalIdForm:
    """Return a form with compiled patterns."""
    words_pattern = None if words is None else re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    return NationalIdForm(module, re.compile(rf"(?<![\w.+-])(?:{pattern})(?![\w-]|[.,]\d)"), words_pattern)


NATIONAL: dict[str, tuple[NationalIdForm, ...]] = {
    "id_be": (_form("be.nn", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}"),),
    "id_br": (_form("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"), _form("br.cpf", r"\d{11}", "cpf")),
    "id_ca": (_form("ca.sin", r"\d{3}[- ]?\d{3}[- ]?\d{3}", "sin|social insurance|assurance sociale|nas"),),
    "id_ch": (_form("ch.ssn", r"756\.\d{4}\.\d{4}\.\d{2}"), _form("ch.ssn", r"756\d{10}")),
    "id_cn": (_form("cn.ric", r"\d{17}[\dX]"),),
    "id_de": (_form("de.idnr", r"\d{2} \d{3} \d{3} \d{3}|\d{11}"),),
    "id_dk": (_form("dk.cpr", r"\d{6}-?\d{4}", "cpr(?:-?(?:nr|nummer|number|no))?|personnummer"),),
    "id_es": (_form("es.dni", r"\d{8}-?[A-Z]"), _form("es.nie", r"[XYZ]-?\d{7}-?[A-Z]")),
    "id_fi": (_form("fi.hetu", r"\d{6}[-+A]\d{3}[0-9A-Y]"),),
    "id_fr": (_form("fr.nir", r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}"),),
    "id_gb": (
        _form("gb.nhs", r"\d{3} \d{3} \d{4}|\d{10}|\d{3}-\d{3}-\d{4}", "nhs|national health|patient"),
    ),
    "id_in": (
        _form("in_.aadhaar", r"\d{4} \d{4} \d{4}|\d{12}", "aadhaar|aadhar|uid|uidai"),
        _form("in_.pan", r"[A-Z]{5}\d{4}[A-Z]"),
    ),
    "id_it": (_form("it.codicefiscale", r"[A-Z]{6}[0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{3}[A-Z]"),),
    "id_kr": (_form("kr.rrn", r"\d{6}-\d{7}"),),
    "id_mx": (_form("mx.curp", r"[A-Z]{4}\d{6}[A-Z]{6}[0-9A-Z]\d"),),
    "id_nl": (_form("nl.bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}", "bsn|burgerservicenummer|sofi(?:nummer)?"),),
    "id_no": (_form("no.fodselsnummer", r"\d{6} ?\d{5}"),),
    "id_pl": (_form("pl.pesel", r"\d{11}", "pesel"),),
    "id_se": (_form("se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}"),),
    "id_tr": (_form("tr.tckimlik", r"\d{11}", "tc|tckn|kimlik|t\\.c\\."),),
    "id_us": (_form("us.ssn", r"\d{3}-\d{2}-\d{4}"), _form("us.itin", r"9\d{2}-\d{2}-\d{4}")),
    "id_za": (_form("za.idnr", r"\d{13}"),),
}  # fmt: skip
"""Kind -> the forms of its numbers."""


def national_id_spans(kind: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield character ranges of a country's numbers in the text."""
    for number in NATIONAL[kind]:
        for match in number.pattern.finditer(text):
            context = text[max(0, match.start() - CONTEXT_CHARACTERS) : match.start()]
            if number.words is not None and not number.words.search(context):
                continue
            if import_module(f"stdnum.{number.module}").is_valid(match[0]):
                yield match.span()
