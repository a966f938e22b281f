"""Answers that follow, and do not follow, each type of instruction."""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """An instruction with answers that follow it and answers that do not."""

    id: str
    kwargs: dict[str, Any]
    followed: tuple[str, ...]
    broken: tuple[str, ...]


def make_case(id: str, kwargs: dict[str, Any], followed: tuple[str, ...], broken: tuple[str, ...]) -> Case:
    """Return a case; both kinds of answers are needed."""
    assert followed, id
    assert broken, id
    return Case(id, kwargs, followed, broken)


ENGLISH = "this is a plain english sentence about the weather of today"
GERMAN = "Das ist ein gewöhnlicher deutscher Satz über das Wetter von heute."
CHINESE = "今天天气很好，我们一起去公园散步，然后回家吃饭。"
TWO_PARAGRAPHS = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Word"}
IFEVAL = (
    make_case("keywords:existence", {"keywords": ["cat", "dog"]}, ("A Cat and dogs.",), ("A cat.", "Do g cat")),
    make_case(
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "at least"},
        ("War and war.", "warm towards"),
        ("war",),
    ),
    make_case(
        "keywords:frequency",
        {"keyword": " war ", "frequency": 2, "relation": "less than"},
        ("war", "peace"),
        ("War and war.",),
    ),
    make_case(
        "keywords:forbidden_words", {"forbidden_words": ["rock", "a b"]}, ("Rocket.",), ("The ROCK!", "is a b c")
    ),
    make_case(
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        ("Quick quiz", "qq"),
        ("quick",),
    ),
    make_case(
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 2, "let_relation": "less than"},
        ("quick",),
        ("Quick quiz",),
    ),
    make_case("language:response_language", {"language": "de"}, (GERMAN,), (ENGLISH,)),
    make_case(
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ("Dr. Smith left. He came back!", "One? Two. Three."),
        ("Dr. Smith left early",),
    ),
    make_case(
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ("Only one here.",),
        ("One here. Two here.",),
    ),
    make_case(
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ("one\n***\ntwo", "***one *** two***"),
        ("one", "one\n***\n***\ntwo", "one *** two *** three"),
    ),
    make_case(
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        ("one two three", "don't go"),
        ("one two",),
    ),
    make_case(
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        ("one two",),
        ("one, two - three",),
    ),
    make_case(
        "length_constraints:nth_paragraph_first_word",
        TWO_PARAGRAPHS,
        ("first\n\nword second", "first\n\n'\"Word's second\n\n"),
        ("first\n\nwords second", "first\nword second", "word\n\nsecond", "first\n\nword\n\nthird"),
    ),
    make_case(
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ("[name], [address]", "[] []"),
        ("[name]", "[name\n] [address]"),
    ),
    make_case(
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ("Bye\nP.S. more", "p. s. more"),
        ("Bye P.S more",),
    ),
    make_case(
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ("P.P.S more", "p. p. s. more"),
        ("P.S. more",),
    ),
    make_case("detectable_content:postscript", {"postscript_marker": "Note:"}, ("a note: b",), ("a note b",)),
    make_case(
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ("* one\n* two", "text\n  - one\n* two"),
        ("* one", "* one\n* two\n- three", "** one\n** two"),
    ),
    make_case(
        "detectable_format:constrained_response",
        {},
        ("My answer is maybe.", "Well. My answer is no. Bye"),
        ("My answer is yes", "my answer is yes."),
    ),
    make_case(
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ("*one* and *two*", "**one** and *two*"),
        ("*one*", "**one**", "* *, * *", "*one\n*"),
    ),
    make_case(
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ("SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION 2 SECTION 3"),
        ("SECTION 1\na", "Section 1\na\nSection 2\nb", "SECTION one SECTION two"),
    ),
    make_case(
        "detectable_format:json_format",
        {},
        ('{"a": [1]}', '```json\n{"a": 1}\n```', "```\n3\n```"),
        ("{'a': 1}", 'Here: {"a": 1}', "[" * 100_000),
    ),
    make_case("detectable_format:title", {}, ("<<poem of joy>>\ntext",), ("<poem>", "<< >>", "<<a\nb>>")),
    make_case(
        "combination:two_responses",
        {},
        ("one ****** two", "******one******two******"),
        ("one", "one******one", "one******two******three", "one************two"),
    ),
    make_case(
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a song. "},
        ("write a Song. La la",),
        ("Sure! Write a song.", "Write song."),
    ),
    make_case(
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        ("Bye. Any other questions?", '"Bye. any other QUESTIONS?"\n'),
        ("Any other questions? Bye.",),
    ),
    make_case("startend:quotation", {}, ('"all of it"', ' "a" and "b"\n'), ("“all of it”", '"', '"a" b', 'a "b"')),
    make_case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ("NASA and the FBI", "A-B I"),
        ("NASA and Fbi",),
    ),
    make_case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ("NASA and Fbi",),
        ("NASA and the FBI",),
    ),
    make_case(
        "change_case:english_capital", {}, ("THE WEATHER OF TODAY IS NICE AND WARM.",), (ENGLISH, GERMAN.upper())
    ),
    make_case("change_case:english_lowercase", {}, (ENGLISH,), (ENGLISH.capitalize(), GERMAN.lower())),
    make_case("punctuation:no_comma", {}, ("one; two",), ("one, two",)),
)
"""Cases that both forms of IFEval judge alike."""
DIFFERENT = (
    make_case(
        "length_constraints:nth_paragraph_first_word",
        TWO_PARAGRAPHS,
        ("first\n\n\n\nword second",),
        ("first\n\n\n\n other", "word"),
    ),
    make_case("language:response_language", {"language": "de"}, (GERMAN,), ("12345 + 67", "***")),
    make_case("language:response_language", {"language": "zh"}, (CHINESE,), (ENGLISH,)),
    make_case("change_case:english_capital", {}, ("THE WEATHER IS NICE AND WARM TODAY.",), ("ԲԱՐԵՎ ՁԵԶ",)),
    make_case("change_case:english_lowercase", {}, (ENGLISH,), ("http://a.de/b", "բարեւ ձեզ")),
    make_case(
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ("#one #two",),
        ("#one abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz",),
    ),
    make_case("keywords:existence", {"keywords": ["a.c"]}, ("A.C",), ("abc",)),
    make_case("keywords:frequency", {"keyword": "a+", "frequency": 1, "relation": "at least"}, ("a+",), ("aa",)),
    make_case("keywords:forbidden_words", {"forbidden_words": ["a.c"]}, ("abc",), ("a.c",)),
    make_case("detectable_content:postscript", {"postscript_marker": "N.B."}, ("N.B. more",), ("nabc more",)),
    make_case(
        "detectable_format:multiple_sections",
        {"section_spliter": "S.", "num_sections": 1},
        ("S. 1",),
        ("Sx 1",),
    ),
)
"""Cases that only the corrected form judges so in all answers; the published one judges at least one otherwise."""
