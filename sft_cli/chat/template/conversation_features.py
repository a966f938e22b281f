"""What a conversation holds that a template must show: a system message, tools, calls, reasoning, several rounds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sft_cli.chat.template import reasoning_blocks
from sft_cli.types import Conversation, Message

TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
_ID = "abcdef123"
"""Nine letters and digits: Mistral's templates accept no other ids of calls."""
_CALL = {"type": "function", "id": _ID, "function": {"name": "look", "arguments": {"at": "sky"}}}


@dataclass(frozen=True, slots=True)
class Holds:
    """What a conversation holds.

    Attributes:
        system: It begins with a system message.
        tools: It names tools.
        calls: An assistant turn calls one.
        results: A message holds the result of a call.
        reasoning: An assistant turn has reasoning.
        rounds: A user speaks more than once.
    """

    system: bool = False
    tools: bool = False
    calls: bool = False
    results: bool = False
    reasoning: bool = False
    rounds: bool = False

    @staticmethod
    def of(conversation: Conversation, *, reasoning: bool = True) -> "Holds":
        """What this conversation holds; ``reasoning`` is False where it is taken out before rendering."""
        messages = conversation.messages
        roles = [message.role for message in messages]
        answers = [message for message in messages if message.role == "assistant"]
        return Holds(
            system="system" in roles,
            tools=bool(conversation.tools),
            calls=any(message.extra.get("tool_calls") for message in answers),
            results="tool" in roles,
            reasoning=reasoning and any(reasoning_blocks.texts({"content": m.content, **m.extra}) for m in answers),
            rounds=roles.count("user") > 1,
        )

    def example(self) -> Conversation:
        """A short conversation that holds the same."""
        return Conversation(tuple(self._messages()), "a short conversation", "", (TOOL,) if self.tools else None)

    def named(self) -> str:
        """What is special about it, in words; empty if nothing is."""
        parts = {
            "system messages": self.system,
            "tools": self.tools or self.calls or self.results,
            "reasoning": self.reasoning,
            "several rounds": self.rounds,
        }
        return ", ".join(name for name, there in parts.items() if there)

    def _messages(self) -> Iterator[Message]:
        if self.system:
            yield Message("system", "Be kind.")
        yield Message("user", "Hi")
        if self.calls:
            yield Message("assistant", "", extra={"tool_calls": [_CALL]})
        if self.results:
            yield Message("tool", "Blue", extra={"tool_call_id": _ID, "name": "look"})
        if self.rounds:
            yield Message("assistant", "Hello")
            yield Message("user", "Bye")
        yield Message("assistant", "<think>\nThey speak.\n</think>\n\nBye" if self.reasoning else "Bye")


def together(found: Iterable[Holds]) -> str:
    """What several conversations hold, in words."""
    names = dict.fromkeys(name for one in found for name in one.named().split(", ") if name)
    return ", ".join(names)
