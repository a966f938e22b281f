"""A teacher that answers by a function, in the form of an engine of evaluation; and sessions with it."""

from collections.abc import Callable
from pathlib import Path

from sft_cli.config.schema.synth import SynthConfig
from sft_cli.synth.session import Teacher, TeacherSession

Reply = Callable[[str, int], str]
"""Function from the last message and the number of the sample to the reply."""


class Stub:
    """A teacher.

    Attributes:
        asked: The last message of every request.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply, self.asked = reply, list[str]()

    def answer(self, suite, pending, limits):
        """Yield one line per request until a limit is reached."""
        for entry, sample in pending:
            if limits.reached():
                return
            self.asked.append(entry.item.messages[-1]["content"])
            text = self.reply(self.asked[-1], sample)
            head = {"id": entry.item.id, "sample": sample, "reasoning": "", "stopped": not text.endswith("[cut]")}
            yield [{**head, "answer": text, "num_tokens": len(text.split()), "input_tokens": 10}]

    def session(self, config: SynthConfig, folder: Path) -> TeacherSession:
        """Return a session whose journal is in a folder."""
        return TeacherSession(Teacher("stub", {"served": "stub"}, self.answer), config, folder / "journal.jsonl")
