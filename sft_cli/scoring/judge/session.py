"""Ask a judge many requests: concurrently, journaled, within limits of cost and tokens."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock
from typing import Any

from sft_cli.endpoint.client import Completion
from sft_cli.endpoint.journal import open_completions
from sft_cli.errors import SftError
from sft_cli.scoring.judge.replies import Check, parse_reply
from sft_cli.scoring.judge.requests import Complete, JudgeRequest
from sft_cli.scoring.judge.settings import JudgeSettings


@dataclass(frozen=True, slots=True)
class JudgeUsage:
    """What the requests of a session used; replies from the journal count, since they were paid once.

    Attributes:
        requests: Number of replies.
        from_journal: Number of them that an earlier session had paid.
        input_tokens: Tokens of the requests.
        output_tokens: Tokens of the replies.
        seconds: Sum of the durations of the requests.
        cost: Cost by the prices of the settings.
        estimated: Number of replies whose tokens are estimated, since the endpoint did not report them.
    """

    requests: int = 0
    from_journal: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    estimated: int = 0


class JudgeSession:
    """Asks a judge.

    Args:
        complete: Answers one request.
        settings: Model, limits and prices.
        journal: File of the replies.
        on_verdict: Called after each request that is done, for a display of progress.
    """

    def __init__(
        self,
        complete: Complete,
        settings: JudgeSettings,
        journal: Path,
        on_verdict: Callable[[], None] = lambda: None,
    ) -> None:
        self._complete, self.settings = complete, settings
        self._journal = open_completions(journal, "another process is judging the same answers")
        self._on_verdict = on_verdict
        self._lock, self._stop, self._counted = Lock(), Event(), set[str]()
        self._usage, self._failures, self._asked = JudgeUsage(), 0, 0

    def __enter__(self) -> "JudgeSession":
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()

    @property
    def usage(self) -> JudgeUsage:
        """Tokens, time and cost so far."""
        return self._usage

    @property
    def parse_failures(self) -> tuple[int, int]:
        """Number of requests without a verdict after all attempts, and number of all requests."""
        return self._failures, self._asked

    def ask(self, requests: Sequence[JudgeRequest], check: Check) -> list[dict[str, Any] | None]:
        """Return the verdict of each request, in order; None if no attempt gave one. Equal requests are sent once.

        Args:
            requests: The requests.
            check: Whether an object is a verdict.

        Raises:
            SftError: The endpoint failed, or a limit is reached. Replies so far are in the journal.
        """
        distinct = {self._key(request): request for request in requests}
        pool = ThreadPoolExecutor(self.settings.concurrency, thread_name_prefix="judge")
        try:
            futures = {key: pool.submit(self._verdict, request, check) for key, request in distinct.items()}
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=self._stop.is_set())
            self._stop.clear()
        for future in futures.values():
            if not future.cancelled() and (error := future.exception()) is not None:
                raise self._with_progress(error) if isinstance(error, SftError) else error
        found = {key: future.result() for key, future in futures.items()}
        self._asked += len(found)
        self._failures += sum(verdict is None for verdict in found.values())
        return [found[self._key(request)] for request in requests]

    def _verdict(self, request: JudgeRequest, check: Check) -> dict[str, Any] | None:
        """Return the verdict of a request, which is sent again if its reply cannot be read."""
        for attempt in range(self.settings.attempts):
            if self._stop.is_set():
                return None
            try:
                reply = self._reply(replace(request, attempt=attempt))
            except BaseException:
                self._stop.set()
                raise
            if (verdict := parse_reply(reply.text, check)) is not None or attempt + 1 == self.settings.attempts:
                with self._lock:
                    self._on_verdict()
                return verdict
        return None

    def _reply(self, request: JudgeRequest) -> Completion:
        """Return the reply to a request, from the journal if it is there."""
        key = self._key(request)
        if (known := self._journal.get(key)) is not None:
            self._count(key, known, from_journal=True)
            return known
        self._check_limits()
        reply = self._complete(request)
        self._journal.add(key, reply)
        self._count(key, reply, from_journal=False)
        return reply

    def _key(self, request: JudgeRequest) -> str:
        return request.key(self.settings.model, self.settings.temperature, self.settings.max_tokens)

    def _count(self, key: str, reply: Completion, *, from_journal: bool) -> None:
        """Add a reply to the usage, once per session."""
        prices = reply.input_tokens * self.settings.price_input, reply.output_tokens * self.settings.price_output
        with self._lock:
            if key in self._counted:
                return
            self._counted.add(key)
            past = self._usage
            self._usage = JudgeUsage(
                past.requests + 1,
                past.from_journal + from_journal,
                past.input_tokens + reply.input_tokens,
                past.output_tokens + reply.output_tokens,
                past.seconds + reply.seconds,
                past.cost + sum(prices) / 1e6,
                past.estimated + reply.estimated,
            )

    def _check_limits(self) -> None:
        """Raise an error if the cost or the tokens reached their limit."""
        used, limits = self._usage, self.settings
        tokens = used.input_tokens + used.output_tokens
        if limits.max_cost and used.cost >= limits.max_cost:
            problem, option = f"the requests cost {used.cost:.4g}, the limit is {limits.max_cost:g}", "--max-cost"
        elif limits.max_total_tokens and tokens >= limits.max_total_tokens:
            problem = f"the requests used {tokens:,} tokens, the limit is {limits.max_total_tokens:,}"
            option = "--max-tokens"
        else:
            return
        fix = f"raise {option}, and run the same command again: it continues"
        raise SftError(where=f"judge {limits.model}", problem=problem, fix=fix)

    def _with_progress(self, error: SftError) -> SftError:
        """Return an error that also states what is kept."""
        kept = "1 reply is" if len(self._journal) == 1 else f"{len(self._journal):,} replies are"
        problem = f"{error.problem}; {kept} kept in {self._journal.file}"
        return SftError(where=error.where, problem=problem, fix=error.fix)
