"""Names of roles: case, blanks and hyphens are ignored; ``roles`` adds names, and the suggested setting works."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.config.overrides.grammar import parse_value
from sft_cli.config.rules.data import check_source_keys
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.data.formats.roles import ROLE_NAMES
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from tests.data.helpers import ASK, SAY, convert, messages, summarize

CALL = '{"name": "f", "arguments": {"x": 1}}'


@given(
    st.sampled_from(sorted(ROLE_NAMES)),
    st.sampled_from(["-", " ", "_", ""]),
    st.sampled_from(["upper", "title", "lower"]),
)
def test_case_blanks_and_hyphens_are_ignored(name, joint, case):
    result = messages({"role": f" {getattr(name.replace('_', joint), case)()} ", "content": "x"}, SAY)
    assert result.messages[0].role == ROLE_NAMES[name]


@pytest.mark.parametrize("name", ["function-call", "tool-call", "fncall", "Function Call", "FunctionCall", "fn_call"])
def test_call_turn_under_each_of_its_names(name):
    turns = [
        {"from": "human", "value": "Q"},
        {"from": name, "value": CALL},
        {"from": "function-response", "value": "R"},
    ]
    result = convert({"conversations": [*turns, {"from": "gpt", "value": "A"}]})
    function = {"name": "f", "arguments": {"x": 1}}
    assert summarize(result) == [
        ("user", "Q"),
        ("assistant", "", {"tool_calls": [{"type": "function", "function": function}]}),
        ("tool", "R"),
        ("assistant", "A"),
    ]


def unknown(name, source="mine"):
    """Return the advice about a role."""
    with pytest.raises(RowError) as caught:
        messages({"role": name, "content": "x"}, SAY)
    assert caught.value.reason == "unknown role"
    return caught.value.fix


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("bot", "'data.mix.mine.roles={bot: assistant}', or with system, user, tool instead of assistant"),
        ("Customer", "'data.mix.mine.roles={customer: user}', or with system, assistant, tool instead of user"),
        ("asistant", "'data.mix.mine.roles={asistant: assistant}', or with system, user, tool instead of assistant"),
        (
            "narrator 2",
            "'data.mix.mine.roles={narrator 2: assistant}', or with system, user, tool instead of assistant",
        ),
        (
            "机器人",
            'in a recipe write roles: {"机器人": assistant} under data.mix.mine, or rename the role in the file',
        ),
        ("", "fill in the role"),
        (None, "fill in the role"),
    ],
)
def test_advice_about_an_unknown_role(name, fix):
    assert unknown(name) == fix


@given(st.text(st.sampled_from("abcXY12_-. ünull"), min_size=1, max_size=8))
def test_advice_about_a_role_can_be_pasted(name):
    try:
        messages({"role": name, "content": CALL}, SAY)
        return
    except RowError as error:
        fix = error.fix
    if pasted := re.match(r"'data\.mix\.mine\.roles=(\{.*\})'", fix):
        roles = parse_value(pasted.group(1))
        assert all(isinstance(key, str) for key in roles)
        row = {"messages": [{"role": name, "content": CALL}, SAY]}
        assert convert(row, roles=roles).messages[0].role in ("assistant", "user", "tool", "system")


def test_roles_of_a_source():
    row = {
        "messages": [
            {"role": "Bot", "content": "A"},
            {"role": "kid one", "content": "Q"},
            {"role": "USER", "content": "R"},
        ]
    }
    result = convert(row, roles={"bot": "assistant", "Kid-One": "user", "user": "system"})
    assert [m.role for m in result.messages] == ["assistant", "user", "system"]
    result = convert({"messages": [ASK, {"role": "act", "content": CALL}]}, roles={"act": "tool_call"})
    assert result.messages[1].extra["tool_calls"][0]["function"]["name"] == "f"


def test_roles_in_trees():
    replies = [{"text": "A", "role": "helper", "replies": []}]
    row = {"message_tree_id": "t", "prompt": {"text": "Q", "role": "prompter", "replies": replies}}
    assert [m.role for m in convert(row, roles={"helper": "assistant"}).messages] == ["user", "assistant"]


def test_roles_without_effect_are_refused():
    with pytest.raises(SftError) as caught:
        make_converter(SourceConfig(format="text", roles={"bot": "assistant"}), "mine", "\n", ())
    assert str(caught.value) == (
        "data.mix.mine.roles: the key has no effect: the format text does not read it\n"
        "  fix: remove data.mix.mine.roles"
    )


def test_invalid_role_is_a_config_error():
    data = DataConfig(mix={"mine": SourceConfig(roles={"bot": "asistant", "human": "user"})})
    (mistake,) = check_source_keys(data)
    assert mistake.problem == (
        "data.mix.mine.roles.bot is 'asistant'; it must be one of system, user, assistant, tool, tool_call"
    )
