"""Data sets of axolotl: their types, columns, roles and masks."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.importing.sources import choose_template, join_path, set_roles, set_split, source_name
from sft_cli.importing.translation import Translation

TYPES: dict[str, tuple[str, dict[str, str]]] = {
    "alpaca": ("alpaca", {}),
    "alpaca_chat": ("alpaca", {}),
    "alpaca_w_system": ("alpaca", {}),
    "alpaca_w_system.load_open_orca": ("question_response", {"system_prompt": "system_prompt"}),
    "gpteacher": ("instruction_response", {}),
    "explainchoice": ("question_answer", {}),
    "jeopardy": ("question_answer", {}),
    "oasst": ("alpaca", {"instruction": "INSTRUCTION", "output": "RESPONSE"}),
    "chat_template": ("messages", {}),
    "chat_template.default": ("messages", {}),
    "sharegpt": ("sharegpt", {}),
    "llama2_chat": ("sharegpt", {}),
    "completion": ("text", {}),
    "pretrain": ("text", {}),
}
"""Type of a data set -> our format, and the columns that it needs."""
STYLES = {
    "alpaca": "alpaca",
    "gpteacher": "alpaca",
    "oasst": "alpaca",
    "alpaca_chat": "vicuna",
    "llama2_chat": "llama2",
}
"""Type -> the template whose text it writes."""
_STYLE_NAMES = {"chat": "vicuna", "chatml": "chatml"}
_CHAT = ("messages", "sharegpt")
_HERE = ("path", "data_files", "ds_type", "name", "revision", "split", "type")
_OFF = (None, "", [], {}, False)


def translate_datasets(t: Translation) -> None:
    """Set the sources of rows from ``datasets``."""
    entries = t.get("datasets")
    if not isinstance(entries, list):
        if entries is not None:
            t.none("datasets", why="a list of data sets was expected")
        return
    t.seen("datasets")
    styles = set()
    for place, entry in enumerate(entries):
        if isinstance(entry, Mapping):
            styles |= _translate_one(t, entry, f"datasets.{place}")
        else:
            t.none(f"datasets.{place}", why=f"{entry!r}: a mapping with a path was expected")
    _set_style(t, styles)
    _set_masks(t, [entry for entry in entries if isinstance(entry, Mapping)], is_chat=styles == {"chat"})


def _translate_one(t: Translation, entry: Mapping[str, Any], key: str) -> set[str]:
    """Set one source; return the templates that its type writes."""
    if not entry.get("path"):
        t.none(key, why="the data set has no path")
        return set()
    names = []
    files = entry.get("data_files")
    paths = [join_path(str(entry["path"]), str(file)) for file in _listed(files)] or [str(entry["path"])]
    for path in paths:
        name = source_name(path, t.values.get("data", {}).get("mix", {}))
        names.append(name)
        t.set(f"data.mix.{name}.path", path, f"{key}.path", *([f"{key}.data_files"] if files else []))
        for ours in ("name", "revision"):
            if entry.get(ours):
                t.set(f"data.mix.{name}.{ours}", str(entry[ours]), f"{key}.{ours}")
        if entry.get("split") not in (None, "train"):
            set_split(t, name, entry["split"], f"{key}.split")
    styles = set()
    for name in names:
        styles |= _set_format(t, name, entry, key)
    if entry.get("ds_type"):
        t.same(f"{key}.ds_type", why="the type of a file is read from its ending")
    _rest(t, entry, key)
    return styles


def _listed(value: Any) -> Sequence[Any]:
    """Return a list as it is, a single value as a list, and none for None."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _set_format(t: Translation, source: str, entry: Mapping[str, Any], key: str) -> set[str]:
    """Set format, columns and roles of a source; return the templates that its type writes."""
    kind, at = entry.get("type"), f"data.mix.{source}"
    if isinstance(kind, Mapping):
        return _own_type(t, source, kind, f"{key}.type")
    name, _, style = str(kind or "").partition(":")
    base = name.partition(".load")[0]
    if kind is None:
        t.set(f"{at}.format", "tokens", f"{key} (no type: rows of token ids)")
        return set()
    known = TYPES.get(name) or TYPES.get(base)
    if known is None:
        why = f"{kind}: no format here is like this type; data.mix.{source}.format stays auto (sft formats lists all)"
        t.none(f"{key}.type", why=why)
        return set()
    row_format, columns = known
    columns = dict(columns)
    if row_format in _CHAT:
        row_format, columns = _chat_columns(t, entry, key, row_format)
    elif row_format == "text" and (field := entry.get("field") or entry.get("text_column")) not in (None, "text"):
        columns["text"] = str(field)
    t.set(f"{at}.format", row_format, f"{key}.type")
    if columns:
        read = [
            f"{key}.{field}" for field in ("field", "text_column", "field_messages", "field_tools") if field in entry
        ]
        t.set(f"{at}.columns", columns, *(read or [f"{key}.type"]))
    if row_format in _CHAT and isinstance(entry.get("roles"), Mapping):
        roles = {str(name): str(role) for role, names in entry["roles"].items() for name in _listed(names)}
        set_roles(t, source, roles, f"{key}.roles")
    written = _STYLE_NAMES.get(style) or STYLES.get(base)
    if style and style not in _STYLE_NAMES:
        t.none(f"{key}.type (:{style})", why="a prompt style without an equal; see template=")
    return {written} if written else {"chat"} if row_format in _CHAT else set()


def _chat_columns(t: Translation, entry: Mapping[str, Any], key: str, row_format: str) -> tuple[str, dict[str, str]]:
    """Return format and columns of rows with messages; report keys of a message that are not read."""
    field = str(entry.get("field_messages") or ("conversations" if row_format == "sharegpt" else "messages"))
    columns = {} if field in ("messages", "conversations") else {"messages": field}
    if entry.get("field_tools") not in (None, "tools"):
        columns["tools"] = str(entry["field_tools"])
    properties = _mapping(entry.get("message_property_mappings"))
    for ours in ("role", "content"):
        if (legacy := entry.get(f"message_field_{ours}")) is not None:
            properties.setdefault(ours, legacy)
    wrong = [f"{ours}: {name}" for ours, name in properties.items() if not _is_read(ours, str(name))]
    named = [
        name for name in ("message_property_mappings", "message_field_role", "message_field_content") if name in entry
    ]
    for name in named:
        if wrong:
            t.none(f"{key}.{name}", why=f"keys of a message that are not read: {', '.join(wrong)}; rename them")
        else:
            t.same(f"{key}.{name}", why="these keys of a message are known")
    return "sharegpt" if field == "conversations" else "messages", columns


def _mapping(value: Any) -> dict[Any, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return dict(value) if isinstance(value, Mapping) else {}


def _is_read(ours: str, name: str) -> bool:
    """Return whether a key of a message is read as its role, its content or another property."""
    from sft_cli.data.formats.message_keys import CONTENT_KEYS

    return name == ours or (ours == "role" and name == "from") or (ours == "content" and name in CONTENT_KEYS)


def _own_type(t: Translation, source: str, kind: Mapping[str, Any], key: str) -> set[str]:
    """Set a format of the user: a prompt in Python's braces, and the column of the answer."""
    fields = {name: str(kind.get(f"field_{name}") or name) for name in ("instruction", "input", "output", "system")}
    prompt, plain = kind.get("format"), kind.get("no_input_format")
    if not prompt:
        columns = {ours: column for ours, column in fields.items() if ours != "system" and ours != column}
        t.set(f"data.mix.{source}.format", "alpaca", key)
        if columns:
            t.set(f"data.mix.{source}.columns", columns, key)
        return {"alpaca"}
    text = _as_jinja(str(prompt), fields)
    if plain:
        text = f"{{% if {fields['input']} %}}{text}{{% else %}}{_as_jinja(str(plain), fields)}{{% endif %}}"
    if kind.get("system_prompt"):
        system = str(kind.get("system_format") or "{system}").replace("{system}", str(kind["system_prompt"]))
        text = system + text
    texts = {"prompt": text, "completion": f"{{{{ {fields['output']} }}}}"}
    t.set(f"data.mix.{source}.format", texts, key, why="the same text, in Jinja")
    return {"plain"}


def _as_jinja(text: str, fields: Mapping[str, str]) -> str:
    """Return a text with ``{instruction}`` and ``{input}`` as Jinja."""
    return re.sub(r"\{(instruction|input|system)\}", lambda found: f"{{{{ {fields[found[1]]} }}}}", text)


def _rest(t: Translation, entry: Mapping[str, Any], key: str) -> None:
    """Report the remaining keys of a data set."""
    handled = {*_HERE, "field", "text_column", "field_messages", "field_tools", "message_property_mappings", "roles"}
    handled |= {"message_field_role", "message_field_content", "roles_to_train", "train_on_eos", "train_on_eot"}
    handled |= {"chat_template", "chat_template_jinja"}
    for name, value in entry.items():
        if name in handled or value in _OFF:
            continue
        known = ("train", "training", "weight", "train_detail", "training_detail", "reasoning_content", "thinking")
        if name in ("message_field_training", "message_field_training_detail", "field_thinking") and value in known:
            t.same(f"{key}.{name}", why="read under this name")
        elif name == "trust_remote_code":
            t.none(f"{key}.{name}", why="no code of a data set is run")
        else:
            t.none(f"{key}.{name}", why="not read here; change the rows, or see sft formats")


def _set_style(t: Translation, styles: set[str]) -> None:
    """Choose the template that the types write, or that ``chat_template`` names."""
    entries = [entry for entry in t.get("datasets") if isinstance(entry, Mapping)]
    inner = [(f"datasets.{place}.chat_template", entry["chat_template"]) for place, entry in enumerate(entries)
             if entry.get("chat_template")]  # fmt: skip
    texts = [(f"datasets.{place}.chat_template_jinja", entry["chat_template_jinja"]) for place, entry in
             enumerate(entries) if entry.get("chat_template_jinja")]  # fmt: skip
    named = [("chat_template", t.get("chat_template"))] if t.has("chat_template") else []
    texts = [("chat_template_jinja", t.get("chat_template_jinja"))] if t.has("chat_template_jinja") else texts
    written = styles - {"chat"}
    chosen = [*named, *inner]
    if texts:
        key, text = texts[0]
        set_template_text(t, str(text), key)
        for other, _ in [*chosen, *texts[1:]]:
            t.none(other, why="one template renders all rows: the first one given as Jinja") if other != key else None
        return
    if written and "chat" not in styles:
        style = sorted(written)[0]
        t.choose("template", style, "datasets (prompt of the type)", why="the text that this type writes")
        for key, _ in chosen:
            t.none(key, why="rows of these types are not rendered by it there")
        if len(written) > 1:
            t.none("datasets", why=f"one template renders all rows here: {style}, not {', '.join(sorted(written)[1:])}")
        return
    for place, (key, value) in enumerate(chosen):
        if place and value != chosen[0][1]:
            t.none(key, why="one template renders all rows; the first one is taken")
        else:
            choose_template(t, value, key, "axolotl")
    if written:
        t.none(
            "datasets", why="one template renders all rows here, the chat template; the alpaca types wrote their own"
        )


def set_template_text(t: Translation, text: str, key: str) -> None:
    """Set a Jinja template, given as a text or as a file."""
    if "{%" in text or "{{" in text:
        t.texts[".jinja"] = text
        t.set("template.path", "???", key, why="written next to the recipe")
    else:
        t.set("template.path", text, key)


def _set_masks(t: Translation, entries: Sequence[Mapping[str, Any]], *, is_chat: bool) -> None:
    """Set the trained tokens from ``train_on_inputs`` and the data sets' ``roles_to_train``.

    With ``train_on_inputs``, chat rows are trained on the texts of all turns there, other rows on every token.
    """
    given = [_listed(entry["roles_to_train"]) for entry in entries if entry.get("roles_to_train") is not None]
    roles = {frozenset(map(str, names)) for names in given}
    keys = [f"datasets.{place}.roles_to_train" for place, entry in enumerate(entries)
            if entry.get("roles_to_train") is not None]  # fmt: skip
    if t.get("train_on_inputs"):
        if is_chat:
            why = "texts of all turns, without tags; here not those of system messages"
            t.change("data.train_on", "contents", "train_on_inputs", why=why)
        else:
            t.set("data.train_on", "all", "train_on_inputs")
        t.none(*keys, why="train_on_inputs trains all tokens") if keys else None
    else:
        t.set("data.train_on", "assistant", "train_on_inputs")
        _set_trained_roles(t, roles, keys)
    for place, entry in enumerate(entries):
        for name in ("train_on_eos", "train_on_eot"):
            value = entry.get(name)
            if value == "turn":
                t.same(f"datasets.{place}.{name}", why="one stop token a trained turn, as here")
            elif value is not None:
                t.none(f"datasets.{place}.{name}", why=f"{value}: here the stop token of each trained turn is trained")


def _set_trained_roles(t: Translation, roles: set[frozenset[str]], keys: Sequence[str]) -> None:
    """Set the trained tokens from the roles that every data set trains."""
    if len(roles) > 1:
        t.none(*keys, why="the same roles are trained in all sources here; data.train_on stays assistant")
        return
    for trained in roles:
        known = {"assistant" if role in ("assistant", "gpt", "model") else "user" if role in ("user", "human") else role
                 for role in trained}  # fmt: skip
        if known <= {"assistant"} and known:
            t.same(*keys, why="assistant turns are trained")
        elif known == {"assistant", "user"}:
            t.set("data.train_on", "contents", *keys, why="texts of user and assistant, without tags")
        else:
            t.none(
                *keys, why=f"{', '.join(sorted(trained)) or 'none'}: data.train_on is assistant, last, contents or all"
            )
