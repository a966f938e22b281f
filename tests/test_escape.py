"""Escape hidden characters of the data, so that they do not affect a terminal or a page."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.escape import escape_control, one_line, truncate_middle


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 你 👩‍💻\n\t", "plain é 你 👩‍💻\n\t"),
        ("\x1b[31m", "␛[31m"),
        ("\x00\x07\r\x7f", "␀␇␍␡"),
        ("\x9b31m", "⟨U+009B⟩31m"),
        ("a\u202eb\u2066", "a⟨U+202E⟩b⟨U+2066⟩"),
        ("\u2028\u2029\u200b\ufeff", "⟨U+2028⟩⟨U+2029⟩⟨U+200B⟩⟨U+FEFF⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\uffff", "⟨U+FFFF⟩"),
    ],
)
def test_hidden_characters_are_spelled_out(text, shown):
    assert escape_control(text) == shown


def test_every_character_of_a_hiding_category_is_spelled_out():
    """Controls, formats, separators and surrogates, but those that writing needs."""
    needed = set("\n\t\u200c\u200d") | {chr(code) for code in [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2]}
    hiding = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Zl", "Zp", "Cs"} and chr(code) not in needed
    ]
    scripts = {0x110BD, 0x110CD, *range(0x13430, 0x13440), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)}
    left = [character for character in hiding if escape_control(character) == character]
    assert {ord(character) for character in left} <= scripts
    assert len(hiding) > 2000


@given(st.text(), st.text())
def test_parts_made_visible_join_to_the_whole(first, second):
    assert escape_control(first) + escape_control(second) == escape_control(first + second)


def test_one_line_and_cut():
    assert one_line("a\nb\tc\x1b") == "a↵b c␛"
    assert truncate_middle("x" * 10, 10) == "x" * 10
    assert truncate_middle("a" * 6 + "b" * 1000 + "c" * 3, 9) == "aaaaaa […1,000 characters…] ccc"
