"""Ask a teacher: every reply is in the journal before it is used, and no request is paid twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.config.schema.synth import SynthConfig
from sft_cli.console import counted
from sft_cli.endpoint.journal import Journal
from sft_cli.errors import SftError
from sft_cli.eval.engine.run import AnswerItems
from sft_cli.progress import progress
from sft_cli.scoring.types import Item
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.synth.interrupts import DrainingLimits, draining
from sft_cli.synth.requests import Drawing, Replies, TeacherReply, TeacherRequest, reply_fields, reply_of


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher that is ready.

    Attributes:
        name: Its name, for rows and the manifest.
        identity: What its replies depend on, beyond the request.
        answer: Answers requests.
    """

    name: str
    identity: Mapping[str, Any]
    answer: AnswerItems


class TeacherSession:
    """Asks a teacher, and accounts for what its replies cost.

    Attributes:
        requests: Number of different requests with a reply.
        from_journal: Number of them that an earlier command has paid.
        input_tokens: Tokens of the requests.
        output_tokens: Tokens of the replies.
        stopped: The limit that is reached, as ``key=value``; empty if none is.
    """

    def __init__(self, teacher: Teacher, config: SynthConfig, journal: Path) -> None:
        self.teacher, self._config = teacher, config
        endpoint = config.teacher.endpoint
        prices = endpoint.price_input, endpoint.price_output
        self._limits = DrainingLimits(config.max_tokens, None, config.max_cost, *prices, group="synth")
        busy = "another process makes the same rows"
        self._journal: Journal[TeacherReply] = Journal(journal, busy, reply_fields, reply_of)
        self._counted = set[str]()
        self.requests, self.from_journal, self.input_tokens, self.output_tokens = 0, 0, 0, 0
        self.stopped = ""

    def __enter__(self) -> "TeacherSession":
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()

    @property
    def cost(self) -> float:
        """What the replies cost, by the prices of the endpoint."""
        return self._limits.cost

    def price(self, reply: TeacherReply) -> float:
        """Return the cost of one reply."""
        endpoint = self._config.teacher.endpoint
        return (reply.input_tokens * endpoint.price_input + reply.output_tokens * endpoint.price_output) / 1e6

    def drawing(self, max_new_tokens: int | None = None, temperature: float | None = None) -> Drawing:
        """Return how replies are drawn: as the config says, unless a generator needs another length or temperature."""
        teacher = self._config.teacher
        return Drawing(
            teacher.temperature if temperature is None else temperature,
            teacher.top_p,
            teacher.seed,
            min(teacher.max_new_tokens, max_new_tokens or teacher.max_new_tokens),
        )

    def ask(self, requests: Sequence[TeacherRequest], drawing: Drawing, label: str) -> Replies:
        """Return the reply to each request; equal requests are sent once.

        Args:
            requests: The requests.
            drawing: How replies are drawn.
            label: What is made, for the progress.

        Raises:
            SftError: The teacher failed; replies so far are in the journal.
            KeyboardInterrupt: Ctrl-C was pressed; replies to requests on their way are in the journal too.
        """
        keys = [request.key(self.teacher.identity, drawing) for request in requests]
        for key in keys:
            if (known := self._journal.get(key)) is not None and self._count(key, known):
                self.from_journal += 1
        missing = {key: one for key, one in zip(keys, requests, strict=True) if self._journal.get(key) is None}
        if missing:
            self._send(missing, drawing, label, done=len(set(keys)) - len(missing))
        return [self._journal.get(key) for key in keys]

    def _send(self, missing: Mapping[str, TeacherRequest], drawing: Drawing, label: str, done: int) -> None:
        """Send requests until a limit is reached; write each reply to the journal."""
        waiting = {(_place(key, one), one.sample): key for key, one in missing.items()}
        pending = [
            (SuiteItem(Item(_place(key, one), one.messages), label, tools=one.tools), one.sample)
            for key, one in missing.items()
        ]
        total = done + len(missing)
        try:
            with draining(self._limits), progress(label, unit="requests") as shown:
                shown.update(done, total)
                for records in self.teacher.answer(_suite(drawing), pending, self._limits):
                    for record in records:
                        key = waiting.pop((record["id"], record["sample"]))
                        reply = _reply(record, key)
                        self._journal.add(key, reply)
                        self._count(key, reply)
                    shown.update(total - len(waiting), total)
        except SftError as error:
            problem = f"{error.problem}; {counted(len(self._journal), 'reply', 'replies')} kept in {self._journal.file}"
            raise SftError(where=error.where, problem=problem, fix=error.fix) from error
        if self._limits.interrupted:
            raise KeyboardInterrupt
        if waiting:
            self.stopped = self._limits.reached()

    def _count(self, key: str, reply: TeacherReply) -> bool:
        """Count a reply; return whether it was not counted yet."""
        if key in self._counted:
            return False
        self._counted.add(key)
        self.requests += 1
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        self._limits.count([{"num_tokens": reply.output_tokens, "input_tokens": reply.input_tokens}])
        return True


def _place(key: str, request: TeacherRequest) -> str:
    """Return the id of a request in the engine: part of the seed, and different for different conversations."""
    return request.id or key


def _suite(drawing: Drawing) -> LoadedSuite:
    """Return the settings of requests in the form that the engines of evaluation read."""
    config = SuiteConfig(
        temperature=drawing.temperature,
        top_p=drawing.top_p,
        seed=drawing.seed,
        max_new_tokens=drawing.max_new_tokens,
    )
    return LoadedSuite("synth", config, (), "", 0, 0, "")


def _reply(record: Mapping[str, Any], key: str) -> TeacherReply:
    """Return the reply of a line that an engine yields."""
    return TeacherReply(
        text=record["answer"],
        reasoning=record["reasoning"],
        stopped=record["stopped"],
        input_tokens=record.get("input_tokens", 0),
        output_tokens=record["num_tokens"],
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        key=key,
    )
