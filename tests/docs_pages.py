"""Code blocks and commands of the README and the pages of ``sft docs``, for tests."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "sft_cli" / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = [file for file in sorted(DOCS.glob("*.md")) if file.stem != "README"]
PAGES = {"README": README} | {file.stem: file.read_text(encoding="utf-8") for file in FILES}
"""Every page by its name."""


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language, without their fences."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> list[str]:
    """Return the lines of the shell blocks, without comments; a line that ends in a backslash goes on."""
    joined = "\n".join(blocks(text, "sh")).replace("\\\n", " ")
    return [line for line in (re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines()) if line]


def sft_commands(text: str) -> list[list[str]]:
    """Return the arguments of every ``sft`` command in the shell blocks, the name of the program left out."""
    parts = [part for line in command_lines(text) for part in line.split(" && ")]
    return [shlex.split(part)[1:] for part in parts if part.startswith("sft ")]


ALL_COMMANDS = [(name, words) for name, text in PAGES.items() for words in sft_commands(text)]
"""The page and the arguments of every ``sft`` command that any page shows in a shell block."""
