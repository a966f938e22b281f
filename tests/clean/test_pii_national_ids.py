"""National identity numbers: format, check digit, labels and regions."""

import pytest

from sft_cli.clean import pii
from sft_cli.clean.pii_national import NATIONAL
from tests.clean.helpers import redacted

NUMBERS = {
    "id_be": ["85.07.30-033.28"],
    "id_br": ["390.533.447-05", "CPF 39053344705"],
    "id_ca": ["my SIN is 123-456-782"],
    "id_ch": ["756.9217.0769.85", "7569217076985"],
    "id_cn": ["360426199101010071"],
    "id_de": ["36 574 261 809", "36574261809"],
    "id_dk": ["CPR 211062-5629", "cpr-nummer 2110625629"],
    "id_es": ["54362315K", "54362315-K", "X-2482300W"],
    "id_fi": ["131052-308T"],
    "id_fr": ["2 95 10 99 126 111 93", "295109912611193"],
    "id_gb": ["NHS number: 943 476 5870"],
    "id_in": ["Aadhaar 2341 2341 2346", "ACUPA7085R"],
    "id_it": ["RCCMNL83S18D969H"],
    "id_kr": ["971013-9019902"],
    "id_mx": ["BOXW310820HNERXN09"],
    "id_nl": ["BSN 111222333"],
    "id_no": ["151086 95088", "15108695088"],
    "id_pl": ["PESEL: 44051401359"],
    "id_se": ["880320-0016", "19880320-0016"],
    "id_tr": ["TC 17291716060"],
    "id_us": ["536-90-4399", "912-90-3456"],
    "id_za": ["7503305044089"],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NUMBERS.items() for text in texts])
def test_national_ids_are_found_by_format_and_check_digit(kind, text):
    shown = redacted(f"It is {text}, I think.", kinds=[kind])
    assert shown.endswith(f"{pii.pii_placeholder(kind)}, I think.")
    broken = text[:-1] + ("1" if text[-1] == "0" else "0" if text[-1].isdigit() else "Q" if text[-1] != "Q" else "Z")
    if kind not in ("id_us", "id_dk") and text != "ACUPA7085R":  # these have no check digit
        assert pii.pii_placeholder(kind) not in redacted(f"It is {broken}, I think.", kinds=[kind])


def test_every_national_id_has_an_example():
    assert NUMBERS.keys() == NATIONAL.keys()


@pytest.mark.parametrize(
    ("kind", "text"),
    [("id_us", "000-12-3456"), ("id_us", "666-12-3456"), ("id_gb", "943 476 5870"), ("id_nl", "111222333")],
)
def test_number_with_a_weak_check_needs_a_label_or_range(kind, text):
    assert redacted(text, kinds=[kind]) == text


def test_national_ids_and_regions_are_optional():
    assert redacted("536-90-4399") == "536-90-4399"
    assert redacted("call 030 901820") == "call 030 901820"
    assert redacted("call 030 901820", phone_regions=["DE"]) == "call <PHONE>"
    assert redacted("call +49 30 901820", phone_regions=[]) == "call <PHONE>"
    assert redacted("a@b.com 192.0.2.1", kinds=["ip"]) == "a@b.com <IP>"
