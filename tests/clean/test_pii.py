"""Personal data: tables of texts that are and are not found, positions of placeholders, and error messages."""

import json

import pytest

from sft_cli.clean import pii
from sft_cli.config.schema.clean import PiiAction, PiiConfig
from sft_cli.types import Conversation, Message, TokenIds
from tests.clean.helpers import chat, document, drop_reasons, redacted, run_filter

KEY = "aB3" * 20  # a key's body: letters of both cases and digits
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{'MIIEpAIBAAKCAQEA' * 4}\n{'abcd' * 10}\n-----END RSA PRIVATE KEY-----"
FOUND = [
    pytest.param("Write to jane.doe+news@mail.example.co.uk.", "Write to <EMAIL>.", id="email"),
    pytest.param("<jörg@müller.de>, a_b-c%d@x-y.org!", "<<EMAIL>>, <EMAIL>!", id="emails-next-to-punctuation"),
    pytest.param("mailto:a@b.io", "mailto:<EMAIL>", id="email-mailto"),
    pytest.param('{"mail": "x\\njohn@a.com"}', '{"mail": "x\\n<EMAIL>"}', id="email-after-written-newline"),
    pytest.param('{"mail": "j\\u00f6rg@a.com"}', '{"mail": "<EMAIL>"}', id="email-with-written-character"),
    pytest.param("Call 212-555-0123 now", "Call <PHONE> now", id="phone-national"),
    pytest.param("(650) 253-0000", "<PHONE>", id="phone-parentheses"),
    pytest.param("+49 30 901820, +442083661177", "<PHONE>, <PHONE>", id="phone-country-code"),
    pytest.param("my phone number is 2125550123.", "my phone number is <PHONE>.", id="phone-bare-after-a-word"),
    pytest.param("pay with 4111 1111 1111 1111 today", "pay with <CARD> today", id="card-visa"),
    pytest.param("5555-5555-5555-4444", "<CARD>", id="card-mastercard"),
    pytest.param("378282246310005, 6011111111111117", "<CARD>, <CARD>", id="card-amex-discover"),
    pytest.param("30569309025904 and 3530111333300000", "<CARD> and <CARD>", id="card-diners-jcb"),
    pytest.param("IBAN DE89 3704 0044 0532 0130 00 AND BIC", "IBAN <IBAN> AND BIC", id="iban-then-capitals"),
    pytest.param("GB82WEST12345698765432", "<IBAN>", id="iban-in-one"),
    pytest.param("from 93.184.216.34:8080", "from <IP>:8080", id="ip-with-port"),
    pytest.param("host 203.0.113.7 is up", "host <IP> is up", id="ip-documentation"),
    pytest.param("the IP address 8.8.8.8", "the IP address <IP>", id="ip-of-single-digits-after-a-word"),
    pytest.param("2606:2800:220:1:248:1893:25c8:1946", "<IP>", id="ipv6"),
    pytest.param(f"key AKIA{'Z2' * 8}", "key <SECRET>", id="aws-id"),
    pytest.param(f'aws_secret_access_key = "{"aB3/" * 10}"', 'aws_secret_access_key = "<SECRET>"', id="aws-secret"),
    pytest.param(f"AWS_SECRET_ACCESS_KEY={'aB3/' * 10}", "AWS_SECRET_ACCESS_KEY=<SECRET>", id="aws-environment"),
    pytest.param(f"ghp_{KEY[:36]} github_pat_{KEY}", "<SECRET> <SECRET>", id="github"),
    pytest.param(f"glpat-{KEY[:20]}", "<SECRET>", id="gitlab"),
    pytest.param(f"xoxb-{'12345-' * 4}{KEY[:24]}", "<SECRET>", id="slack"),
    pytest.param(
        f"https://hooks.slack.com/services/T12345678/B12345678/{KEY[:24]}",
        "https://hooks.slack.com/services/<SECRET>",
        id="slack-webhook",
    ),
    pytest.param(f"sk_live_{KEY[:24]}, rk_test_{KEY[:24]}", "<SECRET>, <SECRET>", id="stripe"),
    pytest.param(f"AIza{KEY[:35]}", "<SECRET>", id="google"),
    pytest.param(
        f"sk-{KEY[:48]} sk-proj-{KEY} sk-ant-api03-{KEY}", "<SECRET> <SECRET> <SECRET>", id="openai-anthropic"
    ),
    pytest.param(f"HF_TOKEN=hf_{KEY[:34]}", "HF_TOKEN=<SECRET>", id="hugging-face"),
    pytest.param(f"npm_{KEY[:36]}, SG.{KEY[:22]}.{KEY[:43]}", "<SECRET>, <SECRET>", id="npm-sendgrid"),
    pytest.param(f"Bearer eyJ{KEY[:20]}.eyJ{KEY[:30]}.{KEY[:43]}", "Bearer <SECRET>", id="jwt"),
    pytest.param(f"a\n{PEM}\nb", "a\n<SECRET>\nb", id="private-key"),
    pytest.param(PEM.partition("-----END")[0] + "and so on", "<SECRET>and so on", id="private-key-broken-off"),
    pytest.param(json.dumps({"k": PEM}), '{"k": "<SECRET>"}', id="private-key-in-json"),
    pytest.param(
        "postgres://bob:s3cr3t!@db.example.com/x", "postgres://bob:<SECRET>@db.example.com/x", id="url-password"
    ),
]
LEFT = [
    pytest.param("16 + 2125550123 = 2125550139", id="numbers-of-a-sum"),
    pytest.param("<<48/2=24>>24 clips, 48+24 = <<48+24=72>>72", id="gsm8k"),
    pytest.param("[2125550123], (2125550123)", id="bare-numbers-in-brackets"),
    pytest.param("1,234,567,890 and 3.14159265358979", id="long-numbers"),
    pytest.param("on 2024-01-31 12:45:00, from 1990-2000, at 1609459200", id="dates-and-times"),
    pytest.param("ISBN 978-3-16-148410-0", id="isbn"),
    pytest.param("2^52 = 4503599627370496 and 2^64 = 18446744073709551616", id="powers-of-two"),
    pytest.param("4111 1111 1111 1112", id="card-with-wrong-check-digit"),
    pytest.param("9999999999999995", id="card-of-no-issuer"),
    pytest.param("0.4111111111111111", id="card-as-a-fraction"),
    pytest.param("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", id="card-as-a-list"),
    pytest.param("DE89 3704 0044 0532 0130 01", id="iban-with-wrong-checksum"),
    pytest.param("192.168.0.1, 10.0.0.1, 127.0.0.1, 0.0.0.0, 255.255.255.0, 224.0.0.1", id="ip-of-nobody"),
    pytest.param("version 1.2.3.4, v10.20.30.40, chrome==99.0.48.44", id="versions"),
    pytest.param("2.1.3.4 Results", id="section"),
    pytest.param("8.8.8.0/24 and 157.240.0.0/16", id="networks"),
    pytest.param("1.2.3.4.5, 1.2.3, 256.1.1.1, 093.184.216.34", id="not-four-octets"),
    pytest.param("std::vector, a[1::2], x[2000::3], 12:34:56, 00:1b:44:11:3a:b7", id="colons"),
    pytest.param("::1, fe80::1:2:3, 2001", id="ipv6-of-nobody"),
    pytest.param("git@github.com:user/repo.git and icon@2x.png", id="not-emails"),
    pytest.param("@app.route, user@localhost, foo @ bar.com", id="at-signs"),
    pytest.param("sk-learn-something-long-without-digits, sk-folding-cube-4-parts-here", id="hyphenated-words"),
    pytest.param(
        "https://user:password@host/, https://u:{PASSWORD}@h, https://u:$PW@h, https://u:***@h", id="stand-ins"
    ),
    pytest.param("http://example.com:8080/a@b", id="port"),
    pytest.param("It begins with -----BEGIN PRIVATE KEY----- and is secret.", id="talk-of-keys"),
    pytest.param("<EMAIL> <|im_start|> {{name}} </s> [INST] <PHONE> <ID_US>", id="placeholders"),
]


@pytest.mark.parametrize(("text", "wanted"), FOUND)
def test_redact_replaces_findings_by_kind(text, wanted):
    assert redacted(text) == wanted


@pytest.mark.parametrize("text", LEFT)
def test_text_that_only_resembles_pii_is_kept(text):
    conversation = document(text)
    assert pii.redact_conversation(conversation, PiiConfig()) == (conversation, [])
    assert pii.redact_conversation(conversation, PiiConfig())[0] is conversation


def test_overlapping_kinds_by_precedence():
    """A key that is also a password, and numbers that are valid both as national ids and as telephone numbers."""
    shown = redacted("phone 36574261809 is a tax number", kinds=["id_de", "phone"], phone_regions=["DE"])
    assert shown == "phone <ID_DE> is a tax number"
    assert redacted("phone 7503305044089", kinds=["phone", "id_za"], phone_regions=["DE", "ZA"]) == "phone <ID_ZA>"
    hits = pii.find_spans(f"ftp://bob:sk-{KEY[:48]}@a.com", PiiConfig())
    assert [kind for kind, _ in hits] == ["secret"]


def test_finding_in_one_message_is_replaced_in_all_messages():
    """Only the question shows that it is a telephone number; the answer, the reasoning and the tool call repeat it."""
    call = {"id": "2125550123", "type": "function", "function": {"name": "dial", "arguments": {"to": 2125550123}}}
    turns = (
        Message("system", "Number 2125550123 and 12125550123."),
        Message("user", "My phone is 2125550123"),
        Message("assistant", "", extra={"tool_calls": [call], "reasoning_content": "dial 2125550123"}),
        Message("tool", '{"to": 2125550123}', extra={"tool_call_id": "2125550123"}),
        Message("assistant", "I called 2125550123.", weight=0.5),
    )
    conversation = Conversation(turns, where="a:1", source="a", tools=({"name": "2125550123"},))
    done, hits = pii.redact_conversation(conversation, PiiConfig())
    assert done.messages == (
        Message("system", "Number <PHONE> and 12125550123."),
        Message("user", "My phone is <PHONE>"),
        Message(
            "assistant",
            "",
            extra={
                "tool_calls": [
                    {
                        "id": "2125550123",
                        "type": "function",
                        "function": {"name": "dial", "arguments": {"to": "<PHONE>"}},
                    }
                ],
                "reasoning_content": "dial <PHONE>",
            },
        ),
        Message("tool", '{"to": "<PHONE>"}', extra={"tool_call_id": "2125550123"}),
        Message("assistant", "I called <PHONE>.", weight=0.5),
    )
    assert done.tools == conversation.tools
    assert {hit.kind for hit in hits} == {"phone"}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ('{"to": "a@b.com", "n": 4111111111111111}', '{"to": "<EMAIL>", "n": "<CARD>"}'),
        ('{"text": "line\\na@b.com"}', '{"text": "line\\n<EMAIL>"}'),
        ('{"phone":"2125550123"}', '{"phone":"<PHONE>"}'),
        ({"to": ["a@b.com", {"cc": "c@d.com"}], "ok": True}, {"to": ["<EMAIL>", {"cc": "<EMAIL>"}], "ok": True}),
        ({"inner": '{"card": 4111111111111111}'}, {"inner": '{"card": "<CARD>"}'}),
    ],
)
def test_tool_arguments_keep_their_types(arguments, wanted):
    call = {"function": {"name": "send", "arguments": arguments}}
    turns = (Message("user", "do"), Message("assistant", "", extra={"tool_calls": [call]}))
    done, _ = pii.redact_conversation(Conversation(turns, where="a:1", source="a"), PiiConfig())
    assert done.messages[1].extra["tool_calls"] == [{"function": {"name": "send", "arguments": wanted}}]


def test_only_chosen_roles_are_searched():
    done, _ = pii.redact_conversation(chat("I am a@b.com", "Hello c@d.com"), PiiConfig(roles=["user"]))
    assert [message.content for message in done.messages] == ["I am <EMAIL>", "Hello c@d.com"]


ROWS = [
    chat("mine is jane.doe@example.com", "Noted: jane.doe@example.com, 212-555-0123", where="a:1"),
    chat("hello", "world", where="a:2"),
    Conversation((), where="a:3", source="a", tokens=TokenIds((1, 2), (0.0, 1.0))),
    document("reach bob@example.com"),
]
REPORT = {
    "kinds": {"email": {"rows": 2, "found": 3}, "phone": {"rows": 1, "found": 1}},
    "examples": [
        {"where": "a:1", "kind": "email", "masked": "j… (20 characters)"},
        {"where": "a:1", "kind": "email", "masked": "j… (20 characters)"},
        {"where": "a:1", "kind": "phone", "masked": "2… (12 characters)"},
        {"where": "rows.jsonl:1", "kind": "email", "masked": "b… (15 characters)"},
    ],
    "not_searched": 1,
}


@pytest.mark.parametrize("action", PiiAction)
def test_actions_have_the_same_findings(action):
    result, report = run_filter(pii.find_pii, ROWS, PiiConfig(kinds=["phone", "email"], action=action))
    assert report == REPORT
    assert [(one.row, one.detail, one.score) for one in result] == [(0, "2 email, 1 phone", 3.0), (3, "1 email", 1.0)]
    dropped = "personal data" if action is PiiAction.drop else None
    assert drop_reasons(result) == {0: dropped, 3: dropped}
    if action is PiiAction.redact:
        assert result[0].conversation == chat("mine is <EMAIL>", "Noted: <EMAIL>, <PHONE>", where="a:1")
    else:
        assert [one.conversation for one in result] == [None, None]


def test_findings_are_not_written_into_ledger_or_report():
    result, report = run_filter(pii.find_pii, ROWS, PiiConfig(action=PiiAction.report))
    written = json.dumps([report, [one[:4] for one in result]])
    assert "jane" not in written
    assert "0123" not in written


def test_report_has_few_examples_of_each_kind():
    rows = [chat("hi", f"a{i}@b.com", where=f"a:{i}") for i in range(50)] + [chat("hi", "IP 93.184.216.34")]
    _, report = run_filter(pii.find_pii, rows, PiiConfig(kinds=["email", "ip"]))
    assert [example["kind"] for example in report["examples"]] == ["email"] * 10 + ["ip"]
