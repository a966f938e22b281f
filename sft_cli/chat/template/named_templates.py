"""Read and write the named chat templates of a tokenizer, as transformers stores them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError

DEFAULT = "default"
TOOL_USE = "tool_use"
"""Name of the template that transformers uses for conversations with tools."""
TEMPLATE_FILE = "chat_template.jinja"
FOLDER = "additional_chat_templates"
"""Name of the directory with the templates other than the default, one file each, in a tokenizer's directory."""
_NAME = re.compile(r"[\w.-]*\w[\w.-]*")


def read_named_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the templates of a tokenizer by name; empty if it has none.

    Files come first, as in transformers: templates in the configuration are used only if there is no file.

    Args:
        directory: The tokenizer's directory.
        config: Its tokenizer_config.json.

    Raises:
        SftError: The configuration contains templates in a form that transformers does not read.
    """
    templates = {}
    file = directory / TEMPLATE_FILE
    if file.exists():
        templates[DEFAULT] = file.read_text(encoding="utf-8")
    for other in named_template_files(directory):
        templates[other.name.removesuffix(".jinja")] = other.read_text(encoding="utf-8")
    value = config.get("chat_template")
    if templates or value is None:
        return templates
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    texts = isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
    if not texts or not all(map(_NAME.fullmatch, value)):
        raise SftError(
            where=f"{directory}/tokenizer_config.json",
            problem="chat_template is neither a text nor a list of {name, template}",
            fix="correct it there, or choose a template file: template.path=FILE.jinja",
        )
    return dict(value)


def write_named_templates(named: Mapping[str, str], directory: Path) -> None:
    """Write the templates other than the default into a tokenizer's directory."""
    for name, source in named.items():
        (directory / FOLDER).mkdir(exist_ok=True)
        (directory / FOLDER / f"{name}.jinja").write_text(source, encoding="utf-8")


def named_template_files(directory: Path) -> list[Path]:
    """Return the files of the templates other than the default."""
    return sorted((directory / FOLDER).glob("*.jinja"))
