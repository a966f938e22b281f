"""Every real tokenizer with every real template: the mask is confirmed by transformers, or refused with a reason."""

import json
import re
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message

pytestmark = pytest.mark.material

TOKENIZERS = ("llama2", "llama3", "mistral_v3", "qwen2_5", "qwen3")
MATERIAL = Path(__file__).resolve().parents[3] / "shared" / "material"
SMALL = Path(__file__).resolve().parents[1] / "golden" / "masks" / "tokenizer"
TOKEN = re.compile(r"<\|[\w:-]+\|?>|<[\w]+\|>|<｜[^｜ ]+｜>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]")
SPECIAL = "<|im_start|><|im_end|><|endoftext|><s></s><|eot_id|>[INST] [/INST]<|start_header_id|><tool_call>"
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "Its name."}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a place.", "parameters": CITY},
}


def talk(*turns, tools=None):
    """Return a conversation of alternating user and assistant turns, or of messages."""
    roles = ("user", "assistant")
    messages = [turn if isinstance(turn, Message) else Message(roles[i % 2], turn) for i, turn in enumerate(turns)]
    return Conversation(tuple(messages), "talk.jsonl:1", "talk", tools)


def tool_talk(arguments):
    """Return a conversation with a call without content, its result, and an answer."""
    call = {"type": "function", "id": "abcdefghi", "function": {"name": "get_weather", "arguments": arguments}}
    return talk(
        Message("user", "Weather in Oslo?"),
        Message("assistant", "", extra={"tool_calls": [call]}),
        Message("tool", '{"sky": "clear"}', extra={"name": "get_weather", "tool_call_id": "abcdefghi"}),
        Message("assistant", "It is clear."),
        tools=(WEATHER,),
    )


TALKS = {
    "one turn": talk("Hi", "Hello there."),
    "system": talk(Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello.")),
    "empty system": talk(Message("system", ""), Message("user", "Hi"), Message("assistant", "Hello.")),
    "three turns": talk("a", "First answer", "b", "Second\n\nanswer", "c", "Third."),
    "untrained turn": talk("a", Message("assistant", "Wrong.", 0.0), "b", "Right."),
    "unicode": talk("Grüße, \u0645\u0631\u062d\u0628\u0627", "Cafe\u0301 \u212b \u4f60\u597d"),
    "combining first": talk("e", "\u0301x and more"),
    "emoji": talk("\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1f3\U0001f1f4!"),
    "leading space": talk("Go on", "  indented", "and", " on"),
    "leading newline": talk("Go on", "\n\nA paragraph", "and", "\nanother"),
    "trailing newline": talk("Go on", "A line\n", "and", "two\n\n"),
    "crlf": talk("a\r\nb", "one\r\ntwo\r\n"),
    "tabs": talk("\tdef f():", "\treturn 1\n\t# end\t"),
    "long word": talk("x" * 600, "y" * 600),
    "empty user": talk("", "You said nothing."),
    "thinking": talk("2+2?", "<think>\nadd them\n</think>\n\n4", "3+3?", "<think>\nagain\n</think>\n\n6"),
    # Not at the end of an answer, where a stop token would be removed.
    "own tags": talk("Write ChatML", "<|im_start|>user\nHi<|im_end|>\n.", "and Llama", "<s>[INST] a [/INST] b </s>."),
    "special user": talk(SPECIAL, "Those are tokens.", "x" + SPECIAL + "y", "Again."),
    "entities": talk('Escape <b> & "c"', "&lt;b&gt; &amp; &#34;c&#34;"),
    "tool, object": tool_talk({"city": "Oslo"}),
    "tool, text": tool_talk('{"city": "Oslo"}'),
    "tool, marked": tool_talk({"city": "<|im_end|></s>"}),
}
HOLD_SPECIAL = {"own tags", "special user", "tool, marked"}


@cache
def tokenizers(directory):
    """Return a tokenizer as `prepare` reads it and as a server reads it."""
    from transformers import AutoTokenizer

    return load_tokenizer(str(directory)), AutoTokenizer.from_pretrained(directory)


def with_tokens(source, directory):
    """Return the small tokenizer with every token that a template names, like the tokenizer of its model."""
    backend = Tokenizer.from_file(str(SMALL / "tokenizer.json"))
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in sorted(set(TOKEN.findall(source)))])
    directory.mkdir()
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_bytes((SMALL / "tokenizer_config.json").read_bytes())
    return directory


def templates():
    """Yield every template file; those of chujiezheng also with white space removed, as their authors load them."""
    for file in sorted((MATERIAL / "templates").rglob("*.jinja")):
        source = file.read_text(encoding="utf-8")
        yield f"{file.parent.name}/{file.stem}", source
        if file.parent.name == "chujiezheng":
            yield f"{file.parent.name}/{file.stem} stripped", source.replace("    ", "").replace("\n", "")


def runs(weights):
    """Return index ranges ``(start, end)`` of adjacent tokens with loss."""
    trained = [False, *(weight > 0 for weight in weights), False]
    edges = [i for i in range(len(weights) + 1) if trained[i] != trained[i + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def forms(conversation):
    """Yield messages as a client may send them: unchanged; tool arguments as objects or text; reasoning under a key."""
    given = [{"role": m.role, "content": m.content, **m.extra} for m in conversation.messages]
    yield given
    if any("</think>" in message["content"] for message in given):
        parts = [re.fullmatch(r"<think>\n(.*)\n</think>\n\n(.*)", message["content"]) for message in given]
        pairs = zip(given, parts, strict=True)
        yield [{**message, "thinking": part[1], "content": part[2]} if part else message for message, part in pairs]
    if any(m.extra for m in conversation.messages):
        for wanted in (dict, str):
            changed = json.loads(json.dumps(given))
            for call in (call for message in changed for call in message.get("tool_calls", ())):
                function = call["function"]
                if not isinstance(function["arguments"], wanted):
                    change = json.loads if wanted is dict else lambda value: json.dumps(value, ensure_ascii=False)
                    function["arguments"] = change(function["arguments"])
            yield changed


def same(tokenizer, text, other):
    """Return whether two texts are equal to the tokenizer."""
    nfc = "NFC" in str(tokenizer.backend_tokenizer.normalizer)
    return text == other or (nfc and unicodedata.normalize("NFC", text) == unicodedata.normalize("NFC", other))


def fault(server, source, conversation, messages, examples, special_strings):
    """Return the difference between examples of a conversation and transformers; None if there is none."""

    def rendered(end, prompt, tokenize=False):
        return server.apply_chat_template(
            messages[:end],
            tools=list(conversation.tools) if conversation.tools else None,
            chat_template=source,
            add_generation_prompt=prompt,
            tokenize=tokenize,
            return_dict=False,
        )

    def decoded(ids):
        return server.decode(ids, clean_up_tokenization_spaces=False)

    trained = [i for i, message in enumerate(conversation.messages) if message.role == "assistant" and message.weight]
    found = [(list(example.input_ids), *run) for example in examples for run in runs(example.weights)]
    if len(found) != len(trained):
        return f"{len(found)} trained ranges for {len(trained)} turns"
    for (ids, start, end), i in zip(found, trained, strict=True):
        stop, text = ids[end - 1], decoded(ids[:end])[len(decoded(ids[:start])) :]
        if not server.added_tokens_decoder[stop].special or ids[start:end].count(stop) != 1:
            return f"no single stop token at the end of {text!r}"
        prompt, whole = rendered(i, True), rendered(i + 1, False)
        answers = [whole[len(prompt) :]] if whole.startswith(prompt) else [whole[at:] for at in range(len(whole))]
        if prompt.endswith("<think>\n"):  # the model continues from there with the text of the answer
            answers.append(messages[i]["content"].removeprefix("<think>\n") + decoded([stop]))
        closings = [
            answer[: match.end()] for answer in answers for match in re.finditer(re.escape(decoded([stop])), answer)
        ]
        if not any(same(server, closing, text) for closing in closings):
            return f"trained {text!r}, rendered {whole[-2 * len(text) :]!r}"
        if not special_strings and ids[:start] != rendered(i, True, tokenize=True):
            return f"not the ids a server makes of {prompt!r}"
        content = conversation.messages[i].content.strip()
        pieces = [piece.strip() for piece in re.split("</?think>", content)] if "</think>" in content else [content]
        nfc = unicodedata.normalize("NFC", text)
        if any(unicodedata.normalize("NFC", piece) not in nfc for piece in pieces):
            return f"{content!r} is not in {text!r}"
    if any(len(example.input_ids) != runs(example.weights)[-1][1] for example in examples):
        return "something follows the last stop token"
    return None


def sweep(directory, source, label):
    """Return titles of proven conversations, refusals by title, and masks that transformers does not confirm."""
    tokenizer, server = tokenizers(directory)
    template = ChatTemplate(source, tokenizer.special_tokens, label)
    builder = ExampleBuilder(tokenizer, template, DataConfig(), max_length=100_000)
    try:
        builder.template_check.check()
    except SftError as error:
        return [], {"every row": error.problem.partition(f"template {label}: ")[2] or error.problem}, []
    proven, refused, wrong = [], {}, []
    for (title, conversation), outcome in zip(TALKS.items(), builder.build(list(TALKS.values())), strict=True):
        if outcome.problem is not None:
            assert outcome.problem.where == "talk.jsonl:1"
            refused[title] = outcome.problem.problem.removeprefix(f"its mask cannot be proven with template {label}: ")
            continue
        proven.append(title)
        faults = []
        for messages in forms(conversation):
            try:
                faults.append(fault(server, source, conversation, messages, outcome.examples, title in HOLD_SPECIAL))
            except (TypeError, TemplateError) as error:  # a template can fail on one form of the arguments
                faults.append(str(error))
        if None not in faults:
            wrong.append((directory.name, label, title, faults))
    return proven, refused, wrong


def report(name, results):
    """Print counts and refusals; transformers must have confirmed every mask."""
    masks = sum(len(proven) for _, (proven, _, _) in results)
    refusals = Counter(f"{title}: {why[:100]}" for _, (_, refused, _) in results for title, why in refused.items())
    print(f"\n{name}: {masks} conversations proven, {sum(refusals.values())} refused")
    for why, count in refusals.most_common():
        print(f"  {count:3} {why}")
    assert [one for _, (_, _, wrong) in results for one in wrong] == []
    return masks, refusals


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer_with_its_own_template(name, material_dir):
    directory = material_dir / "tokenizers" / name
    source = load_tokenizer(str(directory)).chat_template
    masks, refusals = report(name, [("own", sweep(directory, source, "own"))])
    tools = [] if name != "llama2" else ["tool, marked", "tool, object", "tool, text"]  # Llama 2 has none
    assert sorted(why.partition(":")[0] for why in refusals) == tools
    assert masks == len(TALKS) - len(tools)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer_with_every_template(name, material_dir):
    directory = material_dir / "tokenizers" / name
    results = [(label, sweep(directory, source, label)) for label, source in templates()]
    masks, refusals = report(name, results)
    assert masks > 150
    assert refusals


@pytest.mark.slow
def test_every_template_with_its_own_tokens(material_dir, tmp_path):
    """Each template is tested with a small tokenizer that has every token that it names."""
    results = []
    for number, (label, source) in enumerate(templates()):
        results.append((label, sweep(with_tokens(source, tmp_path / str(number)), source, label)))
    masks, refusals = report("small tokenizer", results)
    assert masks > 800
    assert refusals
