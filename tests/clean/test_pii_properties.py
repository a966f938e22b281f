"""Redaction of random text: it is idempotent, removes every finding, and leaves other text unchanged."""

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.clean import pii
from sft_cli.clean.pii_texts import message_texts
from sft_cli.config.schema.clean import PiiConfig
from sft_cli.types import Conversation, Message
from tests.clean.helpers import chat

PIECES = [
    "jane@example.com", "212-555-0123", "+1 415 555 2671", "2125550123", "phone", "4111 1111 1111 1111", "1.2.3.4",
    "93.184.216.34", "DE89370400440532013000", "536-90-4399", "AKIA" + "Z2" * 8, "https://a:pa55w@b.com",
    "ip", "version", "<EMAIL>", "<|im_end|>", "{{name}}",
    "\n", "\\n", " ", ", ", "x", "7", "@", ".", "-", "{", '"', "}", "=", "ü",
]  # fmt: skip
CONFIG = PiiConfig(kinds=["email", "phone", "card", "iban", "ip", "secret", "id_us"])
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT)
def test_redaction_is_idempotent_and_removes_all_findings(question, answer):
    conversation = chat(question, answer)
    done, hits = pii.redact_conversation(conversation, CONFIG)
    again, more = pii.redact_conversation(done, CONFIG)
    assert again is done
    assert more == []
    assert (done is conversation) == (not hits)
    left = message_texts(done, CONFIG.roles)
    for hit in hits:
        assert not any(re.search(rf"(?<!\w){re.escape(hit.text)}(?!\w)", text) for text in left)


KEYS = st.sampled_from(["to", "phone", "ip address", "a@b.com", "", "n: 1"])
VALUES = st.recursive(
    TEXT | st.sampled_from([4111111111111111, 2125550123, 7, True, None, 1.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | inner.map(json.dumps),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(TEXT, st.dictionaries(KEYS, VALUES, max_size=3), st.booleans())
def test_tool_arguments_keep_their_shape(question, arguments, written):
    value = json.dumps(arguments) if written else arguments
    call = Message("assistant", "", extra={"tool_calls": [{"function": {"name": "f", "arguments": value}}]})
    conversation = Conversation((Message("user", question), call), where="a:1", source="a")
    done, hits = pii.redact_conversation(conversation, CONFIG)
    after = done.messages[1].extra["tool_calls"][0]["function"]["arguments"]
    after = json.loads(after) if written else after
    assert isinstance(after, dict)
    assert after.keys() == arguments.keys() or hits
    assert pii.redact_conversation(done, CONFIG) == (done, [])


@settings(max_examples=100, deadline=None)
@given(TEXT)
def test_redact_keeps_protected_text(text):
    done, _ = pii.redact_conversation(chat("hi", text), CONFIG)
    for piece in ("<|im_end|>", "{{name}}"):
        assert done.messages[1].content.count(piece) == text.count(piece)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abc XYZ,!?\n$+=*/0123456", max_size=60))
def test_sums_and_prose_are_unchanged(text):
    conversation = chat("How much?", re.sub(r"\d{4,}", "12", text))
    assert pii.redact_conversation(conversation, CONFIG) == (conversation, [])
