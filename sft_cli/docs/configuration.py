"""Generate the page ``configuration`` from the schema: groups with their options, and every key."""

import re
from collections.abc import Iterator

from sft_cli.config.explain import describe_type, key_doc, summary
from sft_cli.config.files.search_path import GROUPS, package_dir
from sft_cli.config.files.yaml_io import write_yaml
from sft_cli.config.keys.valid_keys import KEYS, Key
from sft_cli.config.validate import to_plain

_INTRODUCTION = """\
# Configuration

This page is generated from the schema. `sft show --keys PATTERN` prints the same text for the keys whose names match.

- On the command line write `KEY=VALUE`: `trainer.lr=1e-4`. In a file write the same names nested.
- `<name>` is a name of your choice: `trainer.retention.probes.facts.path=facts.jsonl`.
- `[]` is an item of a list, written in a file: `stages: [{name: short, share: 1}]`.
- A mapping takes single entries, `trainer.lr_factors.embed_tokens=0.1`, or all at once,
  `'trainer.lr_factors={embed_tokens: 0.1}'`.
- A list is written in brackets without spaces: `adapter.target_modules=[q_proj,v_proj]`.
- A group is chosen as `GROUP=OPTION`. Its options are files of `configs/GROUP/`: of the package, of
  `./configs/`, or of a directory given with `-d`.

## Groups

| group | options |
|---|---|
"""
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_CODE = re.compile(r"(``.*?``)")
_SPECIAL = re.compile(r"[\\*<\[]")


def configuration_page() -> str:
    """Return the page as Markdown."""
    groups = "".join(f"| `{group}` | {_options(group)} |\n" for group in GROUPS)
    return _INTRODUCTION + groups + "".join(_sections())


def _options(group: str) -> str:
    """Return the package's options of a group, sorted."""
    names = sorted(file.stem for file in (package_dir("configs") / group).glob("*.yaml"))
    return ", ".join(f"`{name}`" for name in names)


def _sections() -> Iterator[str]:
    """Yield each section of the schema: a heading, its summary, and one list item for each key."""
    sections: dict[str, list[Key]] = {}
    for key in KEYS.values():
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    for name, keys in sections.items():
        title = f"`{name}`" if name else "Top level"
        yield f"\n## {title}\n\n{_escaped(summary(keys[0].section))}\n\n"
        yield from map(_item, keys)


def _item(key: Key) -> str:
    """Return a list item with a key's type, limits, default and documentation."""
    default = write_yaml(to_plain(key.default), flow=True)
    bounds = "".join(f", {_BOUNDS[name]} {bound}" for name, bound in key.limits.items())
    kind = describe_type(key.kind).replace(" | ", " / ")
    return f"- **`{key.name}`** ({_escaped(kind + bounds)}; default `{default}`): {_escaped(key_doc(key))}\n"


def _escaped(text: str) -> str:
    """Return the text with Markdown markup escaped, except in code."""
    parts = _CODE.split(text)
    return "".join(part if part.startswith("``") else _SPECIAL.sub(r"\\\g<0>", part) for part in parts)
