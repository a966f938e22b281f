"""Make rows and read ledgers, for the tests of `prepare`."""

import json
from pathlib import Path

SMALL = Path(__file__).resolve().parents[1] / "golden" / "masks" / "tokenizer"
ROWS = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(20)]


def make_rows(name, number):
    return [
        {"instruction": f"{name} question {i}?", "output": f"The answer to {name} is {i * i}."} for i in range(number)
    ]


def write_jsonl(file, values):
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def read_ledger(made):
    return [json.loads(line) for line in (made.directory / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def messages(*turns):
    """Return a row of messages ``(role, content, weight)``."""
    names = ("role", "content", "weight")
    return {"messages": [dict(zip(names, turn, strict=False)) for turn in turns]}
