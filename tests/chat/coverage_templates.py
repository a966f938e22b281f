"""Chat templates of four styles, assembled from pieces, and the conversations for their tests.

A template is a skeleton with slots (``<<slot>>``); a mutation is another text for one slot, and all else stays.
"""

import re
from collections.abc import Mapping
from functools import cache

from sft_cli.types import Conversation, Message

CONTROL = (
    *("<|im_start|>", "<|im_end|>", "<|header|>", "<|/header|>", "<|eot|>", "<s>", "</s>", "[INST]", "[/INST]"),
    *("[TOOL_CALLS]", "[THINK]", "[/THINK]", "<start_of_turn>", "<end_of_turn>", "<bos>"),
)
_LOOP = """
<<begin>><<tools>>
{%- for m in messages -%}
    {%- if m.role == 'system' -%}<<system>>
    {%- elif m.role == 'user' -%}<<user>>
    {%- elif m.role == 'tool' -%}<<result>>
    {%- else -%}<<turn>><<reasoning>><<content>><<calls>><<stop>>
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<<header>>{%- endif -%}
"""
_ITEMS = """
{%- for k, v in <<items>> -%}
    {{- ', ' if not loop.first -}}{{- '"' ~ k ~ '": ' ~ <<value>> -}}
{%- endfor -%}
"""
_COMMON = {
    "whole": _LOOP,
    "begin": "",
    "called": "m.tool_calls or []",
    "name": "c.function.name",
    "items": "c.function.arguments.items()",
    "value": "v | tojson",
    "shown tools": "tools",
    "body": "m.content",
    "header": "<<turn>>",
    "arguments": "{{- '{' -}}" + _ITEMS + "{{- '}' -}}",
}
STYLES: dict[str, Mapping[str, str]] = {
    "chatml": {
        **_COMMON,
        "tools": "{%- if tools -%}{{- '<|im_start|>system\\n# Tools\\n' -}}{%- for t in <<shown tools>> -%}"
        "{{- t | tojson ~ '\\n' -}}{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endif -%}",
        "system": "{{- '<|im_start|>system\\n' ~ m.content ~ '<|im_end|>\\n' -}}",
        "user": "{{- '<|im_start|>user\\n' ~ m.content ~ '<|im_end|>\\n' -}}",
        "result": "{{- '<|im_start|>tool\\n' ~ <<body>> ~ '<|im_end|>\\n' -}}",
        "turn": "{{- '<|im_start|>assistant\\n' -}}",
        "reasoning": "{%- if m.reasoning_content -%}{{- '<think>\\n' ~ m.reasoning_content ~ '\\n</think>\\n\\n' -}}"
        "{%- endif -%}",
        "content": "{{- <<body>> -}}",
        "calls": '{%- for c in <<called>> -%}{{- \'\\n<tool_call>\\n{"name": "\' ~ <<name>> ~ \'", "arguments": \' -}}'
        "<<arguments>>{{- '}\\n</tool_call>' -}}{%- endfor -%}",
        "stop": "{{- '<|im_end|>\\n' -}}",
    },
    "llama": {
        **_COMMON,
        "begin": "{{- '<s>' -}}",
        "tools": "{%- if tools -%}{{- '<|header|>system<|/header|>\\n\\n' -}}{%- for t in <<shown tools>> -%}"
        "{{- t | tojson(indent=4) ~ '\\n\\n' -}}{%- endfor -%}{{- '<|eot|>' -}}{%- endif -%}",
        "system": "{{- '<|header|>system<|/header|>\\n\\n' ~ m.content ~ '<|eot|>' -}}",
        "user": "{{- '<|header|>user<|/header|>\\n\\n' ~ m.content ~ '<|eot|>' -}}",
        "result": "{{- '<|header|>ipython<|/header|>\\n\\n' ~ <<body>> ~ '<|eot|>' -}}",
        "turn": "{{- '<|header|>assistant<|/header|>\\n\\n' -}}",
        "reasoning": "{%- if m.reasoning -%}{{- '<thought>' ~ m.reasoning ~ '</thought>' -}}{%- endif -%}",
        "content": "{{- <<body>> -}}",
        "calls": '{%- for c in <<called>> -%}{{- \'; {"name": "\' ~ <<name>> ~ \'", "parameters": \' -}}'
        "<<arguments>>{{- '}' -}}{%- endfor -%}",
        "stop": "{{- '<|eot|>' -}}",
    },
    "mistral": {
        **_COMMON,
        "begin": "{{- '<s>' -}}",
        "tools": "{%- if tools -%}{{- '[AVAILABLE_TOOLS]' ~ <<shown tools>> | tojson ~ '[/AVAILABLE_TOOLS]' -}}"
        "{%- endif -%}",
        "system": "{{- '[SYSTEM_PROMPT]' ~ m.content ~ '[/SYSTEM_PROMPT]' -}}",
        "user": "{{- '[INST]' ~ m.content ~ '[/INST]' -}}",
        "result": "{{- '[TOOL_RESULTS]' ~ <<body>> ~ '[/TOOL_RESULTS]' -}}",
        "turn": "",
        "reasoning": "{%- if m.thinking -%}{{- '[THINK]' ~ m.thinking ~ '[/THINK]' -}}{%- endif -%}",
        "content": "{{- <<body>> -}}",
        "calls": "{%- for c in <<called>> -%}{{- '[TOOL_CALLS]' ~ <<name>> ~ '[ARGS]' -}}<<arguments>>{%- endfor -%}",
        "stop": "{{- '</s>' -}}",
    },
    "gemma": {
        **_COMMON,
        "begin": "{{- '<bos>' -}}",
        "tools": "{%- if tools -%}{{- '<start_of_turn>developer\\n' -}}{%- for t in <<shown tools>> -%}"
        "{{- t.function.name ~ '(' ~ t.function.parameters.properties | join(', ') ~ '): ' -}}"
        "{{- t.function.description ~ '\\n' -}}"
        "{%- endfor -%}{{- '<end_of_turn>\\n' -}}{%- endif -%}",
        "system": "{{- '<start_of_turn>developer\\n' ~ m.content | trim ~ '<end_of_turn>\\n' -}}",
        "user": "{{- '<start_of_turn>user\\n' ~ m.content | trim ~ '<end_of_turn>\\n' -}}",
        "result": "{{- '<start_of_turn>user\\n<result>' ~ <<body>> | trim ~ '</result><end_of_turn>\\n' -}}",
        "turn": "{{- '<start_of_turn>model\\n' -}}",
        "reasoning": "{%- if m.reasoning_content -%}{{- '<think>' ~ m.reasoning_content | trim ~ '</think>' -}}"
        "{%- endif -%}",
        "content": "{{- <<body>> | trim -}}",
        "calls": "{%- for c in <<called>> -%}{{- '<call>' ~ <<name>> ~ '(' -}}<<arguments>>{{- ')</call>' -}}"
        "{%- endfor -%}",
        "arguments": "{%- for k, v in <<items>> -%}{{- ', ' if not loop.first -}}{{- k ~ '=' ~ <<value>> -}}"
        "{%- endfor -%}",
        "stop": "{{- '<end_of_turn>\\n' -}}",
    },
}
STOPS = {"chatml": "<|im_end|>", "llama": "<|eot|>", "mistral": "</s>", "gemma": "<end_of_turn>"}


def source(slots: Mapping[str, str]) -> str:
    """Return the Jinja source of a template."""
    text = slots["whole"]
    while "<<" in text:
        text = re.sub(r"<<([a-z ]+)>>", lambda match: slots[match[1]], text)
    return text


def tool(name: str, description: str, *parameters: str) -> dict[str, object]:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": [*parameters]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"type": "function", "id": f"{name:a<9.9}", "function": {"name": name, "arguments": arguments}}


def answer(content: str, reasoning: str = "", *calls: dict[str, object], weight: float = 1.0) -> Message:
    extra: dict[str, object] = {"tool_calls": list(calls)} if calls else {}
    return Message("assistant", content, weight, {**extra, **({"reasoning_content": reasoning} if reasoning else {})})


@cache
def talks() -> dict[str, Conversation]:
    """Return a conversation of unique texts, and one in which most texts also occur in others."""
    distinct = (
        Message("system", "Answer briefly."),
        Message("user", "Weather and time?"),
        answer(
            "I look both up.",
            "Two things, two calls.",
            call("weather", city="Rome", days=2, exact=True, unit={"of": "celsius"}),
            call("clock", city="Oslo", days=7, exact=False, unit={"of": "hours"}),
        ),
        Message("tool", '{"sky": "clear"}', extra={"name": "weather", "tool_call_id": "weatheraa"}),
        Message("tool", "half past noon", extra={"name": "clock", "tool_call_id": "clockaaaa"}),
        answer("Clear skies, midday.", "Both came back."),
        Message("user", "Thanks!"),
        answer("Gladly."),
    )
    chance = (
        Message("system", "Paris is 5, true or false"),
        Message("user", "Paris"),
        answer(
            "Paris",
            "5 in Paris",
            call("weather", city="Paris", days=5, exact=True, unit={"of": "5"}),
            call("clock", city="5", days=2, exact=False, unit={"of": "Paris"}),
        ),
        Message("tool", "5", extra={"name": "weather", "tool_call_id": "weatheraa"}),
        Message("tool", "Paris", extra={"name": "clock", "tool_call_id": "clockaaaa"}),
        answer("5", "Paris is 5, 5"),
        Message("user", "5"),
        answer("Paris"),
    )
    tools = (
        tool("weather", "Look at the sky.", "city", "days", "exact", "unit"),
        tool("clock", "Ask for the hour.", "city", "days", "exact", "unit"),
    )
    by_chance = (
        tool("weather", "Paris", "city", "days", "exact", "unit"),
        tool("clock", "5", "city", "days", "exact", "unit"),
    )
    return {
        "distinct": Conversation(distinct, "talk.jsonl:1", "talk", tools),
        "by chance": Conversation(chance, "talk.jsonl:1", "talk", by_chance),
    }
