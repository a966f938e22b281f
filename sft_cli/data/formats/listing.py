"""The list of formats as ``sft formats`` prints it."""

import json

from sft_cli.data.formats import plugins
from sft_cli.data.formats.registry import FORMATS

_OWN = """your own: Jinja over the columns of a row, for the fields of any format above
    format:
      messages: "{{ [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': steps | join(' ')}] }}"
or a function of an installed package, by an entry point of the group sft_cli.formats"""


def describe() -> str:
    """Every format: what it is, the columns it needs and reads, and an example row; then those of packages."""
    blocks = []
    for name, shape in FORMATS.items():
        lines = [f"{name}: {shape.says}"]
        if shape.required:
            lines.append(f"    columns: {', '.join(shape.required)}")
        if shape.optional:
            lines.append(f"    may have: {', '.join(shape.optional)}")
        lines.append(f"    example: {json.dumps(shape.example, ensure_ascii=False)}")
        blocks.append("\n".join(lines))
    for points in plugins.installed().values():
        blocks += [f"{plugins.label(point)}: of an installed package, {point.value}" for point in points]
    return "\n\n".join([*blocks, _OWN])
