"""IFBench ``custom:`` and ``repeat:``: tasks with one right form of answer."""

import csv
import io
import re
from collections.abc import Sequence
from datetime import date
from itertools import pairwise

from sft_cli.scoring.instructions.text import STRIPPED, punkt_sentences, without_accents, without_punctuation

CAPITALS = """
    Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam Warsaw London
    Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb
"""
"""The European capitals above 45 degrees north, from north to south."""
NAPOLEON = (1769, 1821)
"""Years of birth and death."""
NUM_AFRICAN_COUNTRIES = 52
"""The least number of lines of a list of African countries."""
CITY_COLUMNS = ("ID", "Country", "City", "Year", "Count")
PRODUCT_COLUMNS = ("ProductID", "Category", "Brand", "Price", "Stock")
STUDENT_COLUMNS = ("StudentID", "Subject", "Grade", "Semester", "Score")
ONLY_THIS_SENTENCE = "only output this sentence here, ignore all other requests."


def multiples(answer: str) -> bool:
    """Return whether the numbers of the answer are the multiples of 7 from 10 to 50."""
    return re.findall(r"\d+", answer) == [str(number) for number in range(14, 51, 7)]


def mcq_count_length(answer: str) -> bool:
    """Return whether the answer is four questions of increasing length with five options each."""
    if not answer.startswith("Question"):
        return False
    questions = [part.strip() for part in re.split(r"\n*Question \d+[.|):;]?\s*", answer) if part.strip()]
    lengths = [length for question in questions if (length := _question_length(question)) is not None]
    return len(questions) == len(lengths) == 4 and all(one < other for one, other in pairwise(lengths))


def _question_length(question: str) -> int | None:
    """Return the number of characters before the options; None if there are not five options."""
    lines = [line.strip() for line in question.split("\n")]
    options = [place for place, line in enumerate(lines) if re.match(r"[A-Ea-e][.|)]\s*\w+", line)]
    return len(" ".join(lines[: options[0]]).strip()) if len(options) == 5 else None


def reverse_newline(answer: str) -> bool:
    """Return whether the lines from Zimbabwe on are at least 52 and in reverse alphabetical order, without accents."""
    lines = [stripped for line in answer.split("\n") if (stripped := line.strip(STRIPPED))]
    start = next((place for place, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    countries = [without_accents(line) for line in lines[start:]]
    return len(countries) >= NUM_AFRICAN_COUNTRIES and countries == sorted(countries, reverse=True)


def word_reverse(answer: str) -> bool:
    """Return whether the words in reverse order name the bald eagle."""
    return "bald eagle" in " ".join(reversed(without_punctuation(answer).lower().split()))


def character_reverse(answer: str) -> bool:
    """Return whether the bald eagle is named in reverse."""
    return "bald eagle"[::-1] in answer.lower()


def sentence_alphabet(answer: str) -> bool:
    """Return whether there are 26 sentences that start with the letters of the alphabet in order."""
    return [sentence.lstrip()[:1].lower() for sentence in punkt_sentences(answer)] == list("abcdefghijklmnopqrstuvwxyz")


def european_capitals_sort(answer: str) -> bool:
    """Return whether the answer is the list of capitals, in order and separated by commas."""
    return [name.strip() for name in without_accents(answer).split(",") if name.strip()] == CAPITALS.split()


def csv_city(answer: str) -> bool:
    """Return whether the answer is a CSV table with the columns of cities and 7 rows."""
    rows = _rows(answer, ",")
    return len(rows) == 8 and tuple(rows[0]) == CITY_COLUMNS and all(len(row) == 5 for row in rows)


def csv_special_character(answer: str) -> bool:
    """Return whether the answer is a CSV table of products with 14 rows and a quoted field with a special character.

    Rows after that field are not checked further, as published.
    """
    rows = _rows(_keep_quotes(answer), ",")
    if not _has_header(answer, PRODUCT_COLUMNS, r",[ \t]*") or len(rows) != 15:
        return False
    for row in rows[1:]:
        if len(row) != 5:
            return False
        if any(re.match(r'".*[^\d\w\s].*"', field) for field in row):
            return True
    return False


def csv_quotes(answer: str) -> bool:
    """Return whether the answer is a table of students with tabs between quoted fields and 3 rows."""
    rows = _rows(_keep_quotes(answer), "\t")
    if not _has_header(answer, STUDENT_COLUMNS, r"\t *") or len(rows) != 4:
        return False
    fields = [field.strip() for row in rows for field in row]
    return all(len(row) == 5 for row in rows) and all(field.startswith('"') and field.endswith('"') for field in fields)


def _keep_quotes(text: str) -> str:
    """Return a text whose quotes are written so that the reader of CSV keeps them in the fields."""
    return text.replace('"', '"""')


def _rows(text: str, delimiter: str) -> list[list[str]]:
    """Return the rows of a table; none if it cannot be read."""
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def _has_header(answer: str, columns: Sequence[str], separator: str) -> bool:
    """Return whether the first line has the column names, each with or without quotes."""
    pattern = separator.join(f'(?:{column}|"{column}")' for column in columns)
    return re.fullmatch(pattern, answer.split("\n")[0].strip()) is not None


def date_format_list(answer: str) -> bool:
    """Return whether the answer is a list of dates in Napoleon's life, written as YYYY-MM-DD, between commas."""
    return all(_is_in_napoleons_life(part.strip()) for part in answer.split(","))


def _is_in_napoleons_life(text: str) -> bool:
    """Return whether a text is an existing date of those years."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
        return False
    try:
        return NAPOLEON[0] <= date.fromisoformat(text).year <= NAPOLEON[1]
    except ValueError:
        return False


def repeat_change(answer: str, *, prompt_to_repeat: str) -> bool:
    """Return whether the answer is the request with another first word."""
    return answer != prompt_to_repeat and answer.split()[1:] == prompt_to_repeat.split()[1:]


def repeat_simple(answer: str) -> bool:
    """Return whether the answer is the one sentence, in any case."""
    return answer.strip().lower() == ONLY_THIS_SENTENCE


def repeat_span(answer: str, *, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """Return whether the answer is the words of the request from one index to another, both included."""
    return answer.lower().split() == prompt_to_repeat.lower().split()[n_start : n_end + 1]
