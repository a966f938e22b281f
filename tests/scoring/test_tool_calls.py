"""Tool calls: forms of text, accepted values by hand, and every item of BFCL rendered in every form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.errors import SftError
from sft_cli.scoring.tools.check_calls import check_calls
from sft_cli.scoring.tools.read_calls import ToolCall, calls_from_messages, read_calls
from tests.scoring.items import verdict

NAMES = {"add", "math.sum"}
ADD = ToolCall("add", {"a": 1, "b": "x"})
SUM = ToolCall("math.sum", {"n": [1, 2.5, True, None]})
READ = [
    ("add(a=1, b='x')", [ADD]),
    ("[add(a=1, b='x'), math.sum(n=[1, 2.5, True, None])]", [ADD, SUM]),
    ("[math.sum(n=[1, 2.5, true, null])]", [SUM]),
    ("math.sum(n=(1, 2.5, True, None))", [SUM]),
    ('{"name": "add", "arguments": {"a": 1, "b": "x"}}', [ADD]),
    ('{"name": "add", "parameters": {"a": 1, "b": "x"}}', [ADD]),
    ('[{"add": {"a": 1, "b": "x"}}, {"math.sum": {"n": [1, 2.5, true, null]}}]', [ADD, SUM]),
    ('{"tool_calls": [{"function": {"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": \\"x\\"}"}}]}', [ADD]),
    ('{"name": "add", "arguments": {"a": 1, "b": "x"}}; {"math.sum": {"n": [1, 2.5, true, null]}}', [ADD, SUM]),
    ('Sure.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "x"}}\n</tool_call>', [ADD]),
    ('<tool_call>{"name": "add", "arguments": {"a": 1, "b": "x"}}', [ADD]),
    ('[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1, "b": "x"}}]', [ADD]),
    ('<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": "x"}}', [ADD]),
    ('<function=add>{"a": 1, "b": "x"}</function>', [ADD]),
    ("<function=add>\n<parameter=a>\n1\n</parameter><parameter=b>x</parameter></function></tool_call>", [ADD]),
    ("I call:\n```python\nadd(a=1, b='x')\n```\nDone.", [ADD]),
    ('```json\n[{"name": "add", "arguments": {"a": 1, "b": "x"}}]\n```', [ADD]),
    ("I will add them:\nadd(a=1, b='x')", [ADD]),
    ("add(1, 'x')", [ToolCall("add", {"(positional)": [1, "x"]})]),
    ("add(a=-1.5e3, b=f(2) + 1)", [ToolCall("add", {"a": -1500.0, "b": "f(2) + 1"})]),
    ("add(**{'a': 1, 'b': 'x'})", [ADD]),
    ("add()", [ToolCall("add", {})]),
    (r"add(a=1, b='\d')", [ToolCall("add", {"a": 1, "b": r"\d"})]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "calls"), READ)
def test_calls_are_read_in_every_form(text, calls):
    read = read_calls(text, NAMES)
    assert (read.kind, list(read.calls)) == ("called", calls)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("I cannot do that with these tools.", "abstained"),
        ("[]", "abstained"),
        ("You could add (or sum) them yourself.", "unparsable"),
        ("Please add 1 and 2.", "abstained"),
        ("The result is f(x) = 2x.", "abstained"),
        ('{"answer": 5}', "abstained"),
        ('<tool_call>{"name": "add", "arguments": {"a": 1</tool_call>', "unparsable"),
        ("<tool_call>none of them fits</tool_call>", "unparsable"),
        ("[add(a=1, b=", "unparsable"),
        ("add(a=1) is what I would call", "unparsable"),
        ('{"name": "add", "arguments": "{broken"}', "unparsable"),
        ("x" * 200_000, "abstained"),
        ("x" * 200_000 + " add(a=1)", "unparsable"),
        ("[" * 50_000, "abstained"),
    ],
)
def test_abstained_and_unparsable_are_told_apart(text, kind):
    assert read_calls(text, NAMES).kind == kind


def test_structured_calls():
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": "x"}'}}
    assert calls_from_messages([call, {"name": "add", "arguments": {"a": 1, "b": "x"}}]) == (ADD, ADD)
    with pytest.raises(ValueError, match="the object names no function"):
        calls_from_messages([{"id": 5}])


FUNCTION = {
    "name": "f.g",
    "parameters": {
        "type": "dict",
        "properties": {
            "n": {"type": "integer"},
            "x": {"type": "float"},
            "s": {"type": "string"},
            "l": {"type": "array", "items": {"type": "string"}},
            "d": {"type": "dict"},
            "t": {"type": "boolean"},
        },
        "required": ["n"],
    },
}


@pytest.mark.parametrize(
    ("arguments", "accepted", "right"),
    [
        ({"n": 5}, {"n": [5]}, True),
        ({"n": 5.0}, {"n": [5]}, False),
        ({"n": True}, {"n": [1]}, False),
        ({"n": "5"}, {"n": [5]}, False),
        ({"n": "5"}, {"n": ["5"]}, True),
        ({"n": 5, "x": 2}, {"n": [5], "x": [2.0]}, True),
        ({"n": 5, "x": 2.0}, {"n": [5], "x": [2]}, True),
        ({"n": 5, "s": "New-York, NY."}, {"n": [5], "s": ["new york ny"]}, True),
        ({"n": 5, "s": "New York"}, {"n": [5], "s": ["NYC", "New York"]}, True),
        ({"n": 5, "s": "Boston"}, {"n": [5], "s": ["New York"]}, False),
        ({"n": 5, "s": ""}, {"n": [5], "s": ["a", ""]}, True),
        ({"n": 5}, {"n": [5], "s": ["a", ""]}, True),
        ({"n": 5}, {"n": [5], "s": ["a"]}, False),
        ({}, {"n": [5, ""]}, False),
        ({"n": 5, "other": 1}, {"n": [5]}, False),
        ({"n": 5, "s": "a"}, {"n": [5]}, False),
        ({"n": 5, "l": ["A b", "c"]}, {"n": [5], "l": [["ab", "C"]]}, True),
        ({"n": 5, "l": ["c", "ab"]}, {"n": [5], "l": [["ab", "c"]]}, False),
        ({"n": 5, "l": []}, {"n": [5], "l": [["ab"]]}, False),
        ({"n": 5, "l": []}, {"n": [5], "l": [[]]}, True),
        ({"n": 5, "d": {"k": "A"}}, {"n": [5], "d": [{"k": ["a", "b"]}]}, True),
        ({"n": 5, "d": {"k": "c"}}, {"n": [5], "d": [{"k": ["a", "b"]}]}, False),
        ({"n": 5, "d": {}}, {"n": [5], "d": [{"k": ["a", ""]}]}, True),
        ({"n": 5, "d": {}}, {"n": [5], "d": [{"k": ["a"]}]}, False),
        ({"n": 5, "d": {"k": "a", "m": 1}}, {"n": [5], "d": [{"k": ["a"]}]}, False),
        ({"n": 5, "d": "x"}, {"n": [5], "d": [{"k": ["a"]}]}, False),
        ({"n": 5, "l": [{"k": 1}, {"k": 2}]}, {"n": [5], "l": [[{"k": [1]}, {"k": [2]}]]}, True),
        ({"n": 5, "l": [{"k": 2}, {"k": 1}]}, {"n": [5], "l": [[{"k": [1]}, {"k": [2]}]]}, False),
        ({"n": 5, "t": True}, {"n": [5], "t": [True]}, True),
        ({"n": 5, "t": 1}, {"n": [5], "t": [True]}, False),
        ({"n": 5, "t": "true"}, {"n": [5], "t": [True]}, False),
    ],
)
def test_accepted_values(arguments, accepted, right):
    for name in ("f.g", "f_g"):
        reason = check_calls([ToolCall(name, arguments)], [{"f.g": accepted}], [FUNCTION])
        assert (reason is None) == right, reason
    assert check_calls([ToolCall("f", arguments)], [{"f.g": accepted}], [FUNCTION]) == "calls f, expected f.g"


def test_the_number_of_calls_counts_and_one_call_answers_one():
    one = ToolCall("f.g", {"n": 1})
    assert check_calls([one], [{"f.g": {"n": [1]}}] * 2, [FUNCTION]) == "1 call, expected 2"
    assert check_calls([one, one], [{"f.g": {"n": [1]}}, {"f.g": {"n": [2]}}], [FUNCTION]) == "f.g: n is 1"
    # The first accepted call takes either; a greedy match would give it the only call that the second takes.
    two = ToolCall("f.g", {"n": 2})
    assert check_calls([one, two], [{"f.g": {"n": [1, 2]}}, {"f.g": {"n": [1]}}], [FUNCTION]) is None


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.randoms(),
)
def test_the_order_of_calls_does_not_count(numbers, accepted, shuffler):
    calls = [ToolCall("f.g", {"n": number}) for number in numbers]
    wanted = [{"f.g": {"n": [number, 3]}} for number in accepted]
    before = check_calls(calls, wanted, [FUNCTION]) is None
    shuffler.shuffle(calls)
    shuffler.shuffle(wanted)
    assert (check_calls(calls, wanted, [FUNCTION]) is None) == before


def test_scores_and_labels():
    fields = {"function": [FUNCTION], "ground_truth": [{"f.g": {"n": [5]}}]}
    assert verdict("tool_calls", "f.g(n=5)", **fields).scores == {"tool_call": 1, "abstained": 0, "unparsable": 0}
    wrong = verdict("tool_calls", "f.g(n=6)", **fields)
    assert (wrong.scores["tool_call"], wrong.label, wrong.reason) == (0, "called", "f.g: n is 6")
    assert verdict("tool_calls", "No.", **fields).scores == {"tool_call": 0, "abstained": 1, "unparsable": 0}
    assert verdict("tool_calls", "<think>f.g(n=6)</think>f.g(n=5)", **fields).scores["tool_call"] == 1
    openai = {"function": [{"type": "function", "function": FUNCTION}], "ground_truth": fields["ground_truth"]}
    assert verdict("tool_calls", "f_g(n=5)", **openai).scores["tool_call"] == 1


@pytest.mark.parametrize(
    ("answer", "label", "abstained"),
    [
        ("None of the functions fits.", "abstained", 1),
        ("f.g(n=5)", "called", 0),
        ("<tool_call>{f.g", "unparsable", 0),
        ("", "empty", 0),
    ],
)
def test_only_an_answer_in_words_abstains(answer, label, abstained):
    found = verdict("tool_abstention", answer, function=[FUNCTION])
    assert (found.label, found.scores["abstained"]) == (label, abstained)


@pytest.mark.parametrize(
    "fields", [{}, {"function": [{}]}, {"function": [FUNCTION]}, {"function": [FUNCTION], "ground_truth": [{}]}]
)
def test_an_item_without_functions_or_accepted_calls_is_refused(fields):
    with pytest.raises(SftError, match="item 1: "):
        verdict("tool_calls", "f.g(n=5)", **fields)
