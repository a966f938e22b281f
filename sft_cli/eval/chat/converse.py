"""One prompt, or a conversation typed by a person or read from a pipe."""

import sys
from contextlib import suppress

from sft_cli.eval.chat import reading
from sft_cli.eval.chat.display import note
from sft_cli.eval.chat.model import ChatModel
from sft_cli.eval.chat.session import ChatOptions, ChatSession, EndOfChat
from sft_cli.eval.chat.target import ChatTarget
from sft_cli.progress import clear_progress


def converse(model: ChatModel, target: ChatTarget, options: ChatOptions, prompt: str | None) -> None:
    """Answer one prompt, or a conversation that is read from standard input.

    Args:
        model: The model.
        target: What it was loaded from.
        options: The options.
        prompt: The prompt; None reads standard input.
    """
    if options.proposals:
        model.check_proposals()
    is_typed = prompt is None and sys.stdin.isatty()
    session = ChatSession(model, target, options, is_typed=is_typed)
    clear_progress()  # from now on only answers are printed
    if prompt is not None:
        session.handle(prompt if not prompt.startswith("/") else f"/{prompt}")
        return
    if not is_typed:
        with suppress(EndOfChat):
            for message in reading.messages(sys.stdin):
                session.handle(message)
        return
    note(f"chat      {target.name}; Ctrl-C stops an answer, Ctrl-D ends, /help lists the commands")
    if options.proposals:
        session.propose(options.proposals)
    lines = reading.TypedLines()
    with suppress(EndOfChat):
        for message in reading.messages(lines):
            session.handle(message)
            lines.begin_message()
