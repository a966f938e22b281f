"""IFBench ``words:``: letters, sounds, lengths and places of words."""

import string
from collections import Counter
from itertools import pairwise

from sft_cli.scoring.instructions.text import (
    STRIPPED,
    count_syllables,
    punkt_sentences,
    starts_with_verb,
    without_punctuation,
    word_tokens,
)

CONSONANTS = set("bcdfghjklmnpqrstvwxyz")
NUM_PALINDROMES, MIN_PALINDROME = 10, 5
"""How many palindromes are wanted, and the number of characters of the shortest one that counts."""
MAX_VOWELS = 3
"""The number of different vowels that ``vowel`` allows."""


def alphabet(answer: str) -> bool:
    """Return whether each word starts with the letter after that of the word before it; a follows z."""
    words = without_punctuation(answer).lower().split()
    letters = string.ascii_lowercase
    if not words or words[0][0] not in letters:
        return False
    start = letters.index(words[0][0])
    return all(word[0] == letters[(start + place) % 26] for place, word in enumerate(words))


def vowel(answer: str) -> bool:
    """Return whether the answer is one line with at most three different vowels."""
    line = answer.strip().lower()
    return "\n" not in line and len(set(line) & set("aeiou")) <= MAX_VOWELS


def consonants(answer: str) -> bool:
    """Return whether each word has two consonants in a row; y is one."""
    return all(
        any(one in CONSONANTS and other in CONSONANTS for one, other in pairwise(word))
        for word in answer.lower().split()
    )


def palindrome(answer: str) -> bool:
    """Return whether there are ten palindromes of at least five characters; the same one may repeat."""
    words = without_punctuation(answer).lower().split()
    return sum(1 for word in words if len(word) >= MIN_PALINDROME and word == word[::-1]) >= NUM_PALINDROMES


def prime_lengths(answer: str) -> bool:
    """Return whether the number of characters of each word is prime."""
    return all(_is_prime(len(word)) for word in without_punctuation(answer).split())


def _is_prime(number: int) -> bool:
    """Return whether a number is prime; as published, none above 97 is."""
    return 2 <= number <= 97 and all(number % factor for factor in range(2, int(number**0.5) + 1))


def start_verb(answer: str) -> bool:
    """Return whether the answer starts with a verb."""
    return starts_with_verb(answer)


def repeats(answer: str, *, small_n: int) -> bool:
    """Return whether no word occurs more than so many times."""
    return all(count <= small_n for count in Counter(without_punctuation(answer).lower().split()).values())


def odd_even_syllables(answer: str) -> bool:
    """Return whether words with odd and even numbers of syllables alternate."""
    odd = [count_syllables(word) % 2 for word in without_punctuation(answer).lower().split()]
    return all(one != other for one, other in pairwise(odd))


def no_consecutive(answer: str) -> bool:
    """Return whether no two words in a row have the same first letter."""
    return all(one[0] != other[0] for one, other in pairwise(without_punctuation(answer).lower().split()))


def last_first(answer: str) -> bool:
    """Return whether the last word of each sentence is the first word of the next one."""
    for one, other in pairwise(punkt_sentences(answer)):
        last, first = one.rstrip(STRIPPED).split()[-1:], other.lstrip(STRIPPED).split()[:1]
        if not last or not first or last[0].lower() != first[0].lower():
            return False
    return True


def paragraph_last_first(answer: str) -> bool:
    """Return whether the last word of each line is its first word."""
    lines = (line.strip().lower().strip(STRIPPED).split() for line in answer.split("\n"))
    return all(words[0] == words[-1] for words in lines if words)


def keywords_specific_position(answer: str, *, keyword: str, n: int, m: int) -> bool:
    """Return whether a keyword is the m-th word of the n-th sentence."""
    sentences = punkt_sentences(answer)
    if not 1 <= n <= len(sentences):
        return False
    words = [token for token in word_tokens(sentences[n - 1]) if any(map(str.isalnum, token))]
    return 1 <= m <= len(words) and words[m - 1].lower() == keyword.strip().lower()


def words_position(answer: str, *, keyword: str) -> bool:
    """Return whether a keyword is the second and the second to last word; a mark at the end does not count."""
    tokens = [token.lower() for token in word_tokens(answer)]
    end = -3 if tokens and tokens[-1] in string.punctuation else -2
    if len(tokens) < -end:
        return False
    return tokens[1] == tokens[end] == keyword.strip().lower()
