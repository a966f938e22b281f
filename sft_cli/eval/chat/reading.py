"""Reading messages: one line each, or several lines between triple quotes or after a backslash."""

import sys
from collections.abc import Iterable, Iterator

from sft_cli.eval.chat.display import note

PROMPT, MORE = "> ", ". "
"""Texts before a message and before its further lines."""
QUOTES = '"""'


def messages(lines: Iterable[str | None]) -> Iterator[str]:
    """Yield the messages in lines: several lines between triple quotes, or joined by a backslash at their end.

    None in place of a line discards the message that has begun.
    """
    parts: list[str] = []
    quoted = False
    for line in lines:
        if line is None:
            parts, quoted = [], False
            continue
        text = line.rstrip("\r\n")
        if not parts and not quoted and text.lstrip().startswith(QUOTES):
            text, quoted = text.lstrip().removeprefix(QUOTES), True
            if not text.strip():
                continue
        if quoted:
            ends = text.rstrip().endswith(QUOTES)
            parts.append(text.rstrip().removesuffix(QUOTES) if ends else text)
            quoted = not ends
        else:
            parts.append(text.removesuffix("\\"))
            if text.endswith("\\"):
                continue
        if not quoted:
            yield "\n".join(parts).strip()
            parts = []
    if parts:
        yield "\n".join(parts).strip()


class TypedLines:
    """The lines that a person types; the prompt goes to standard output only if that is a terminal."""

    def __init__(self) -> None:
        self._on_screen = sys.stdout.isatty()
        self._begins = True
        if self._on_screen:
            import readline  # noqa: F401  # lets input() edit lines and recall earlier ones

    def begin_message(self) -> None:
        """Show the prompt of a new message before the next line."""
        self._begins = True

    def __iter__(self) -> Iterator[str | None]:
        """Yield the lines until Ctrl-D; after Ctrl-C None, which discards the message."""
        while True:
            prompt = PROMPT if self._begins else MORE
            self._begins = False
            if not self._on_screen:
                print(prompt, end="", file=sys.stderr, flush=True)
            try:
                yield input(prompt if self._on_screen else "")
            except EOFError:
                note("")
                return
            except KeyboardInterrupt:
                note("\nCtrl-D or /exit ends")
                self._begins = True
                yield None
