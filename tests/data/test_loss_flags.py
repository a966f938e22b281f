"""Flags of other tools for the training of a message: applied or refused, never ignored."""

import pytest

from sft_cli.data.row_errors import RowError
from tests.data.helpers import ASK, convert, messages, summarize


@pytest.mark.parametrize(
    ("flags", "weight"),
    [
        # OpenAI, Mistral; LLaMA-Factory; ms-swift
        ({"weight": 0}, 0), ({"weight": 1}, 1), ({"loss_weight": 0.25}, 0.25), ({"loss_scale": 0.3}, 0.3),
        # ms-swift and XTuner; axolotl, both names; its ShareGPT; slime
        ({"loss": False}, 0), ({"loss": True}, 1), ({"loss": None}, 1), ({"loss": 0.5}, 0.5),
        ({"train": False}, 0), ({"train": True}, 1), ({"training": False}, 0), ({"train_on_turn": False}, 0),
        ({"loss_mask": 0}, 0), ({"loss_mask": 1}, 1), ({"step_loss_mask": 0}, 0),
        # torchtune
        ({"masked": True}, 0), ({"masked": False}, 1), ({"mask": True}, 0), ({"mask": False}, 1), ({"masked": 1}, 0),
        # other spellings, and text as CSV files hold it
        ({"trainOnTurn": False}, 0), ({"Train-On-Turn": False}, 0), ({"isTrained": False}, 0), ({"LOSS": False}, 0),
        ({"train": "false"}, 0), ({"loss": "True"}, 1), ({"masked": "no"}, 1),
        # several that agree
        ({"train": True, "weight": 0.5}, 0.5), ({"weight": 0.5, "loss": True}, 0.5),
        ({"train": False, "masked": True, "weight": 0}, 0), ({"weight": 0.5, "loss_weight": 0.5}, 0.5),
    ],
)  # fmt: skip
def test_flags_become_the_weight(flags, weight):
    result = messages(ASK, {"role": "assistant", "content": "A", **flags})
    assert result.messages[1].weight == weight
    assert result.messages[1].extra == {}
    assert result.not_read == ()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"train": True, "weight": 0}, "field 'messages[1].train' is True, 'weight' is 0: they give different "
         "training weights\n  fix: keep one of them; weight: 1 trains the message, weight: 0 does not"),
        ({"loss": True, "masked": True}, "field 'messages[1].loss' is True, 'masked' is True: they give different "
         "training weights\n  fix: keep one of them; weight: 1 trains the message, weight: 0 does not"),
        ({"weight": 1, "loss_scale": 0.5}, "field 'messages[1].weight' is 1, 'loss_scale' is 0.5: they give different "
         "training weights\n  fix: keep one of them; weight: 1 trains the message, weight: 0 does not"),
        ({"mask": 1}, "field 'messages[1].mask' is 1; expected true or false\n"
         "  fix: write weight instead: write 1 to train on the message and 0 to exclude it"),
        ({"train": "perhaps"}, "field 'messages[1].train' is 'perhaps'; expected true or false\n"
         "  fix: write weight instead: write 1 to train on the message and 0 to exclude it"),
        ({"loss": -1}, "field 'messages[1].loss' is -1; expected true or false\n"
         "  fix: write weight instead: write 1 to train on the message and 0 to exclude it"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]},
         "field 'messages[1].train_detail' is [{'begin_offset': 0, 'end_offset': 1, 'train': False}]; expected one "
         "weight for the whole message\n  fix: write weight, and mask parts of an answer with data.no_loss_patterns"),
        ({"use_for_training": False}, "field 'messages[1].use_for_training' is False; expected the weight of the "
         "message under the key 'weight'\n  fix: rename it: write 1 to train on the message and 0 to exclude it"),
    ],
)  # fmt: skip
def test_invalid_flags_are_refused(flags, expected):
    with pytest.raises(RowError) as caught:
        messages(ASK, {"role": "assistant", "content": "A", **flags})
    assert str(caught.value) == f"rows.jsonl:7: {expected}"


def test_flag_on_a_call_turn():
    """In ms-swift's spelling, the call and its neighbor keep separate weights."""
    call = '{"name": "weather", "arguments": {"city": "Rome"}}'
    result = messages(
        ASK,
        {"role": "tool_call", "content": call, "loss": False},
        {"role": "tool_response", "content": "sunny"},
        {"role": "assistant", "content": "Sunny.", "loss": True},
    )
    function = {"name": "weather", "arguments": {"city": "Rome"}}
    assert summarize(result) == [
        ("user", "Q"),
        ("assistant", "", 0.0, {"tool_calls": [{"type": "function", "function": function}]}),
        ("tool", "sunny"),
        ("assistant", "Sunny."),
    ]


def test_loss_flag_on_a_user_message_is_noted():
    """data.train_on decides whether other roles than the assistant are trained."""
    result = messages({**ASK, "train": True}, {"role": "assistant", "content": "A", "train": True})
    assert result.not_read == ("messages[].train (user)",)
    result = messages({**ASK, "train": False, "weight": 0}, {"role": "assistant", "content": "A"})
    assert (result.messages[0].weight, result.not_read) == (0, ())


def test_flags_of_exchanges():
    """XTuner has one flag per exchange."""
    rows = [{"input": "Q", "output": "A", "output_with_loss": False}, {"input": "Q", "output": "A"}]
    result = convert({"conversation": rows})
    assert [m.weight for m in result.messages] == [1, 0, 1, 1]


def test_flags_of_parts():
    def part(text, **flags):
        return {"type": "text", "text": text, **flags}

    answer = {"role": "assistant", "content": [part("A", train=False), part("B", weight=0)]}
    assert messages(ASK, answer).messages[1].weight == 0
    with pytest.raises(
        RowError, match=r"the parts of field 'messages\[1\].content' are trained with different weights"
    ):
        messages(ASK, {"role": "assistant", "content": [part("A", train=False), part("B")]})
    with pytest.raises(RowError, match="'messages\\[1\\]' and the parts of its content disagree"):
        messages(ASK, {**answer, "weight": 1})
