"""Data sets of LLaMA-Factory: names that ``dataset_info.json`` describes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.importing.sources import join_path, set_roles, source_name
from sft_cli.importing.training import split_names
from sft_cli.importing.translation import Translation

COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
"""Column of an Alpaca row -> its name in our format; other columns have the same name."""
_ROLES = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "tool_call",
          "system_tag": "system"}  # fmt: skip
_MEDIA = ("images", "videos", "audios")


def translate_datasets(t: Translation) -> None:
    """Set the sources of rows from ``dataset``, their held-out rows, sizes and weights."""
    names = split_names(t.get("dataset"))
    made = [_translate_one(t, name) for name in names]
    t.seen("dataset") if made else t.none("dataset", why="no data set is named")
    t.seen("dataset_dir")
    if (most := t.get("max_samples")) is not None:
        for source in made:
            t.set(f"data.mix.{source}.max_rows", most, "max_samples", why="of each source, here chosen by the seed")
    if t.get("streaming"):
        for source in made:
            t.set(f"data.mix.{source}.stream", True, "streaming")
            if most is None:
                t.ask(f"data.mix.{source}.max_rows=N", "streaming", why="a stream is read up to a number of rows")
    _mixing(t, made)
    _held_out(t, made)


def _translate_one(t: Translation, name: str) -> str:
    """Set one source, and return its name here."""
    taken = t.values.get("data", {}).get("mix", {})
    source, key = source_name(name, taken), f"dataset.{name}"
    at, info = f"data.mix.{source}", t.config.data_info
    if t.get("dataset_dir") == "ONLINE":
        t.set(f"{at}.path", name, key)
        t.set(f"{at}.format", "alpaca", f"{key} (no description: Alpaca rows)")
        return source
    entry = None if info is None else info.get(name)
    if not isinstance(entry, Mapping):
        t.set(f"{at}.path", "???", f"{key} (file)")
        missing = (
            "no dataset_info.json was found next to the config"
            if info is None
            else "dataset_info.json has no such name"
        )
        t.ask(f"{at}.path=FILE", key, why=missing)
        return source
    _set_path(t, entry, at, key)
    if entry.get("ranking"):
        t.set(f"{at}.format", "chosen", f"{key}.ranking", why="the chosen answers are trained on")
    elif entry.get("formatting", "alpaca") == "alpaca":
        _alpaca(t, entry, at, key)
    else:
        _messages(t, entry, source, key)
    return source


def _set_path(t: Translation, entry: Mapping[str, Any], at: str, key: str) -> None:
    """Set where the rows of a source are."""
    if url := entry.get("hf_hub_url"):
        folder = entry.get("folder")
        t.set(f"{at}.path", join_path(str(url), f"{folder}/*") if folder else str(url), f"{key}.hf_hub_url")
        for theirs, ours in (("subset", "name"), ("split", "split")):
            if entry.get(theirs) not in (None, "train"):
                t.set(f"{at}.{ours}", str(entry[theirs]), f"{key}.{theirs}")
    elif file := entry.get("file_name"):
        folder = t.config.data_dir or Path(str(t.get("dataset_dir")))
        t.set(f"{at}.path", str(folder / str(file)), f"{key}.file_name")
    else:
        where = next(
            (name for name in ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name") if entry.get(name)), ""
        )
        t.set(f"{at}.path", "???", f"{key} (file)")
        t.ask(f"{at}.path=FILE", key, why=f"rows are read from files, URLs and the hub, not by {where or 'this entry'}")
    if entry.get("num_samples"):
        t.set(f"{at}.max_rows", entry["num_samples"], f"{key}.num_samples", why="here chosen by the seed")


def _alpaca(t: Translation, entry: Mapping[str, Any], at: str, key: str) -> None:
    """Set the columns of Alpaca rows."""
    t.set(f"{at}.format", "alpaca", f"{key}.formatting")
    columns, read = {}, []
    for theirs, column in dict(entry.get("columns") or {}).items():
        if theirs in _MEDIA:
            t.none(f"{key}.columns.{theirs}", why="this is fine-tuning on text only")
        elif theirs in (*COLUMNS, "system", "history", "tools"):
            ours = COLUMNS.get(theirs, theirs)
            read.append(f"{key}.columns.{theirs}")
            if ours != column:
                columns[ours] = str(column)
        else:
            t.none(f"{key}.columns.{theirs}", why="a column of preference rows, not read")
    if columns:
        t.set(f"{at}.columns", columns, *read)
    elif read:
        t.same(*read, why="the names that the format expects")


def _messages(t: Translation, entry: Mapping[str, Any], source: str, key: str) -> None:
    """Set columns, keys and roles of rows with messages."""
    at, columns, tags = f"data.mix.{source}", dict(entry.get("columns") or {}), dict(entry.get("tags") or {})
    field = str(columns.get("messages", "conversations"))
    ours = "messages" if field == "messages" else "sharegpt"
    t.set(f"{at}.format", ours, f"{key}.formatting")
    named = {"messages": field} if ours == "messages" else {"conversations": field}
    named |= {name: str(columns[name]) for name in ("system", "tools") if columns.get(name)}
    changed = {name: column for name, column in named.items() if name != column}
    read = [f"{key}.columns.{name}" for name in columns if name not in _MEDIA]
    if changed:
        t.set(f"{at}.columns", changed, *(read or [f"{key}.formatting"]))
    elif read:
        t.same(*read, why="the names that the format expects")
    for name in _MEDIA:
        t.none(*([f"{key}.columns.{name}"] if name in columns else []), why="this is fine-tuning on text only")
    roles = {str(tags[tag]): role for tag, role in _ROLES.items() if tag in tags}
    if roles:
        set_roles(t, source, roles, f"{key}.tags")
    for tag, known in (("role_tag", ("role", "from")), ("content_tag", ("content", "value"))):
        if tag in tags and tags[tag] in known:
            t.same(f"{key}.tags.{tag}", why="this key of a message is known")
        elif tag in tags:
            t.none(f"{key}.tags.{tag}", why=f"a message's key is {' or '.join(known)} here; rename it in the rows")


def _mixing(t: Translation, sources: list[str]) -> None:
    """Set how several sources are mixed."""
    strategy, weights = t.get("mix_strategy"), split_names(t.get("interleave_probs"))
    if strategy in (None, "concat"):
        t.same("mix_strategy", why="every source once an epoch, as here")
        return
    t.set("data.strategy", "equal", "mix_strategy", "interleave_probs", why="shares by weight, regardless of size")
    t.set(
        "data.stopping_strategy",
        "all_exhausted" if strategy == "interleave_over" else "first_exhausted",
        "mix_strategy",
    )
    for source, weight in zip(sources, weights, strict=False):
        t.set(f"data.mix.{source}.weight", t.as_number(weight, "interleave_probs"), "interleave_probs")


def _held_out(t: Translation, sources: list[str]) -> None:
    """Set the held-out rows."""
    value = t.number("val_size")
    if names := split_names(t.get("eval_dataset")):
        t.set("data.val_fraction", 0, "eval_dataset (the only held-out rows)")
        info = t.config.data_info or {}
        if (
            len(names) == len(sources) == 1
            and isinstance(entry := info.get(names[0]), Mapping)
            and entry.get("file_name")
        ):
            folder = t.config.data_dir or Path(str(t.get("dataset_dir")))
            t.set(f"data.mix.{sources[0]}.validation_path", str(folder / str(entry["file_name"])), "eval_dataset")
        else:
            t.ask("data.mix.<name>.validation_path=FILE", "eval_dataset", why="held-out rows belong to a source")
    elif value is not None and value >= 1:
        t.set("data.val_rows", int(value), "val_size")
    else:
        t.set("data.val_fraction", value or 0, "val_size")
