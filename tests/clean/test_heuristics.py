"""Tables of degenerate answers, and of good answers that resemble them."""

import json
from dataclasses import replace

import pytest

from sft_cli.clean import heuristics
from sft_cli.config.schema.clean import Action, HeuristicsConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message
from tests.clean.helpers import chat, document, drop_reasons, run_filter

STORY = (
    "The old town lies on a hill above the river. Its walls were built long ago, and most of them still stand. In "
    "spring the gardens below are full of flowers, while merchants from the valley sell bread and cheese near the "
    "gate. Nobody remembers who planted the lime trees, but children climb them every summer. Later the leaves turn "
    "yellow."
)
LOOP = "The answer is that it depends on the weather. " * 8
CALL = {"function": {"name": "f", "arguments": {}}}

BAD = [
    pytest.param("hi", "", "empty answer", "there is no text", id="empty"),
    pytest.param("hi", " \n", "empty answer", "there is no text", id="blank"),
    pytest.param(
        "Tell me about the old town of Bern",
        "tell me about the old town of Bern!",
        "repeats the prompt",
        "100% of its words are the prompt's",
        id="echo",
    ),
    pytest.param("hi", "Here:\n```python\n```\n", "empty code block", "a code block is empty", id="empty-code"),
    pytest.param("hi", "Here:\n```\n\n  ```", "empty code block", "a code block is empty", id="blank-code"),
    pytest.param("hi", LOOP, "repeats itself", "88% of its 72 words are in repeated pieces", id="loop"),
    pytest.param(
        "hi",
        f"{LOOP}\n```\nx = 1\n```",
        "repeats itself",
        "88% of its 72 words are in repeated pieces",
        id="loop-and-code",
    ),
    pytest.param("hi", "Here:\n```python\nx = 1\n", "cut off", "a code block is not closed", id="open-fence"),
    pytest.param(
        "hi",
        f"{STORY} And then, when the evening came, the king went to",
        "cut off",
        "it ends with 'to'",
        id="mid-sentence",
    ),
    pytest.param(
        "hi", f"{STORY} And then, when the evening came, he said,", "cut off", "it ends with 'said,'", id="comma"
    ),
    pytest.param(
        "hi",
        "As an AI language model, I cannot feel.",
        "speaks as another model",
        "it says 'As an AI language model'",
        id="teacher",
    ),
    pytest.param(
        "hi",
        "Sorry, I'm an AI language model and cannot see.",
        "speaks as another model",
        '''it says "I'm an AI language model"''',
        id="i-am",
    ),
    pytest.param(
        "hi", "I am ChatGPT, at your service.", "speaks as another model", "it says 'I am ChatGPT'", id="chatgpt"
    ),
    pytest.param(
        "hi", "I was trained by OpenAI.", "speaks as another model", "it says 'I was trained by OpenAI'", id="openai"
    ),
    pytest.param(
        "hi", "As of my last update, no.", "speaks as another model", "it says 'As of my last update'", id="update"
    ),
    pytest.param(
        "hi",
        "I'm sorry, but I can't assist with that.",
        "refuses",
        '''it begins "I'm sorry, but I can't assist"''',
        id="sorry",
    ),
    pytest.param(
        "hi",
        "Unfortunately, I am unable to provide it.",
        "refuses",
        "it begins 'Unfortunately, I am unable to provide'",
        id="unable",
    ),
    pytest.param("hi", "I cannot help with this request.", "refuses", "it begins 'I cannot help'", id="cannot"),
]

GOOD = [
    pytest.param("hi", "7", id="number"),
    pytest.param("capital?", "Paris", id="word"),
    pytest.param("hi", "```python\nx = 1\n```", id="closed-fence"),
    pytest.param("hi", "~~~\ntext\n~~~\n\nDone", id="tildes"),
    pytest.param("hi", "Use ``` to open a block", id="fence-in-prose"),
    pytest.param("hi", "def f(x):\n    return x + 1", id="code"),
    pytest.param("hi", f"{STORY}\n- one\n- two\n- three things that we need to do before the end of it", id="list"),
    pytest.param("hi", f"{STORY}\n\nBest regards,\nthe mayor of the town", id="letter"),
    pytest.param("hi", f"{STORY} So the sum of both of these long numbers is x = 4 + y", id="formula"),
    pytest.param("hi", STORY, id="prose"),
    pytest.param("hi", f'{STORY} It is (really) "so"', id="quote"),
    pytest.param("hi", STORY[:100], id="short-prose"),
    pytest.param("hi", "ha ha ha ha ha ha ha ha ha ha", id="short-repetition"),
    pytest.param("hi", "<tr><td>1</td></tr>\n" * 30, id="table-of-html"),
    pytest.param("Correct: he go", "he goes", id="answer-of-few-words"),
    pytest.param(
        "Repeat after me: yes we can",
        "Repeat after me: yes we can. And this is what comes after it.",
        id="prompt-and-more",
    ),
    pytest.param("hi", "I am Vicuna, a language model trained by researchers.", id="own-identity"),
    pytest.param("hi", "As an AI assistant developed by {{author}}, I got the name {{name}}.", id="own-identity-as"),
    pytest.param("hi", "GPT-3 is a program developed by OpenAI.", id="talk-of-openai"),
    pytest.param("hi", "A large language model predicts tokens.", id="talk-of-models"),
    pytest.param("hi", "I can't wait to help you!", id="no-refusal"),
    pytest.param("hi", "Sorry for the delay. You cannot divide by zero.", id="sorry-but-answers"),
]
ALL = HeuristicsConfig(refusals=True)


@pytest.mark.parametrize(("question", "answer", "reason", "detail"), BAD)
def test_degenerate_answer_is_dropped_with_its_reason(question, answer, reason, detail):
    [result], _ = run_filter(heuristics.find_heuristics, [chat(question, answer)], ALL)
    assert (result.reason, result.detail) == (reason, detail)


@pytest.mark.parametrize(("question", "answer"), GOOD)
def test_good_answer_is_kept(question, answer):
    assert run_filter(heuristics.find_heuristics, [chat(question, answer)], ALL)[0] == []


@pytest.mark.parametrize("rule", heuristics.RULES)
def test_each_rule_can_be_disabled(rule):
    reason = heuristics.RULES[rule][0]
    rows = [chat(case.values[0], case.values[1]) for case in BAD]
    wanted = {i: case.values[2] for i, case in enumerate(BAD)}
    result, report = run_filter(heuristics.find_heuristics, rows, replace(ALL, **{rule: False}))
    assert drop_reasons(result) == {i: why for i, why in wanted.items() if why != reason}
    assert rule not in report["rules"]
    alone = HeuristicsConfig(**{other: other == rule for other in heuristics.RULES})
    result, report = run_filter(heuristics.find_heuristics, rows, alone)
    assert drop_reasons(result) == {i: why for i, why in wanted.items() if why == reason}
    assert report == {"rules": {rule: len(result)}}


def test_repeated_share_ignores_first_occurrences():
    assert heuristics.repeated_share(list("abcd")) == 0
    assert heuristics.repeated_share(list("abcdabcd")) == 0.5
    assert heuristics.repeated_share(list("abcdeabcd")) == 4 / 9
    assert heuristics.repeated_share(["a"] * 8) == 7 / 8
    assert heuristics.repeated_share([]) == 0
    loose = HeuristicsConfig(max_repeated_share=0.9)
    assert run_filter(heuristics.find_heuristics, [chat("hi", LOOP)], loose)[0] == []


def test_heuristics_judge_trained_answers_only():
    middle = chat("hi", "", "and?", "Good.")
    assert drop_reasons(run_filter(heuristics.find_heuristics, [middle], ALL)[0]) == {0: "empty answer"}
    muted = Conversation((middle.messages[0], Message("assistant", "", 0.0), *middle.messages[2:]), "a:1", "a")
    calling = Conversation((Message("user", "x"), Message("assistant", "", extra={"tool_calls": [CALL]})), "a:1", "a")
    asking = chat("As an AI language model, who are you?", "A helper.")
    assert run_filter(heuristics.find_heuristics, [muted, calling, asking, document(LOOP)], ALL)[0] == []


def test_action_report_keeps_rows_with_a_detail():
    [result], report = run_filter(
        heuristics.find_heuristics, [chat("hi", LOOP)], HeuristicsConfig(action=Action.report)
    )
    assert result[:4] == (0, None, "repeats itself: 88% of its 72 words are in repeated pieces", 63 / 72)
    assert report["rules"]["repetition"] == 1


def test_all_rules_off_is_a_mistake():
    with pytest.raises(SftError) as error:
        heuristics.find_heuristics(None, HeuristicsConfig(**dict.fromkeys(heuristics.RULES, False)))  # pyright: ignore
    assert str(error.value) == (
        "clean.heuristics: every rule is switched off, so the filter would find nothing\n"
        "  fix: clean.heuristics.empty=true, or remove heuristics from clean.steps"
    )


@pytest.mark.material
def test_heuristics_keep_good_answers(material_dir):
    """GSM8K's solutions repeat their phrases and CodeAlpaca's are code: neither is degenerate."""
    counts = {}
    for name in ("gsm_8k_train", "code_alpaca_2k"):
        rows = json.loads((material_dir / "data" / "alpaca" / f"{name}.json").read_text())
        rows = [chat(f"{row['instruction']}\n\n{row['input']}", row["output"]) for row in rows]
        counts[name] = {
            rule: n for rule, n in run_filter(heuristics.find_heuristics, rows, ALL)[1]["rules"].items() if n
        }
    assert counts == {"gsm_8k_train": {}, "code_alpaca_2k": {"empty": 2}}
