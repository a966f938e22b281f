"""The golden tool calls: what make_tools.py wrote is what it writes now. After a change, run it; read the diff."""

import json

import make_tools
import pytest
from make_tools import CASES, HERE, RESULTS, ROWS, TEMPLATES

FILES = [HERE / f"{family}.json" for family in TEMPLATES]
WITHOUT_TOOLS = HERE / "deepseek_v3_1.json"
"""This family's published template shows no tool schema, so that no row with tools can be trained with it."""
SHOWING = [file for file in FILES if file != WITHOUT_TOOLS]


@pytest.mark.material
@pytest.mark.parametrize("family", TEMPLATES)
def test_tool_calls_are_rendered_as_before(family, material_dir):
    assert make_tools.content(family) == (HERE / f"{family}.json").read_text(encoding="utf-8")


def test_a_template_that_shows_no_tools_is_rejected():
    golden = json.loads(WITHOUT_TOOLS.read_text(encoding="utf-8"))
    reasons = [golden[name]["refused"] for name in CASES]
    assert sum("does not show the tools" in reason for reason in reasons) == len(CASES) - 1
    assert sum("closes the reasoning" in reason for reason in reasons) == 1


@pytest.mark.parametrize("file", SHOWING, ids=lambda file: file.stem)
def test_a_golden_file_agrees_with_itself(file):
    """Read without any of our code: what is trained names the tool, its arguments or what was answered."""
    golden = json.loads(file.read_text(encoding="utf-8"))
    assert list(golden) == [*CASES, *ROWS, RESULTS]
    proven = {name: golden[name] for name in CASES if isinstance(golden[name], list)}
    assert len(proven) >= 3  # Llama 3.1 takes one call at a time and no text with it
    for name, examples in proven.items():
        trained = [text for pieces in examples for kind, text in pieces if kind == "trained"]
        context = [text for pieces in examples for kind, text in pieces if kind == "context"]
        answers = [message.content for message in CASES[name].messages if message.role == "assistant"]
        assert "weather" in trained[0]
        assert answers[-1].split("</think>")[-1].strip() in trained[-1]
        assert any(place in trained[0] for place in ("Oslo", "\u00c5s"))
        results = [message.content for message in CASES[name].messages if message.role == "tool"]
        assert not any(result in text for result in results if len(result) > 2 for text in trained[:1])
        assert len(context) >= len(trained)
        if "entities" in name:
            assert "&#34;" in trained[0]  # the row's own, once
            assert "&lt;" not in trained[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_row_of_the_public_files_is_accounted_for(file):
    golden = json.loads(file.read_text(encoding="utf-8"))
    for name in ROWS:
        found = golden[name]
        assert found["proven"] + sum(found["refused"].values()) == found["rows"] > 0
        assert found["examples"] >= found["proven"]


@pytest.mark.parametrize("file", SHOWING, ids=lambda file: file.stem)
def test_with_tool_results_the_results_are_trained_as_well(file):
    """Each once, whole, where the template shows it as it is; the answers train as before."""
    golden = json.loads(file.read_text(encoding="utf-8"))
    more = golden[RESULTS]
    assert list(more) == [*CASES, ROWS[0]]
    seen = 0
    for name in CASES:
        if not isinstance(more[name], list):
            continue
        answers = [text for pieces in golden[name] for kind, text in pieces if kind == "trained"]
        trained = [text for pieces in more[name] for kind, text in pieces if kind == "trained"]
        assert [text for text in trained if text in answers] == answers
        results = [message.content for message in CASES[name].messages if message.role == "tool"]
        assert [text for text in trained if text not in answers] == results
        seen += len(results)
    assert seen >= 1  # Llama 3.1 writes JSON as a text in JSON: only what needs no escape is there as it is
    assert more[ROWS[0]]["proven"] <= golden[ROWS[0]]["proven"]
    assert more[ROWS[0]]["digest"] != golden[ROWS[0]]["digest"]
