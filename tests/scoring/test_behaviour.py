"""The drift card: each value by answers that have it and answers that do not, and real outputs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.scoring.behaviour import CARD_NAMES, behaviour_card, compare_cards, language_kept, loops
from sft_cli.scoring.diversity import distinct_share, self_bleu
from sft_cli.scoring.types import Answer, Item
from sft_cli.utils.words import normalized_words
from tests.scoring.items import HOSTILE, item


@pytest.fixture(autouse=True)
def no_languages(monkeypatch, request):
    """Leave out the language, whose model takes seconds to load, but in slow tests."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr("sft_cli.scoring.behaviour.find_spec", lambda module: None)


QUESTION = "What is the capital of the country of France?"


def card(*answers, question=QUESTION):
    """The card of texts, or answers, to one question."""
    made = [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers]
    return behaviour_card([item(question=question) for _ in made], made)


SHOWS = {
    "empty": (["", " \n", "<think>so</think>"], ["Paris."]),
    "role_tags": (
        ["Paris.<|im_end|>", "Paris.\nUser: Spain?", "Paris\n### Response:\nx", "Paris [/INST]", "Hi\n**Human:** a"],
        ["Paris.", "The user: a person", "## Response times", "See [1]"],
    ),
    "loops": (
        ["la " * 50, "It is Paris, the capital of France. " * 10, "ab" * 200, "1. Paris\n" * 12],
        ["It is Paris.", "-" * 200, "One, two, three, four, five. " + " ".join(map(str, range(200))), "no no no"],
    ),
    "echo": ([f"{QUESTION} It is Paris.", "what is the capital of the country of france"], ["What is it? Paris.", ""]),
    "opener_certainly": (
        ["Certainly! Paris.", "Of course, it is Paris.", "Sure, Paris", "**Absolutely!**"],
        ["Paris, certainly!", "Surety"],
    ),
    "opener_praise": (["Great question! Paris.", "That's a great question."], ["It is a great question."]),
    "opener_as_an_ai": (["As an AI language model, I ...", "I'm an AI"], ["Paris, as an AI said"]),
    "opener_here_is": (["Here is the answer:", "Here are five:"], ["Look here is it"]),
    "opener_sorry": (["I'm sorry, no.", "Sorry!", "Unfortunately, no"], ["He is sorry."]),
    "markdown": (
        ["# Title\nx", "**bold** x", "- a\n- b", "1. a\n2. b", "`code`", "| a | b |\n", "[a](http://b)"],
        ["Paris - the city", "2 * 3 * 4 = 24", "It is #1.", "a_b_c"],
    ),
    "refusals": (["I'm sorry, but I can't help with that."], ["I'm sorry to hear that. Rest."]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWS)
def test_a_value_is_the_share_of_the_answers_that_show_it(name):
    shown, not_shown = SHOWS[name]
    assert [text for text in shown if card(text)[name] != 1] == []
    assert [text for text in not_shown if card(text)[name] != 0] == []
    assert card(*shown, *not_shown)[name] == pytest.approx(len(shown) / (len(shown) + len(not_shown)))


def test_stops_and_lengths():
    found = card(Answer("one two", stopped=False), Answer("one two three four"))
    assert (found["stop_rate"], found["answer_words"]) == (0.5, 3)
    assert behaviour_card([], []) == {}
    with pytest.raises(ValueError, match="1 items and 0 answers"):
        behaviour_card([item()], [])


@pytest.mark.parametrize(("languages", "kept"), [("en en en de", 0.5), ("en - - de", None), ("de de en -", 1.0)])
def test_language_is_compared_where_both_are_certain(languages, kept, monkeypatch):
    detected = iter(None if name == "-" else name for name in languages.split())
    monkeypatch.setattr("sft_cli.scoring.behaviour._language", lambda text: next(detected))
    monkeypatch.setattr("sft_cli.scoring.behaviour.find_spec", lambda module: True)
    assert language_kept(["q", "q"], ["a", "a"]) == kept


@pytest.mark.slow
def test_language_is_kept_or_missing():
    german = "Die Hauptstadt von Frankreich ist die Stadt Paris, sie liegt an der Seine."
    assert card("It is the city of Paris, which lies on the river Seine.", german)["language_kept"] == 0.5
    assert "language_kept" not in card("42")


def test_language_is_missing_without_its_package():
    assert "language_kept" not in card("It is the city of Paris, which lies on the river Seine.")


def test_distinct_shares_by_hand():
    texts = [["a", "b", "a"], ["a", "b"]]
    assert distinct_share(texts, 1) == 2 / 5
    assert distinct_share(texts, 2) == 2 / 3
    assert distinct_share(texts, 4) is None


def test_equal_answers_have_a_self_bleu_of_one_and_one_answer_has_none():
    assert card(*["It is the city of Paris."] * 3)["self_bleu"] == pytest.approx(1)
    assert "self_bleu" not in card("Paris", "")


WORDS = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9), min_size=2, max_size=5)


@given(WORDS)
def test_self_bleu_equals_sacrebleu_with_all_others_as_references(texts):
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)
    joined = [" ".join(words) for words in texts]
    scores = [bleu.sentence_score(text, joined[:i] + joined[i + 1 :]).score for i, text in enumerate(joined)]
    expected = sum(scores) / len(scores) / 100
    # sacrebleu ends at an answer without any shared word; here it counts as half a match.
    if all(set(words) & set().union(*texts[:i], *texts[i + 1 :]) for i, words in enumerate(texts)):
        assert self_bleu(texts) == pytest.approx(expected)
    assert 0 < self_bleu(texts) <= 1 + 1e-9


@given(st.text(max_size=60))
def test_texts_of_few_characters_do_not_loop_unless_repeated(text):
    if len(set(normalized_words(text))) > 4:
        assert not loops(text[:50], normalized_words(text[:50])) or len(set(text)) < len(text) / 3


def test_hostile_answers_have_a_card():
    values = card(*HOSTILE)
    assert all(0 <= value <= 1 for name, value in values.items() if name != "answer_words")


def test_cards_are_compared_value_by_value():
    base, tuned = card("Paris.", "It is Paris."), card("Certainly! Paris.", "Paris.")
    change = compare_cards(base, tuned)["opener_certainly"]
    assert (change.base, change.tuned, change.change) == (0, 0.5, 0.5)
    assert compare_cards({"a": 1}, {"b": 1}) == {}


@pytest.mark.slow
@pytest.mark.material
def test_the_card_shows_a_constant_answer_and_a_real_model(material_dir):
    cards = {}
    for model in ("NullModel", "phi-2-sft"):
        text = (material_dir / "eval" / f"alpaca_eval_{model}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        items = [item(question=row["instruction"]) for row in rows]
        cards[model] = behaviour_card(items, [Answer(row["output_2"]) for row in rows])
    null, phi = cards["NullModel"], cards["phi-2-sft"]
    assert null["self_bleu"] == pytest.approx(1)
    assert null["distinct_2"] < 0.002
    assert null["markdown"] == 1
    assert 0.1 < phi["self_bleu"] < 0.4
    assert 0.4 < phi["distinct_2"] < 0.6
    assert 0.05 < phi["opener_certainly"] < 0.2
    assert phi["language_kept"] > 0.95
    assert phi["refusals"] < 0.02


def test_a_card_has_the_names_that_limits_may_have():
    numbers = range(4)
    items = [Item(str(n), ({"role": "user", "content": f"What is the capital of country {n}?"},)) for n in numbers]
    answers = [Answer(f"Certainly! The capital of that country is the town number {n}.") for n in numbers]
    card = behaviour_card(items, answers)
    assert {*card, "language_kept"} == set(CARD_NAMES)
