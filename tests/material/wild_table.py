"""Every published template with every kind of conversation: the result of the tool, checked by tests/oracle.py.

python tests/material/wild_table.py     rewrites tests/golden/wild.tsv; read the diff before you commit it
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracle import NOW, Server, faults, unshown

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message, Row

TABLE = Path(__file__).resolve().parents[1] / "golden" / "wild.tsv"
MATERIAL = Path(__file__).resolve().parents[3] / "shared" / "material"
FAULTS = MATERIAL.parent / "faults"
TOKEN = re.compile(r"<\|[\w:\"-]+\|?>|<[\w]+\|>|<｜[^｜ ]+｜>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]")
MERGES = 5_000
"""Number of merges kept of Qwen2.5's vocabulary, for a tokenizer of the same kind that loads in milliseconds."""
FROM_FAULTS = {
    "parallel objects": "parallel_calls_object",
    "parallel texts": "parallel_calls_text",
    "tagged": "reasoning",
    "reasoning empty": "reasoning_empty",
    "reasoning null": "reasoning_null",
    "assistant first": "assistant_first",
    "tools unused": "tools_not_shown",
}


@cache
def _backend(merges: int | None) -> str:
    """Return a tokenizer.json with the first merges of Qwen2.5's; all for None."""
    values = json.loads((MATERIAL / "tokenizers/qwen2_5/tokenizer.json").read_text(encoding="utf-8"))
    if merges is not None:
        kept = values["model"]["merges"][:merges]
        pairs = [one.split(" ") if isinstance(one, str) else one for one in kept]
        letters = [text for text, id in values["model"]["vocab"].items() if id < 256]
        vocabulary = {text: id for id, text in enumerate([*letters, *("".join(pair) for pair in pairs)])}
        added = [{**one, "id": len(vocabulary) + i} for i, one in enumerate(values["added_tokens"])]
        values["model"].update(vocab=vocabulary, merges=kept)
        values["added_tokens"] = added
    return json.dumps(values)


def tokenizers(tokens: dict[str, Any], source: str, merges: int | None = MERGES) -> tuple[ChatTokenizer, Server]:
    """Return a tokenizer with a template's control tokens, as `prepare` and as a server reads it."""
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(_backend(merges))
    names = {f"{name}_token": tokens[name] for name in ("bos", "eos") if tokens[name]}
    control = dict.fromkeys([*tokens["control"], *names.values()])
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    directory = MATERIAL / "tokenizers/qwen2_5"
    server = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    return ChatTokenizer(directory, backend, names, source), Server(server, source)


def templates() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, source and tokens of each template."""
    known = json.loads((MATERIAL / "wild/tokens.json").read_text(encoding="utf-8"))
    for file in sorted((MATERIAL / "wild").glob("*.jinja")):
        yield f"wild/{file.stem}", file.read_text(encoding="utf-8"), known[file.stem]
    for file in sorted((MATERIAL / "templates").rglob("*.jinja")):
        source = file.read_text(encoding="utf-8")
        if file.parent.name == "chujiezheng":  # as their authors load them
            source = source.replace("    ", "").replace("\n", "")
        tokens = {"bos": "<s>", "eos": "</s>", "control": sorted(set(TOKEN.findall(source)))}
        yield f"{file.parent.name}/{file.stem}", source, tokens


@cache
def conversations() -> dict[str, Conversation]:
    """Return the conversations by name, read from their rows like in `prepare`."""
    rows = [json.loads(line) for line in (MATERIAL / "wild/conversations.jsonl").read_text("utf-8").splitlines()]
    named = {row.pop("name"): row for row in rows}
    for name, file in FROM_FAULTS.items():
        named[name] = json.loads((FAULTS / f"{file}.jsonl").read_text(encoding="utf-8"))
    found = {}
    for name, row in named.items():
        make = make_converter(SourceConfig(format="messages"), "wild", "\n\n", row)
        found[name] = make.convert(Row(row, f"{name}:1", "wild"))[0]
    found["reasoning twice"] = _twice(found["tagged"])
    return found


def _twice(conversation: Conversation) -> Conversation:
    """Return the conversation with its reasoning between tags and under a key."""
    question, answer = conversation.messages
    reasoning = answer.content.partition("</think>")[0].removeprefix("<think>").strip()
    both = Message(answer.role, answer.content, extra={"reasoning_content": reasoning})
    return replace(conversation, messages=(question, both))


def judged(
    name: str, source: str, tokens: dict[str, Any], merges: int | None = MERGES
) -> list[tuple[str, str, str, str]]:
    """Return conversation, verdict, short reason, and the full refusal or faults, for one template."""
    tokenizer, server = tokenizers(tokens, source, merges)
    builder = ExampleBuilder(
        tokenizer, ChatTemplate(source, tokenizer.special_tokens, "own", NOW), DataConfig(), 100_000
    )
    outcomes = builder.build(list(conversations().values()))
    whole = refusal(builder) if any(outcome.problem is None for outcome in outcomes) else None
    found = []
    for (title, conversation), outcome in zip(conversations().items(), outcomes, strict=True):
        problem = whole or outcome.problem
        if problem is not None:
            missing = sorted(set(map(kind, unshown(server, conversation))))
            found.append((title, "refused", "; ".join(missing) or "nothing found", str(problem.problem)))
            continue
        wrong = faults(server, conversation, outcome.examples)
        found.append((title, "WRONG" if wrong else "right", "; ".join(sorted(set(map(kind, wrong)))), "; ".join(wrong)))
    return found


def refusal(builder: ExampleBuilder) -> SftError | None:
    """Return why a template is refused for all rows, or None."""
    try:
        builder.template_check.check()
    except SftError as error:
        return error
    return None


def kind(fault: str) -> str:
    """Return a fault without texts of the conversation or the template."""
    return re.sub(r"'.*|\".*|\(.*|\d+", "", fault).strip()


def table(merges: int | None = MERGES) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the whole table: template, conversation, verdict, reason, and the full text of the reason."""
    for name, source, tokens in templates():
        for title, *rest in judged(name, source, tokens, merges):
            yield name, title, *rest


def main() -> None:
    words = []
    lines = ["template\tconversation\tverdict\treason"]
    for name, title, verdict, reason, why in table():
        lines.append(f"{name}\t{title}\t{verdict}\t{reason}".rstrip())
        words.append(f"{lines[-1]}\t{why!r}")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text("\n".join(words) + "\n", encoding="utf-8")
    else:
        TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
