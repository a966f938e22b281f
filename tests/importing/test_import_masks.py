"""Imported configs of TRL train on the ids and labels that TRL itself makes of the same rows."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sft_cli.cli.program import execute
from sft_cli.config.paths import resolve
from sft_cli.data.prepared import open_prepared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed: pip install --no-deps trl==1.16.0"),
    pytest.mark.filterwarnings("default"),  # TRL's own
]
ROWS = 200
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content + '\\n\\n' }}"
    "{% elif message.role == 'user' %}{{ '### Instruction:\\n' + message.content + '\\n\\n' }}"
    "{% else %}{{ '### Response:\\n' }}{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)
"""A template with the markers by which TRL finds the answers."""
COMMON = {
    "model_name_or_path": resolve("builtin:quickstart/model"),
    "chat_template_path": "template.jinja",
    "dataset_name": "rows.jsonl",
    "use_peft": True,
    "lora_target_modules": "all-linear",
    "max_length": 128,
}


def quickstart_rows() -> list[dict[str, Any]]:
    """Return rows of the quickstart as conversations, every third one of two turns with a system message."""
    lines = Path(resolve("builtin:quickstart/train.jsonl")).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: 2 * ROWS]]
    conversations = []
    for number, (row, other) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
        turns = [row, other] if number % 3 == 0 else [row]
        messages = [{"role": "system", "content": "Answer in one word."}] if number % 3 == 0 else []
        for turn in turns:
            question = f"{turn['instruction']}\n{turn['input']}"
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": turn["output"]}]
        conversations.append({"messages": messages})
    return conversations


def split(conversation: dict[str, Any]) -> dict[str, Any]:
    """Return a conversation as prompt and completion, the last message being the completion."""
    return {"prompt": conversation["messages"][:-1], "completion": conversation["messages"][-1:]}


def imported(values: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Import and prepare a config; return ids and labels of each example, sorted.

    The label of the first token, which nothing predicts, is left out.
    """
    Path("config.yaml").write_text(json.dumps(values), encoding="utf-8")
    assert execute(["import", "config.yaml", "--out", "recipe.yaml"]) == 0
    assert execute(["prepare", "recipe=./recipe.yaml", "prepared_dir=prepared"]) == 0
    split = open_prepared(Path("prepared")).train
    pairs = []
    for number in range(len(split)):
        example = split.tokens(number)
        ids, weights = example.input_ids.tolist(), example.weights.tolist()
        pairs.append((ids, [one if weight else -100 for one, weight in zip(ids, weights, strict=True)][1:]))
    return sorted(pairs)


def of_trl(values: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Return the ids and labels of TRL's trainer, sorted, without the label of the first token."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    own = ("model_name_or_path", "dataset_name", "use_peft", "lora_target_modules")
    arguments = {key: value for key, value in values.items() if key not in own}
    settings = SFTConfig(output_dir="trl", report_to="none", use_cpu=True, bf16=False, **arguments)
    rows = load_dataset("json", data_files=values["dataset_name"], split="train", cache_dir="cache")
    trainer = SFTTrainer(model=values["model_name_or_path"], args=settings, train_dataset=rows)
    prepared: Any = trainer.train_dataset
    pairs = []
    for row in prepared:
        batch = trainer.data_collator([row])
        pairs.append((batch["input_ids"][0].tolist(), batch["labels"][0].tolist()[1:]))
    return sorted(pairs)


@pytest.mark.parametrize(
    ("loss", "is_split"),
    [
        ({"assistant_only_loss": True}, False),
        ({"completion_only_loss": True}, True),
        ({}, True),
        ({"completion_only_loss": False}, False),
    ],
    ids=["assistant_only", "completion_only", "completion by default", "all tokens"],
)
def test_ids_and_labels_equal_those_of_trl(loss, is_split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    rows = [split(row) if is_split else row for row in quickstart_rows()]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("template.jinja").write_text(TEMPLATE, encoding="utf-8")
    theirs = of_trl({**COMMON, **loss})

    ours = imported({**COMMON, **loss})

    assert len(ours) == ROWS
    assert ours == theirs
    trained = {label != -100 for _, labels in ours for label in labels}
    assert trained == ({True} if loss.get("completion_only_loss") is False else {True, False})
