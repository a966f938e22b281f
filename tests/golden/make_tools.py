"""Makes the golden tool calls: ``python tests/golden/make_tools.py`` from the repository's root.

tools/<family>.json, where the real templates and rows are next to the repository: what each family's chat template
writes of the conversations of CASES (trained and not, as text), and what became of the rows of three public files:
how many were proven, why others were refused, and a digest of every proven text and mask; the same of CASES and of the
first file with data.train_on_tool_results=true.

The tokenizer is the small one of make_masks.py with every token that the template names. Read the diff before you
commit a file.
"""

import hashlib
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from make_masks import HERE as MASKS
from make_masks import _dumps, written
from tokenizers import AddedToken, Tokenizer

from sft_cli.chat.encode_result import EncodeResult
from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.types import Conversation, Message, Row

HERE = Path(__file__).resolve().parent / "tools"
MATERIAL = HERE.parents[3] / "shared" / "material"
TEMPLATES = {
    "qwen2_5": "trl/qwen2_5",
    "qwen3": "trl/qwen3",
    "llama3_1": "trl/llama3_1",
    "mistral_nemo": "llamacpp/mistralai-Mistral-Nemo-Instruct-2407",
    "hermes": "llamacpp/NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "deepseek_v3_1": "llamacpp/deepseek-ai-DeepSeek-V3.1",
}
"""Family -> chat template, as its authors publish it."""
ROWS = (
    "sharegpt/glaive_toolcall_en_demo.json",
    "messages/reason_tool_use_demo_50.jsonl",
    "messages/drone_double_encoded_excerpt.jsonl",
)
TOKEN = re.compile(r"<\|[\w:-]+\|?>|<[\w]+\|>|<｜[^｜ ]+｜>|\[/?[A-Z_]+\]")
RESULTS = "with data.train_on_tool_results=true"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name."}},
            "required": ["city"],
        },
    },
}


def call(arguments: Any, **further: Any) -> dict[str, Any]:
    """A call of the weather."""
    return {"type": "function", "function": {"name": "weather", "arguments": arguments}, **further}


def case(*messages: Message) -> Conversation:
    """A conversation about the weather."""
    return Conversation((Message("user", "Weather in Oslo?"), *messages), "golden.jsonl:1", "golden", (WEATHER,))


SUNNY = Message("tool", '{"sky": "clear"}', extra={"name": "weather", "tool_call_id": "abcdefghi"})
CASES = {
    "arguments as an object": case(
        Message("assistant", "", extra={"tool_calls": [call({"city": "Oslo"}, id="abcdefghi")]}),
        SUNNY,
        Message("assistant", "It is clear."),
    ),
    "arguments as text": case(
        Message("assistant", "", extra={"tool_calls": [call('{"city": "Oslo"}', id="abcdefghi")]}),
        SUNNY,
        Message("assistant", "It is clear."),
    ),
    "no ids, quotes, accents, entities": case(
        Message("assistant", "", extra={"tool_calls": [call({"city": 'Ås "&#34;" <b>'})]}),
        Message("tool", "{}"),
        Message("assistant", "Unknown."),
    ),
    "two calls at once": case(
        Message("assistant", "", extra={"tool_calls": [call({"city": "Oslo"}), call({"city": "Rome"})]}),
        Message("tool", "clear"),
        Message("tool", "rain"),
        Message("assistant", "Clear and rain."),
    ),
    "reasoning before a call": case(
        Message("assistant", "<think>\nLook it up.\n</think>\n\n", extra={"tool_calls": [call({"city": "Oslo"})]}),
        Message("tool", "clear"),
        Message("assistant", "<think>\nGood.\n</think>\n\nIt is clear."),
    ),
}


def tokenizer(source: str, directory: Path) -> ChatTokenizer:
    """The small tokenizer with the tokens a template names."""
    backend = Tokenizer.from_file(str(MASKS / "tokenizer" / "tokenizer.json"))
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in sorted(set(TOKEN.findall(source)))])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_bytes((MASKS / "tokenizer" / "tokenizer_config.json").read_bytes())
    return load_tokenizer(str(directory))


def rows(name: str) -> Iterator[Conversation]:
    """The conversations of a public file."""
    file = MATERIAL / "data" / name
    text = file.read_text(encoding="utf-8")
    values = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    make = make_converter(SourceConfig(), "golden", "\n\n", values[0])
    for number, value in enumerate(values, 1):
        yield from make.convert(Row(value, f"{file.name}:{number}", "golden"))


def shown(tokenizer: ChatTokenizer, outcome: EncodeResult) -> Any:
    """The pieces of each example, or why there is none."""
    if outcome.problem is not None:
        return {"refused": outcome.problem.problem}
    return [written(tokenizer, example)["pieces"] for example in outcome.examples]


def counted(outcomes: list[EncodeResult]) -> dict[str, Any]:
    """What became of many rows."""
    examples = [(example.input_ids, example.weights) for outcome in outcomes for example in outcome.examples]
    problems = [outcome.problem.problem.partition(": ")[2] for outcome in outcomes if outcome.problem]
    problems = [re.sub("(recursion depth exceeded).*", r"\1", problem) for problem in problems]  # depends on the stack
    refused = Counter(
        re.sub(r"message \d+|call \d+|\('.*'\)|\(\".*\"\)|: ['\"].*['\"]\Z", "…", problem) for problem in problems
    )
    digest = hashlib.sha256(json.dumps(examples).encode()).hexdigest()
    return {
        "rows": len(outcomes),
        "proven": len(outcomes) - refused.total(),
        "examples": len(examples),
        "refused": dict(refused.most_common()),
        "digest": digest,
    }


def content(family: str) -> str:
    """The text of a golden file."""
    source = (MATERIAL / "templates" / f"{TEMPLATES[family]}.jinja").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory:
        found = tokenizer(source, Path(directory))
    builder = ExampleBuilder(found, ChatTemplate(source, found.special_tokens, family), DataConfig(), 100_000)
    cases = zip(CASES, builder.build(list(CASES.values())), strict=True)
    value = {name: shown(found, outcome) for name, outcome in cases}
    value |= {name: counted(builder.build(list(rows(name)))) for name in ROWS}
    more = ExampleBuilder(found, builder.span_finder.template, DataConfig(train_on_tool_results=True), 100_000)
    cases = zip(CASES, more.build(list(CASES.values())), strict=True)
    value[RESULTS] = {name: shown(found, outcome) for name, outcome in cases}
    value[RESULTS] |= {ROWS[0]: counted(more.build(list(rows(ROWS[0]))))}
    return _dumps(value, 0) + "\n"


def main() -> None:
    """Write every golden file whose template is there."""
    if not MATERIAL.is_dir():
        sys.exit(f"{MATERIAL} is absent")
    HERE.mkdir(exist_ok=True)
    for family in TEMPLATES:
        file = HERE / f"{family}.json"
        file.write_text(content(family), encoding="utf-8")
        print(f"{file.name}  {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
