"""Every fix in the source offers what can be pasted: read statically, from the literals that errors are made of.

``test_pasted_fixes`` runs the fixes of a list of mistakes. This test sees all the others, whose errors are hard to
provoke: a fix that tells someone to set or choose something must hold the setting, the option or the command.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest

from sft_cli.config.files.search_path import GROUPS
from sft_cli.config.schema.config import Config

PACKAGE = Path(__file__).resolve().parents[2] / "sft_cli"
VALUE = "§"
"""Stands for a value that is filled in at run time."""
SETTING_VERBS = (
    "a smaller",
    "a larger",
    "a different",
    "another",
    "check",
    "choose",
    "evaluate",
    "freeze",
    "leave",
    "lower",
    "name",
    "raise",
    "resume",
    "run sft",
    "see",
    "set",
    "start",
    "switch",
    "take",
    "train",
    "try",
    "type",
    "use",
)
"""How an alternative begins that speaks of settings and commands; others speak of the user's files, or remove."""
PASTED = re.compile(
    rf"[\w.{VALUE}<>]+=[^\s,;]|(?<!\w)--?[a-z]|\bsft [a-z{VALUE}]|`[^`]+`|{VALUE}|\bexport [A-Z]|\b(pip|sudo|hf|mv|cp) "
)
"""A setting, an option, a command, quoted text, or a value that may hold one of these."""
EMPTY_SETTING = re.compile(r"(?<![\w\"'])[a-z][\w.]*=(?=$|[\s,;?)]|\.(?:\s|$))")
BARE_KEY = re.compile(rf"(?<![\w.{VALUE}\"'(<-])([a-z]\w*)=(?!=)")
TOP_LEVEL = {*GROUPS, "recipe", *(field.name for field in fields(Config)), "key"}
"""Keys without a dot, and the word that stands for any key."""


FIX_ARGUMENT = {"ConfigError": 2, "OptionError": 2, "item_error": 2, "error": 3}
"""Functions that take the fix by position -> its place among the arguments."""


class FixText(NamedTuple):
    place: str
    text: str


def literals(node: ast.AST) -> Iterator[str]:
    """Yield the texts that an expression may be, with ``VALUE`` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for part in node.values:
            yield from literals(part)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = ([*literals(side)] or [VALUE] for side in (node.left, node.right))
        yield from (before + after for before in left for after in right)


def assigned(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the expressions that a keyword or a variable named fix gets."""
    if isinstance(node, ast.keyword) and node.arg == "fix":
        yield node.value
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        yield from node.args[slice(FIX_ARGUMENT[name], FIX_ARGUMENT[name] + 1)] if name in FIX_ARGUMENT else ()
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id.lower().endswith("fix"):
                yield node.value
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=False)
                yield from (value for name, value in pairs if isinstance(name, ast.Name) and name.id == "fix")


def fix_texts(source: str, place: str) -> list[FixText]:
    """Return the fixes in a module's source."""
    nodes = [value for node in ast.walk(ast.parse(source)) for value in assigned(node)]
    return [FixText(f"{place}:{node.lineno}", text) for node in nodes for text in literals(node) if text]  # pyright: ignore


def package_fixes() -> list[FixText]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [
        fix for file in files for fix in fix_texts(file.read_text(encoding="utf-8"), str(file.relative_to(PACKAGE)))
    ]


def fault(text: str) -> str | None:
    """Return what is wrong with a fix, or None."""
    if found := EMPTY_SETTING.search(text):
        return f"{found[0]} has no value"
    if found := next((one for one in BARE_KEY.finditer(text) if one[1] not in TOP_LEVEL), None):
        return f"{found[0]} is no whole key"
    for alternative in re.split(r"(?:,|;)? \bor\b |\n|; |, then ", text):
        begins = alternative.strip().startswith(tuple(f"{verb} " for verb in SETTING_VERBS))
        if begins and not PASTED.search(alternative):
            return f"{alternative.strip()!r} has nothing to paste"
    return None


FIXES = package_fixes()


def test_fixes_are_found():
    assert len(FIXES) > 400


def test_every_fix_can_be_pasted():
    assert [f"{fix.place}: {problem}" for fix in FIXES if (problem := fault(fix.text))] == []


@pytest.mark.parametrize(
    "source",
    [
        "raise SftError(where=w, problem=p, fix='choose another template=')",
        "raise SftError(where=w, problem=p, fix='set stream=false for this source')",
        "raise SftError(where=w, problem=p, fix=f'did you mean {near}?' if near else 'choose one of these')",
        "fix = 'adapter=lora, or a smaller adapter.rank'",
        "problem, fix = f'{a}', 'evaluate it again'",
        "ConfigError(k, p, 'choose another name')",
        "SftError(fix=(f'did you mean {near}? ' if near else '') + 'take it out of the mix')",
    ],
)
def test_fragments_are_found(source):
    assert [fix for fix in fix_texts(source, "example.py") if fault(fix.text)]


@pytest.mark.parametrize(
    "source",
    [
        "SftError(fix='adapter=lora, or adapter.rank=8')",
        "SftError(fix='remove it, or write key: value in the row')",
        "SftError(fix=f'evaluate it: sft eval {path} eval=SUITE')",
        "SftError(fix='correct the row, or save the file as UTF-8')",
    ],
)
def test_whole_fixes_are_accepted(source):
    assert [fix.text for fix in fix_texts(source, "example.py") if fault(fix.text)] == []
