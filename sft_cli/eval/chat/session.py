"""A conversation: messages, commands, and the answers of a model and its base."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sft_cli.errors import SftError
from sft_cli.eval.chat import reading
from sft_cli.eval.chat.display import AnswerWriter, can_show_side_by_side, note, print_side_by_side
from sft_cli.eval.chat.saved_rows import append_row
from sft_cli.eval.chat.target import ChatTarget
from sft_cli.utils.home import expand_home
from sft_cli.utils.similar import closest_name

if TYPE_CHECKING:
    from sft_cli.eval.chat.model import ChatModel, Messages

CHAT_COMMANDS = {
    "/system": "TEXT: set the system message; without TEXT, print it",
    "/retry": "[TEMPERATURE]: answer the last message again, sampled",
    "/tokens": "print the token ids of the last exchange and what of them training would learn",
    "/tools": "print the tools that the model is shown",
    "/tool": "TEXT: the result of a tool call, as the next message",
    "/suggest": "[N]: propose N next questions; /1 asks the first",
    "/save": "FILE: append the conversation as a row that sft prepare reads",
    "/reset": "start a new conversation",
    "/help": "list these commands",
    "/exit": "end, like Ctrl-D",
}
"""Lines that are not messages, and what they do."""
DEFAULT_PROPOSALS = 3


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The options of a conversation.

    Attributes:
        system: The system message; empty for none.
        tools: Schemas of tools that the model is shown.
        compare: Whether the base model answers, too.
        proposals: Number of questions proposed after each answer; 0 for none.
        temperature: Temperature of the answers; 0 if they are greedy.
    """

    system: str
    tools: Sequence[dict[str, Any]] = ()
    compare: bool = False
    proposals: int = 0
    temperature: float = 0.0


class EndOfChat(Exception):
    """The user ended the conversation."""


class ChatSession:
    """A conversation with a model, and a second one with its base if they are compared.

    Args:
        model: The model.
        target: What it was loaded from.
        options: The options.
        is_typed: Whether a person types; otherwise an error ends the command.
    """

    def __init__(self, model: "ChatModel", target: ChatTarget, options: ChatOptions, *, is_typed: bool) -> None:
        self._model, self._target, self._options, self._is_typed = model, target, options, is_typed
        self._system, self._answers, self._questions = options.system, 0, list[str]()
        self._turns: Messages = []
        self._base_turns: Messages = []
        self._last_ids: tuple[int, ...] = ()

    def handle(self, line: str) -> None:
        """Answer a message or run a command; two slashes begin a message that starts with one.

        Raises:
            SftError: The message does not fit, or there is no such command; only if nobody types.
            EndOfChat: The conversation is over.
        """
        try:
            if line.startswith("/") and not line.startswith("//"):
                self._run_command(*line.split(maxsplit=1))
            elif line:
                self._ask({"role": "user", "content": line.removeprefix("/") if line.startswith("//") else line})
        except SftError as error:
            if not self._is_typed:
                raise
            note(f"error: {error}")

    def propose(self, count: int) -> None:
        """Print proposed questions."""
        self._questions = self._model.propose(self._messages(), count, self._answers)
        for number, question in enumerate(self._questions, 1):
            note(f"/{number:<8} {question}")
        if not self._questions:
            note("suggest   the model proposes no question here")

    def _run_command(self, name: str, argument: str = "") -> None:
        """Run a command.

        Raises:
            SftError: There is no such command, or its argument is wrong.
        """
        if name[1:].isdigit():
            return self._ask_proposed(int(name[1:]))
        commands: dict[str, Callable[[str], None]] = {
            "/system": self._set_system,
            "/retry": self._retry,
            "/tokens": lambda _: self._print_tokens(),
            "/tools": lambda _: self._print_tools(),
            "/tool": self._tool_result,
            "/suggest": lambda text: self.propose(_number(text, DEFAULT_PROPOSALS)),
            "/save": self._save,
            "/reset": lambda _: self._reset(),
            "/help": lambda _: print_help(),
            "/exit": lambda _: self._exit(),
        }
        if name in commands:
            return commands[name](argument.strip())
        close = closest_name(name[1:], [command[1:] for command in commands])
        fix = f"did you mean /{close}?" if close else "/help lists the commands"
        raise SftError(where=name, problem="there is no such command", fix=f"{fix} (//{name[1:]} is a message)")

    def _messages(self, *, base: bool = False) -> "Messages":
        """Return the conversation with the system message."""
        first = [{"role": "system", "content": self._system}] if self._system else []
        return [*first, *(self._base_turns if base else self._turns)]

    def _ask(self, message: dict[str, Any], temperature: float | None = None) -> None:
        """Answer a message; it and the answer become part of the conversation."""
        self._answers += 1
        base = self._generate([*self._messages(base=True), message], temperature, base=True)
        tuned = self._generate([*self._messages(), message], temperature, base=False)
        if base is not None and can_show_side_by_side():
            print_side_by_side(("base", "tuned"), (base, tuned or ""))
        self._turns += [message, {"role": "assistant", "content": tuned or ""}]
        if base is not None:
            self._base_turns += [message, {"role": "assistant", "content": base}]
        if self._options.proposals:
            self.propose(self._options.proposals)

    def _generate(self, messages: "Messages", temperature: float | None, *, base: bool) -> str | None:
        """Generate and print an answer, or only return it if two are printed side by side; None without comparison."""
        if base and not self._options.compare:
            return None
        silent = self._options.compare and can_show_side_by_side()
        label = ("base      " if base else "tuned     ") if self._options.compare else ""
        writer = AnswerWriter("" if silent else label)
        pieces: list[str] = []
        write = pieces.append if silent else writer.write
        answer = self._model.answer(messages, write, number=self._answers, base=base, temperature=temperature)
        if not silent:
            writer.close()
        if answer.interrupted and not self._is_typed:
            raise KeyboardInterrupt
        if answer.cut:
            whose = "base model's " if base else ""
            note(f"warning: the {whose}answer was cut after eval.max_new_tokens={len(answer.ids)}")
        if not base:
            self._last_ids = answer.ids
        return "".join(pieces) if silent else writer.text

    def _ask_proposed(self, number: int) -> None:
        """Ask a proposed question."""
        if not 1 <= number <= len(self._questions):
            known = f"/1 to /{len(self._questions)}" if self._questions else "/suggest proposes some"
            raise SftError(where=f"/{number}", problem="there is no such proposed question", fix=known)
        note(f"{reading.PROMPT}{self._questions[number - 1]}")
        self._ask({"role": "user", "content": self._questions[number - 1]})

    def _set_system(self, text: str) -> None:
        """Set or print the system message."""
        if text:
            self._system = text
        note(f"system    {self._system or 'none'}")

    def _retry(self, text: str) -> None:
        """Answer the last message again; a greedy answer would be the same, so it needs a temperature."""
        if not self._turns:
            raise SftError(where="/retry", problem="there is no answer yet", fix="ask something first")
        temperature = None
        if text or not self._options.temperature:
            if not text:
                problem = "the answers are greedy, so it would be the same again"
                raise SftError(where="/retry", problem=problem, fix="/retry 0.8 samples at that temperature")
            with suppress(ValueError):
                temperature = float(text)
            if temperature is None or not 0 < temperature < float("inf"):
                raise SftError(where=f"/retry {text}", problem="a temperature is a number above 0", fix="/retry 0.8")
        message = self._turns[-2]
        turns, base = self._turns, self._base_turns
        self._turns, self._base_turns = turns[:-2], base[:-2]
        try:
            self._ask(message, temperature)
        except SftError:
            self._turns, self._base_turns = turns, base
            raise

    def _print_tokens(self) -> None:
        """Print the token ids of the last exchange."""
        if not self._turns:
            raise SftError(where="/tokens", problem="there is no exchange yet", fix="ask something first")
        from sft_cli.eval.chat.tokens import describe_exchange

        earlier = self._messages()[:-2]
        sent = self._model.prompt_ids(self._messages()[:-1])
        for line in describe_exchange(
            self._target, self._messages(), earlier, self._options.tools, sent, self._last_ids, self._model.stop_ids
        ):
            note(line)

    def _print_tools(self) -> None:
        """Print the names of the tools."""
        for tool in self._options.tools:
            function = tool.get("function", tool)
            note(f"{function.get('name', '?')}: {function.get('description', 'no description')}")
        if not self._options.tools:
            note("tools     none; sft chat --tools FILE shows the model the tools of a JSON file")

    def _tool_result(self, text: str) -> None:
        """Send the result of a tool call."""
        if not text or not self._turns:
            problem = "it needs a result, after an answer that calls a tool"
            raise SftError(where="/tool", problem=problem, fix='/tool {"temperature": 21}')
        self._ask({"role": "tool", "content": text})

    def _save(self, text: str) -> None:
        """Append the conversation to a file as a messages row."""
        if not text or not self._turns:
            problem = "there is no exchange yet" if text else "it needs a file"
            raise SftError(where="/save", problem=problem, fix="/save rows.jsonl, after an answer")
        file = expand_home(text)
        row: dict[str, Any] = {"messages": self._messages()}
        if self._options.tools:
            row["tools"] = list(self._options.tools)
        if not file.parent.is_dir() or file.is_dir():
            raise SftError(where=f"/save {text}", problem="the file cannot be written there", fix="/save rows.jsonl")
        append_row(file, row)
        note(f"saved     {len(self._messages())} messages as a row of {file}")

    def _reset(self) -> None:
        """Start a new conversation with the same system message."""
        self._turns, self._base_turns, self._last_ids, self._questions = [], [], (), []
        if self._is_typed:
            note("reset     a new conversation")

    def _exit(self) -> None:
        """End the conversation."""
        raise EndOfChat


def print_help() -> None:
    """Print the commands."""
    for name, meaning in CHAT_COMMANDS.items():
        note(f"{name:<9} {meaning}")
    note(f"{reading.QUOTES}       begins and ends a message of several lines; or end a line with \\")


def _number(text: str, default: int) -> int:
    """Return a small number typed after a command."""
    if not text:
        return default
    if not text.isdigit() or not 1 <= int(text) <= 20:
        raise SftError(where=f"/suggest {text}", problem="it takes a number from 1 to 20", fix="/suggest 3")
    return int(text)
