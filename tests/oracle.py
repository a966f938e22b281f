"""Independent check of training examples, from ids and weights alone; it shares no code with the proof.

``Server`` renders with transformers, as a server does. ``faults`` compares the examples of a conversation with what a
server sends and with the conversation itself: each piece of an answer (content, reasoning, names and argument values of
calls) trained once, nothing else but the template's own text and one stop token; everything else seen in the context.
``unshown`` says what no form of a conversation can show with a template: why a refusal is right.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from oracle_forms import forms
from oracle_texts import CLOSED, OPEN, Messages, Turn, account, calls_of, matched, pieces_of
from transformers.utils import chat_template_utils

from sft_cli.types import Conversation, Example

IDS = re.compile(r"(?<!\w)(?:[0-9a-f]{9}|idididi\d\d)(?!\w)")
TAGS = re.compile(r"</?think>|\[/?THINK\]")
RAISES = "the template raises"
NOW = datetime(2026, 3, 14, 15, 9, 26)
"""The time of day that templates read."""


class Server:
    """A tokenizer of transformers with a chat template; None takes its own."""

    def __init__(self, tokenizer: Any, source: str | None, now: datetime = NOW) -> None:
        self._tokenizer, self._source, self._now = tokenizer, source, now
        self._seen: dict[str, str | Exception] = {}

    def render(self, messages: Messages, tools: Any, prompt: bool) -> str:
        """Return the text of a server's rendering; raises the errors of the template."""
        key = json.dumps([messages, tools, prompt])
        if key not in self._seen:
            clock = SimpleNamespace(now=lambda: self._now)
            try:
                with patch.object(chat_template_utils, "datetime", clock):
                    self._seen[key] = self._tokenizer.apply_chat_template(
                        messages,
                        tools=tools,
                        chat_template=self._source,
                        add_generation_prompt=prompt,
                        tokenize=False,
                    )
            except Exception as error:  # a template is a program of someone else's
                self._seen[key] = error
        found = self._seen[key]
        if isinstance(found, Exception):
            raise Unrendered(str(found)) from found
        return found

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    @cached_property
    def special(self) -> dict[int, str]:
        """Return the ids of control tokens and their texts."""
        return {id: one.content for id, one in self._tokenizer.added_tokens_decoder.items() if one.special}

    @cached_property
    def control(self) -> str:
        """Return a regular expression of the texts of control tokens."""
        return "|".join(re.escape(text) for text in sorted(self.special.values(), key=len, reverse=True))


class Unrendered(Exception):
    """The template raised an error."""


def plain(conversation: Conversation) -> Messages:
    """Return the messages of a conversation as dictionaries."""
    return [{"role": one.role, "content": one.content, **one.extra} for one in conversation.messages]


def trained_turns(conversation: Conversation) -> list[int]:
    """Return the indices of the turns that carry loss; turns before the first question do not."""
    users = [i for i, message in enumerate(conversation.messages) if message.role in ("user", "tool")]
    first = users[0] if users else len(conversation.messages)
    return [i for i, one in enumerate(conversation.messages) if one.role == "assistant" and one.weight and i > first]


def runs(weights: Sequence[float]) -> list[tuple[int, int]]:
    """Return ranges of neighboring ids that carry loss."""
    trained = [False, *(weight > 0 for weight in weights), False]
    edges = [i for i in range(len(weights) + 1) if trained[i] != trained[i + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def faults(server: Server, conversation: Conversation, examples: Sequence[Example]) -> list[str]:
    """Return the faults of the examples of a conversation; empty without any."""
    given, tools = plain(conversation), list(conversation.tools) if conversation.tools else None
    indices = trained_turns(conversation)
    found = [(list(one.input_ids), one.weights, *run) for one in examples for run in runs(one.weights)]
    if len(found) != len(indices):
        return [f"{len(found)} trained ranges for {len(indices)} turns"]
    wrong, turns = [], []
    given = without_stops(given, {server.decode(ids[end - 1 : end]) for ids, _, _, end in found})
    for i, (ids, weights, start, end) in zip(indices, found, strict=True):
        if set(weights[start:end]) != {conversation.messages[i].weight}:
            wrong.append(f"weights {set(weights[start:end])}")
        context, stop = server.decode(ids[:start]), server.decode(ids[end - 1 : end])
        turn = Turn(i, context, server.decode(ids[:end])[len(context) :], stop)
        turns.append((turn, ids, start, end))
        wrong += account(given, tools, turn)
        if ids[end - 1] not in server.special or ids[start:end].count(ids[end - 1]) != 1:
            wrong.append("no single stop token")
        wrong += garbled(turn.answer, given[i])
    if any(len(one.input_ids) != runs(one.weights)[-1][1] for one in examples):
        wrong.append("something follows the last stop token")
    return wrong + unlike_a_server(server, given, tools, turns)


def without_stops(messages: Messages, stops: Collection[str]) -> Messages:
    """Return the messages without stop tokens at the end of answers, since the template writes one."""
    ending = re.compile(rf"(?:(?:{'|'.join(map(re.escape, stops))})\s*)+\Z")
    return [
        {**one, "content": ending.sub("", one["content"])} if one["role"] == "assistant" and stops else one
        for one in messages
    ]


def unlike_a_server(
    server: Server, given: Messages, tools: Any, turns: list[tuple[Turn, list[int], int, int]]
) -> list[str]:
    """Return why no form that a client may send gives the texts and ids of the turns; empty if one does."""
    best: list[str] | None = None
    clean: int | None = None
    for rank, messages in forms(given):
        try:
            wrong = [fault for turn in turns for fault in parity(server, given[turn[0].index], messages, tools, *turn)]
        except Unrendered as error:
            wrong = [f"a server's template raises ({str(error)[:60]})"] * 99
        if not wrong:
            if clean is None:
                clean = next((one for one, form in forms(given) if not form_faults(server, given, form, tools)), rank)
            return [] if rank <= clean else ["another form of the messages is the one a server makes"]
        if best is None or len(wrong) < len(best):
            best = wrong
    return list(dict.fromkeys(best or ["no form"]))


def parity(
    server: Server,
    given: Mapping[str, Any],
    messages: Messages,
    tools: Any,
    turn: Turn,
    ids: list[int],
    start: int,
    end: int,
) -> list[str]:
    """Return the parts of a turn that differ from a server's rendering of these messages."""
    prompt = server.render(messages[: turn.index], tools, True)
    whole = server.render(messages[: turn.index + 1], tools, False)
    bare = server.render(messages[: turn.index], tools, False)
    wrong, shown = [], turn
    if "idididi0" in json.dumps(messages):
        prompt, whole, bare = (IDS.sub("ID", one) for one in (prompt, whole, bare))
        shown = replace(turn, context=IDS.sub("ID", turn.context), answer=IDS.sub("ID", turn.answer))
    if ids[:start] != server.encode(prompt):
        # Where a message spells a control token, texts are compared; decoding writes spaces around real control tokens.
        spelled = holds_control(server, messages, tools)
        if not same(*("".join(one.split()) if spelled else one for one in (shown.context, prompt))):
            wrong.append("the context is not a server's prompt")
        elif not spelled and ids[:start] != server.encode(turn.context):
            wrong.append("the ids of the context are not a server's")
    header = prompt[len(bare) :] if prompt.startswith(bare) else ""
    if turn.stop in header or (prompt == bare and ends_in_header(server, prompt, turn, given)):
        wrong.append("the stop token is part of the generation header")
    if not answers(whole, prompt, shown, given):
        wrong.append("the answer is not what the template writes")
    elif not holds_control(server, messages, tools):
        joint, apart = server.encode(turn.context + turn.answer), server.encode("\n" + turn.answer)
        newline = server.encode("\n")
        if ids[:end] != joint and ids[start:end] not in (server.encode(turn.answer), apart[len(newline) :]):
            wrong.append("the ids of the answer are not a server's")
    return wrong


def ends_in_header(server: Server, prompt: str, turn: Turn, given: Mapping[str, Any]) -> bool:
    """Return whether more than a stop token follows an answer, and the prompt ends in the same way."""
    places, _ = matched(pieces_of(given), turn.answer)
    tail = turn.answer[max((place[1] for place in places if place), default=0) :]
    return len(re.findall(server.control, tail)) > 1 and prompt.rstrip().endswith(turn.stop)


def holds_control(server: Server, messages: Messages, tools: Any) -> bool:
    """Return whether a message spells a control token, whose ids the rules decide."""
    text = json.dumps([messages, tools], ensure_ascii=False)
    return any(one in text for one in server.special.values())


def same(one: str, other: str) -> bool:
    return one == other or unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def answers(whole: str, prompt: str, turn: Turn, message: Mapping[str, Any]) -> bool:
    """Return whether a rendering contains the answer at the end of the prompt, or without the prompt's block."""
    whole, prompt, answer = (unicodedata.normalize("NFC", one) for one in (whole, prompt, turn.answer))
    if whole.startswith(prompt):
        if whole.startswith(answer, len(prompt)):
            return True
    elif answer in whole:
        return True
    # The prompt opens or closes a block of reasoning that the rendering of an answer leaves out, or has in itself.
    if not (CLOSED.search(prompt) or OPEN.search(prompt)):
        return False
    pieces = pieces_of(message)
    _, rest = matched([piece for piece in pieces if piece.kind == "reasoning"], turn.answer)
    rest, whole = (re.sub(r"[\s\0]", "", TAGS.sub("", one)) for one in (rest, whole))
    if rest in whole:
        return True
    _, whole = matched([piece for piece in pieces if piece.kind == "reasoning"], whole)
    return rest in whole.replace("\0", "")


def form_faults(
    server: Server, given: Messages, messages: Messages, tools: Any, only: Sequence[int] | None = None
) -> list[str]:
    """Return the missing, doubled or garbled parts of a form of a conversation, as transformers renders it."""
    wrong = []
    users = [i for i, one in enumerate(given) if one["role"] in ("user", "tool")]
    for i, message in enumerate(given):
        if message["role"] != "assistant" or not users or i < users[0] or (only is not None and i not in only):
            continue
        try:
            turn = rendered_turn(server, message, messages[: i + 1], tools)
        except Unrendered:
            return [RAISES]
        if not turn.stop:
            wrong.append("no stop token")
        wrong += garbled(turn.answer, message)
        wrong += account(given, tools, turn)
    return wrong


def rendered_turn(server: Server, given: Mapping[str, Any], messages: Messages, tools: Any) -> Turn:
    """Return the last turn as it would be trained: up to the last control token after its required content."""
    prompt, bare = (server.render(messages[:-1], tools, prompt) for prompt in (True, False))
    whole = server.render(messages, tools, False)
    start = next((at for at, two in enumerate(zip(prompt, whole, strict=False)) if two[0] != two[1]), len(prompt))
    answer = whole[start:]
    places, _ = matched(pieces_of(given), answer)
    last = max((place[1] for place in places if place), default=0)
    stops = [match for match in re.finditer(server.control, answer) if match.start() >= last]
    if not stops:
        return Turn(len(messages) - 1, prompt, answer, "")
    stop = stops[0] if prompt == bare else stops[-1]  # a header that is always written follows the stop
    return Turn(len(messages) - 1, prompt, answer[: stop.end()], stop.group())


def garbled(answer: str, message: Mapping[str, Any]) -> list[str]:
    """Return the parts of an answer that are Python instead of the template's syntax, or JSON in JSON."""
    wrong = []
    for _, arguments in calls_of(message):
        if isinstance(arguments, dict) and arguments and repr(arguments) in answer:
            wrong.append("arguments come out as a Python dictionary")
        if json.dumps(json.dumps(arguments, ensure_ascii=False), ensure_ascii=False) in answer:
            wrong.append("arguments are encoded twice")
    if answer.count("&#34;") > json.dumps(message).count("&#34;"):
        wrong.append("arguments come out as HTML")
    if "'type': 'thinking'" in answer or '"type": "thinking"' in answer:
        wrong.append("parts come out as Python")
    return wrong


def unshown(server: Server, conversation: Conversation) -> list[str]:
    """Return why no form of a conversation can be trained with a template: the faults of the best form."""
    given, tools = plain(conversation), list(conversation.tools) if conversation.tools else None
    indices = trained_turns(conversation)
    best: list[str] | None = None
    for _, form in forms(given):
        found = form_faults(server, given, form, tools, indices)
        if not found:
            found = [] if begins(server, form, tools, indices) else ["the prompt is not the beginning of the text"]
        if not found:
            return []
        if best is None or best == [RAISES] or (len(found) < len(best) and found != [RAISES]):
            best = found
    return best or []


def begins(server: Server, messages: Messages, tools: Any, indices: Sequence[int]) -> bool:
    """Return whether the prompt before each turn is a prefix of the text with it."""
    renderings = [
        (server.render(messages[:i], tools, True), server.render(messages[: i + 1], tools, False)) for i in indices
    ]
    return all(whole.startswith(prompt) for prompt, whole in renderings)
