"""Message variants for templates, and reasoning that a prompt opens or closes."""

import pytest

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.masks import parity
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.template.message_variants import conversation_variants, with_tool_call_ids
from sft_cli.config.schema.data import DataConfig, Thinking
from sft_cli.errors import SftError
from sft_cli.types import Message
from tests.chat.helpers import problem, talk, text, trained

HEAD = "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}"
TAIL = "{{- '<|im_end|>' -}}{%- endfor -%}{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}"
CALLS = HEAD + "{{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}" + TAIL
STRICT = CALLS.replace(
    "CALL",
    "{{ raise_exception('ids have 9 characters') if c.id is undefined or c.id | length != 9 }}"
    "{{ c.type + ':' + c.function.name + ':' + c.id }}",
).replace("{{ m.content }}", "{{ m.tool_call_id + m.name + m.content if m.role == 'tool' else m.content }}")


def call(name="look", arguments=None, **further):
    return {"function": {"name": name, "arguments": arguments or {}}, **further}


def calls(*tool_calls):
    return Message("assistant", "", extra={"tool_calls": list(tool_calls)})


def test_calls_without_an_id_get_one_of_nine_letters_and_digits():
    """The id depends on the call and its position; results refer to their call by order or by its former id."""
    messages = (
        Message("user", "a"),
        calls(call("one", {"x": 1}), call("two", id="call_2")),
        Message("tool", "2", extra={"tool_call_id": "call_2"}),
        Message("tool", "1"),
        calls(call("one", {"x": 1}, id="abcdefgh1")),
        Message("tool", "3", extra={"name": "mine"}),
    )
    found = with_tool_call_ids(messages)
    first, second = found[1].extra["tool_calls"]
    assert [first["id"], second["id"]] == ["e5775d523", "28e3656ed"]
    assert first == {"id": first["id"], "type": "function", "function": {"name": "one", "arguments": {"x": 1}}}
    assert [message.extra for message in found[2:4]] == [
        {"tool_call_id": second["id"], "name": "two"},
        {"tool_call_id": first["id"], "name": "one"},
    ]
    assert found[4].extra["tool_calls"][0]["id"] == "abcdefgh1"
    assert found[5].extra == {"tool_call_id": "abcdefgh1", "name": "mine"}
    assert with_tool_call_ids(found) == found


def test_flat_calls_get_a_function():
    (found,) = with_tool_call_ids((calls({"name": "look", "arguments": "{}"}),))
    (tool_calls,) = found.extra["tool_calls"]
    assert tool_calls["function"] == {"name": "look", "arguments": "{}"}
    assert set(tool_calls) == {"id", "type", "function"}


def test_a_template_that_requires_ids_gets_them(make_builder, tokenizer):
    row = talk("U:a", calls(call()), "T:sunny", "A:b")
    expected = trained(tokenizer, make_builder(STRICT).build([row])[0])
    assert expected == ["function:look:93587651e<|im_end|>|b<|im_end|>"]
    assert "tool\n93587651elooksunny<|im_end|>" in text(tokenizer, make_builder(STRICT).build([row])[0].examples[0])
    assert parity.golden_prompt(make_builder(STRICT), row).messages[1]["tool_calls"][0]["id"] == "93587651e"


def test_accepted_ids_are_unchanged(make_builder, tokenizer):
    """Ids of any length are allowed if the template accepts them."""
    source = CALLS.replace("CALL", "{{ c.id }}:{{ c.function.name }}")
    assert trained(tokenizer, make_builder(source).build([talk("U:a", calls(call(id="call_abc")))])[0]) == [
        "call_abc:look<|im_end|>"
    ]


def contents(places, *turns):
    """Return content and other keys of the last message in each variant, and the remarks."""
    found = conversation_variants(talk("U:a", *turns), lambda: places)
    return [
        (form.conversation.messages[-1].content, form.conversation.messages[-1].extra, form.remarks) for form in found
    ]


def test_a_plain_conversation_has_one_variant():
    assert contents((), "A:b") == [("b", {}, ())]


def test_arguments_are_tried_as_objects_first():
    """Servers parse the text that clients send before any template sees it."""
    for given in ({"a": 1}, '{"a": 1}'):
        found = [
            (extra["tool_calls"][0]["function"]["arguments"], "id" in extra["tool_calls"][0], remarks)
            for _, extra, remarks in contents((), calls(call(arguments=given)))
        ]
        text = ("arguments_as_text",)
        assert found == [
            ({"a": 1}, False, ()), ('{"a": 1}', False, text), ({"a": 1}, True, ()), ('{"a": 1}', True, text),
        ]  # fmt: skip


@pytest.mark.parametrize("given", ["tags", "reasoning_content", "thinking", "both"])
def test_reasoning_is_moved_to_the_place_that_the_template_reads(given):
    plain = Message("assistant", "b", extra={"thinking" if given == "both" else given: "x"})
    tags = Message("assistant", "<think>x</think>b", extra={"thinking": "x"} if given == "both" else {})
    message = tags if given in ("tags", "both") else plain
    assert contents(("reasoning",), message) == [("b", {"reasoning": "x"}, ())]
    assert contents(("parts",), message) == [("b", {"parts": "x"}, ())]
    loose = "<think>x</think>b" if given in ("tags", "both") else "<think>\nx\n</think>\n\nb"
    for places, remarks in ((("content",), ()), ((), ("reasoning_in_text",))):
        ((content, _, found),) = contents(places, message)
        assert (content, found) == (loose, remarks)


@pytest.mark.parametrize("blank", [None, "", "  \n"])
def test_blank_reasoning_is_dropped(blank):
    assert contents((), Message("assistant", "b", extra={"reasoning": blank})) == [("b", {}, ())]


def test_the_first_error_is_reported(make_builder):
    source = CALLS.replace("CALL", "{{ raise_exception('no ' + c.function.arguments | string) }}")
    assert problem(make_builder(source).build([talk("U:a", calls(call(arguments={"a": 1})))])[0], "mine") == (
        "the template refuses it: no {'a': 1}"
    )


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_rendered_where_the_template_reads_it(make_builder, tokenizer, key):
    """Reasoning goes into the content if the template reads no key, else under the key that it reads."""
    row = talk("U:a", Message("assistant", "b", extra={key: "why"}))
    assert trained(tokenizer, make_builder().build([row])[0]) == ["<think>\nwhy\n</think>\n\nb<|im_end|>"]
    known = HEAD + "{{ ('<' + m.reasoning + '>' if m.reasoning else '') + m.content }}" + TAIL
    assert trained(tokenizer, make_builder(known).build([row])[0]) == ["<why>b<|im_end|>"]


THOUGHT = "<think>\nwhy\n</think>\n\n"
FORGETS = HEAD + "{{ m.content.split('</think>')[-1] }}" + TAIL
OPENS = FORGETS.replace("assistant\\n' if", "assistant\\n<think>\\n' if")
CLOSES = FORGETS.replace("assistant\\n' if", "assistant\\n<think>\\n</think>' if")
SWITCH = FORGETS.replace(
    "assistant\\n' if", "assistant\\n' + ('<think>\\n' if enable_thinking else '<think></think>') if"
)


def test_a_prompt_that_opens_reasoning(make_builder, tokenizer):
    """DeepSeek R1: the prompt as served, which already contains the tag, then the text of the answer."""
    outcome = make_builder(OPENS).build([talk("U:1", f"A:{THOUGHT}a", "U:2", f"A:{THOUGHT}b")])[0]
    assert trained(tokenizer, outcome) == ["why\n</think>\n\na<|im_end|>", "why\n</think>\n\nb<|im_end|>"]
    assert text(tokenizer, outcome.examples[1]) == (
        "<|im_start|>user\n1<|im_end|><|im_start|>assistant\n\n\na<|im_end|>"
        "<|im_start|>user\n2<|im_end|><|im_start|>assistant\n<think>\nwhy\n</think>\n\nb<|im_end|>"
    )
    make_builder(OPENS).template_check.check()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>why</think>b", "why</think>b"),
        ("why\n</think>\n\nb", "why\n</think>\n\nb"),
        ("<think>\n\nwhy </think> b", "why </think> b"),
        ("<think>\nwhy\n</think>\n\n\n  b", "why\n</think>\n\n\n  b"),
    ],
)
def test_the_text_after_a_prompt_that_opens_reasoning(make_builder, tokenizer, answer, expected):
    assert trained(tokenizer, make_builder(OPENS).build([talk("U:1", f"A:{answer}")])[0]) == [f"{expected}<|im_end|>"]


def test_reasoning_that_the_prompt_opens_can_be_excluded_from_the_loss(make_builder, tokenizer):
    outcome = make_builder(OPENS, train_on_reasoning=False).build([talk("U:1", f"A:{THOUGHT}b")])[0]
    assert trained(tokenizer, outcome) == ["\n\nb<|im_end|>"]


def test_a_trimming_template_that_opens_the_reasoning(make_builder, tokenizer):
    source = OPENS.replace("[-1] }}", "[-1] | trim }}")
    assert trained(tokenizer, make_builder(source).build([talk("U:1", f"A:{THOUGHT}b")])[0]) == [
        "why\n</think>\n\nb<|im_end|>"
    ]


def test_an_answer_without_reasoning_is_rejected_if_the_prompt_opens_it(make_builder):
    assert problem(make_builder(OPENS).build([talk("U:1", "A:b")])[0], "mine") == (
        "the prompt opens the reasoning of message 2 (assistant), which has none"
        " (a variable of the template may close it, such as template.variables={enable_thinking: false})"
    )


def test_a_prompt_that_closes_reasoning(make_builder, tokenizer):
    outcome = make_builder(CLOSES).build([talk("U:1", "A:a", "U:2", "A:b")])[0]
    assert trained(tokenizer, outcome) == ["a<|im_end|>", "b<|im_end|>"]
    assert text(tokenizer, outcome.examples[1]).endswith(
        "assistant\na<|im_end|><|im_start|>user\n2<|im_end|><|im_start|>assistant\n<think>\n</think>b<|im_end|>"
    )
    assert problem(make_builder(CLOSES).build([talk("U:1", f"A:{THOUGHT}b")])[0], "mine") == (
        "the prompt closes the reasoning before message 2 (assistant), which reasons (data.thinking=strip leaves that"
        " out; a variable of the template may open it, such as template.variables={enable_thinking: true})"
    )
    stripped = make_builder(CLOSES, thinking=Thinking.strip).build([talk("U:1", f"A:{THOUGHT}b")])[0]
    assert trained(tokenizer, stripped) == ["b<|im_end|>"]


def test_a_prompt_that_opens_reasoning_which_the_text_closes(make_builder, tokenizer):
    """DeepSeek V3.1 with thinking: after the prompt, the text closes a block that the prompt left empty."""
    source = FORGETS.replace("assistant\\n' if", "assistant\\n<think>' if").replace(
        "{{ m.content", "{{ ('<think></think>' if m.role == 'assistant' else '') + m.content"
    )
    row = talk("U:1", f"A:{THOUGHT}b")
    assert trained(tokenizer, make_builder(source).build([row])[0]) == ["\nwhy\n</think>\n\nb<|im_end|>"]
    assert trained(tokenizer, make_builder(source).build([talk("U:1", "A:b")])[0]) == ["</think>b<|im_end|>"]


@pytest.mark.parametrize(("variable", "answer"), [(True, f"{THOUGHT}b"), (False, "b")])
def test_golden_prompts_include_the_variables(tokenizer, tmp_path, variable, answer):
    template = ChatTemplate(SWITCH, tokenizer.special_tokens, "mine", variables={"enable_thinking": variable})
    builder = ExampleBuilder(tokenizer, template, DataConfig(), 1000)
    builder.template_check.check()
    golden = parity.golden_prompt(builder, talk("U:a", f"A:{answer}"))
    assert golden.variables == {"enable_thinking": variable}
    parity.save_golden_prompts([golden], tmp_path / "golden.json")
    assert parity.load_golden_prompts(tmp_path / "golden.json") == [golden]
    tokenizer.with_template(SWITCH).save(tmp_path / "server")
    assert parity.check_parity(tmp_path / "server", [golden]) == 1
    golden.variables["enable_thinking"] = not variable
    with pytest.raises(SftError, match="ids that differ from the trained ones"):
        parity.check_parity(tmp_path / "server", [golden])


def test_a_template_only_for_tools_is_not_rejected(make_builder, tokenizer):
    """Models have such templates for requests with tools; each row without tools is rejected with the reason."""
    source = "{% for t in tools %}{{ t | tojson }}{% endfor %}" + CALLS.replace("CALL", "{{ c.function.name }}")
    make_builder(source).template_check.check()
    assert problem(make_builder(source).build([talk("U:a", "A:b")])[0], "mine") == (
        "the template fails on it: TypeError: 'NoneType' object is not iterable"
    )
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    assert trained(tokenizer, make_builder(source).build([talk("U:a", calls(call()), tools=(tool,))])[0]) == [
        "look<|im_end|>"
    ]
