"""Runs whose tokenizer has several chat templates and an added token: all are saved with the result."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

PLAIN = "{% for m in messages %}{{ m.content + (eos_token if m.role == 'assistant' else '|') }}{% endfor %}"
NAMED = [
    {"name": "default", "template": PLAIN},
    {"name": "tool_use", "template": "{{ tools | tojson if tools else '' }}" + PLAIN},
    {"name": "rag", "template": "rag " + PLAIN},
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture
def named(base, tmp_path):
    """The tiny model with a tokenizer that has three templates."""
    directory = tmp_path / "named"
    shutil.copytree(base, directory)
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": NAMED}))
    return directory


@pytest.fixture
def mixed(tmp_path):
    """Rows with and without tools, with an added token in their answers."""
    file = tmp_path / "mixed.jsonl"
    answer = {"role": "assistant", "content": "<|plan|>a"}
    questions = [{"role": "user", "content": f"q{i}"} for i in range(8)]
    lines = [{"messages": [one, answer], "tools": TOOLS if i % 2 else None} for i, one in enumerate(questions)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks the old name
def test_all_templates_are_saved_with_the_adapter_and_the_merged_model(runs, named, mixed, tmp_path):
    from sft_cli.cli import execute

    done = runs.start(
        *("r", f"model.path={named}", f"data.mix.local.path={mixed}", "template=auto", "trainer.max_steps=2"),
        "model.add_tokens=['<|plan|>']",
    )
    execute(["merge", str(done.path), "--out", str(tmp_path / "merged")])
    execute(["eval", str(done.path), "eval.max_new_tokens=2"])

    expected = {entry["name"]: entry["template"] for entry in NAMED}
    for directory in (done.tokenizer, done.adapter, tmp_path / "merged"):
        assert AutoTokenizer.from_pretrained(directory).chat_template == expected
    prepared = json.loads(done.manifest.read_text())
    assert prepared["unused_tokens"] == []
    assert len(list(done.eval.glob("*.json"))) == 1
