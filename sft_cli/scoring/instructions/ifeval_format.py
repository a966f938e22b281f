"""IFEval: lists, sections, titles, JSON, placeholders, and what an answer starts and ends with."""

import json
import re

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""The sentences that ``constrained_response`` allows."""
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
"""Marker -> pattern that allows spaces between its letters."""


def as_pattern(text: str) -> str:
    """Return a text as the regular expression that the reference takes it for; escaped if it is not a valid one."""
    try:
        re.compile(text)
    except re.error:
        return re.escape(text)
    return text


def number_bullet_lists(answer: str, *, num_bullets: int) -> bool:
    """Return whether exactly so many lines start with one ``*`` or with ``-``."""
    stars = re.findall(r"^\s*\*[^\*].*$", answer, flags=re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", answer, flags=re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(answer: str) -> bool:
    """Return whether one of the allowed sentences occurs."""
    return any(option in answer for option in OPTIONS)


def number_highlighted_sections(answer: str, *, num_highlights: int) -> bool:
    """Return whether at least so many parts of lines are wrapped in ``*`` or ``**``."""
    single = [part.strip("*") for part in re.findall(r"\*[^\n\*]*\*", answer)]
    double = [part[2:-2] for part in re.findall(r"\*\*[^\n\*]*\*\*", answer)]
    return sum(1 for part in single + double if part.strip()) >= num_highlights


def multiple_sections(answer: str, *, section_spliter: str, num_sections: int) -> bool:
    """Return whether at least so many sections start with the marker and a number; the marker is a pattern."""
    return _num_sections(answer, as_pattern(section_spliter.strip())) >= num_sections


def multiple_sections_literal(answer: str, *, section_spliter: str, num_sections: int) -> bool:
    """Return whether at least so many sections start with the marker and a number."""
    return _num_sections(answer, re.escape(section_spliter.strip())) >= num_sections


def _num_sections(answer: str, marker: str) -> int:
    """Return the number of section headings."""
    return sum(1 for _ in re.finditer(rf"\s?{marker}\s?\d+\s?", answer))


def json_format(answer: str) -> bool:
    """Return whether the whole answer is JSON, with or without a code fence around it."""
    text = answer.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(answer: str) -> bool:
    """Return whether a line has a title in double angular brackets that is not blank."""
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", answer))


def number_placeholders(answer: str, *, num_placeholders: int) -> bool:
    """Return whether at least so many parts of lines are in square brackets."""
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def postscript(answer: str, *, postscript_marker: str) -> bool:
    """Return whether a postscript occurs; a marker other than the two usual ones is a pattern."""
    marker = postscript_marker.strip()
    return re.search(POSTSCRIPTS.get(marker) or as_pattern(marker.lower()), answer.lower()) is not None


def postscript_literal(answer: str, *, postscript_marker: str) -> bool:
    """Return whether a postscript occurs."""
    marker = postscript_marker.strip()
    return re.search(POSTSCRIPTS.get(marker) or re.escape(marker.lower()), answer.lower()) is not None


def two_responses(answer: str) -> bool:
    """Return whether ``******`` separates two different answers; only the first and last part may be blank."""
    parts = [part.strip() for part in answer.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(answer: str, *, prompt_to_repeat: str) -> bool:
    """Return whether the answer starts with the prompt, in any case."""
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(answer: str, *, end_phrase: str) -> bool:
    """Return whether the answer ends with a phrase, in any case and with or without a closing quotation mark."""
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(answer: str) -> bool:
    """Return whether the answer is wrapped in straight double quotation marks."""
    text = answer.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def no_comma(answer: str) -> bool:
    """Return whether there is no comma."""
    return "," not in answer
