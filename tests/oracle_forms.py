"""Forms in which a client may send a conversation, in the order of servers' conversions."""

import itertools
import json
import re

from oracle_texts import KEYS, TAGGED, Messages, calls_of, reasoning_of


def with_objects(messages: Messages) -> Messages:
    """Return messages whose argument texts are objects, as vLLM and transformers parse them before rendering."""
    changed = json.loads(json.dumps(messages))
    for message in changed:
        for call in message.get("tool_calls") or ():
            function = call.get("function", call)
            if isinstance(function["arguments"], str):
                function["arguments"] = json.loads(function["arguments"])
    return changed


def with_texts(messages: Messages) -> Messages:
    """Return messages whose argument objects are JSON text."""
    changed = json.loads(json.dumps(messages))
    for message in changed:
        for call in message.get("tool_calls") or ():
            function = call.get("function", call)
            if not isinstance(function["arguments"], str):
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return changed


def with_ids(messages: Messages) -> Messages:
    """Return messages whose calls have types and ids as in Mistral's servers, and whose results refer to them.

    Ids of nine letters and digits stay.
    """
    changed, number, waiting = json.loads(json.dumps(messages)), 0, []
    for message in changed:
        for call in message.get("tool_calls") or ():
            if not re.fullmatch("[0-9A-Za-z]{9}", call.get("id") or ""):
                call["id"] = f"idididi{number:02}"
            call.setdefault("type", "function")
            waiting.append(call)
            number += 1
        if message["role"] == "tool" and waiting:
            call = waiting.pop(0)
            message["tool_call_id"] = call["id"]
            message.setdefault("name", call["function"]["name"])
    return changed


def reasoned(messages: Messages, where: str, blank: bool = False) -> Messages:
    """Return messages with reasoning under a key, in content parts, or between tags (``given``: unchanged)."""
    changed = []
    for given in json.loads(json.dumps(messages)):
        message = given
        if message["role"] == "assistant":
            texts, content = reasoning_of(message)
            message = {key: value for key, value in message.items() if key not in KEYS}
            message["content"] = content
            if where in KEYS and (texts or (blank and any(key in given for key in KEYS))):
                message[where] = texts[0] if texts else ""
            elif texts and where == "parts":
                text = [{"type": "text", "text": content}] if content else []
                message["content"] = [{"type": "thinking", "thinking": texts[0]}, *text]
            elif texts and where == "given" and TAGGED.match(given["content"]):
                message["content"] = given["content"]
            elif texts:
                message["content"] = f"<think>\n{texts[0]}\n</think>\n\n{content}"
        changed.append(message)
    return changed


def forms(given: Messages) -> list[tuple[int, Messages]]:
    """Return the forms a client may send, with their rank; a form is only valid if no lower rank shows everything."""
    answers = [message for message in given if message["role"] == "assistant"]
    reasons = any(reasoning_of(message)[0] for message in answers)
    blank = any(isinstance(message.get(key), str) and not message[key].strip() for message in answers for key in KEYS)
    places = [(0, key) for key in (*KEYS, "parts")] + [(1, "tags"), (1, "given")] if reasons else [(0, KEYS[0])]
    arguments = [(0, with_objects), (2, with_texts)] if any(map(calls_of, answers)) else [(0, with_objects)]
    found: list[tuple[int, Messages]] = []
    for (first, where), (second, argued), kept in itertools.product(places, arguments, (False, True)[: 1 + blank]):
        form = argued(reasoned(given, where, kept))
        renamed = with_ids(form)
        found += [(first + second, one) for one in ([form, renamed] if renamed != form else [form])]
    return sorted(found, key=lambda one: one[0])
