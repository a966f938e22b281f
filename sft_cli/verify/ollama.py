"""Ollama's replacement of chat templates.

``ollama create`` compares the Jinja template in a GGUF file with those of models that it knows. If one is within 100
edits, Ollama renders its own Go template instead, and a changed line of ours is lost without a word.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from sft_cli.errors import SftError
from sft_cli.verify.finding import VerifyFinding

MAX_EDITS = 100
OWN = ("alpaca", "chatml", "llama2", "vicuna")
"""Templates of this package whose formats Ollama knows."""


def known_templates(file: Path | None) -> tuple[dict[str, str], str]:
    """Return known templates by name and the place that they are from.

    Args:
        file: ``template/index.json`` in a checkout of Ollama; None means the templates of this package.

    Raises:
        SftError: The file is not such a list.
    """
    if file is None:
        folder = files("sft_cli.configs") / "template"
        return {name: (folder / f"{name}.jinja").read_text(encoding="utf-8") for name in OWN}, "this package"
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {entry["name"]: entry["template"] for entry in entries}, str(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SftError(
            where=f"--ollama-templates {file}",
            problem="it is not a list of templates with name and template",
            fix="--ollama-templates PATH/template/index.json of a checkout of Ollama",
        ) from error


def check_replacement(template: str, known: Mapping[str, str], place: str) -> Iterator[VerifyFinding]:
    """Yield whether a template would be replaced by that of a known model."""
    near = {name: count for name, other in known.items() if (count := edits(template, other, MAX_EDITS)) is not None}
    compared = f"compared with {len(known)} templates of {place}"
    if not near:
        yield VerifyFinding("ollama", "ok", f"the template is more than {MAX_EDITS} edits from known ones ({compared})")
        return
    name = min(near, key=lambda name: near[name])
    fix = "start Ollama with OLLAMA_GO_TEMPLATE=0"
    if near[name] == 0:
        text = f"the template is {name}'s, so Ollama may render its own translation of it ({compared})"
        yield VerifyFinding("ollama", "note", text, fix)
        return
    text = f"the template is {near[name]} edits from {name}'s: Ollama renders its own instead ({compared})"
    yield VerifyFinding("ollama", "refused", text, fix)


def edits(first: str, second: str, limit: int) -> int | None:
    """Return the Levenshtein distance of two texts; None if it is above ``limit``."""
    if abs(len(first) - len(second)) > limit:
        return None
    start = 0
    while start < min(len(first), len(second)) and first[start] == second[start]:
        start += 1
    first, second = first[start:], second[start:]
    far = limit + 1
    row = {at: at for at in range(min(len(second), limit) + 1)}
    for i, letter in enumerate(first, 1):
        low, high = max(0, i - limit), min(len(second), i + limit)
        new: dict[int, int] = {}
        for j in range(low, high + 1):
            if j == 0:
                new[0] = i
                continue
            same = row.get(j - 1, far) + (letter != second[j - 1])
            new[j] = min(same, row.get(j, far) + 1, new.get(j - 1, far) + 1)
        row = new
        if min(row.values()) > limit:
            return None
    distance = row.get(len(second), far)
    return distance if distance <= limit else None
