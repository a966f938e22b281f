"""Score answers with code by running unit tests on them in a sandbox, and estimate pass@k."""

import json
import re
import secrets
from dataclasses import dataclass

from sft_cli.errors import SftError
from sft_cli.scoring.base import MeanScorer, OptionError, item_error
from sft_cli.scoring.normalize import REASONING_END
from sft_cli.scoring.sandbox_process import SandboxLimits, SandboxResult, run_python, sandbox_mode
from sft_cli.scoring.types import Answer, Item, Verdict

FENCE = re.compile(r"```[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
HARNESS = """
import json, os, sys
task = json.loads(sys.stdin.buffer.read())
out, token = os.dup(1), task.pop("token")
names = {"__name__": "answer"}
exec(compile(task["code"], "answer.py", "exec"), names)
exec(compile(task["tests"], "tests.py", "exec"), names)
os.write(out, ("\\n" + token + "\\n").encode())
"""
"""Runs an answer, then its tests, then writes a secret line: an answer that ends the process has not passed."""


def extract_code(text: str) -> str:
    """Return the code of an answer: its Python code blocks, or its first block, or all of it if it has none."""
    plain = text.rpartition(REASONING_END)[2]
    blocks = [(match["language"].lower(), match["code"]) for match in FENCE.finditer(plain)]
    python = [code for language, code in blocks if language in ("python", "py", "python3")]
    if python:
        return "\n\n".join(python)
    return blocks[0][1] if blocks else plain


@dataclass(frozen=True, slots=True)
class CodeTests(MeanScorer):
    """``passed``: the answer's Python code passes the item's unit tests, which run in a sandbox.

    Attributes:
        tests: Column with the tests: code, or a list of statements.
        before: Column with code that comes before the answer's, such as the signature it completes; empty for none.
        entry_point: Column with the name of the function that is given to ``check`` of the tests; empty for none.
        seconds: Limit of processor time.
        memory_mb: Limit of memory, in units of 2^20 bytes.
    """

    tests: str = "tests"
    before: str = ""
    entry_point: str = ""
    seconds: int = 10
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        for option, value in (("seconds", self.seconds), ("memory_mb", self.memory_mb)):
            if value < 1:
                raise OptionError(option, f"{value} is below 1", f"remove {option}")
        try:
            sandbox_mode()
        except SftError as error:
            raise OptionError("", error.problem, error.fix) from error

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if all tests pass."""
        code = extract_code(answer.text)
        if not code.strip():
            return Verdict({"passed": 0.0}, "there is no code", label="empty")
        token = secrets.token_hex(16)
        task = {"code": self._before(item, code), "tests": self._tests(item), "token": token}
        limits = SandboxLimits(seconds=self.seconds, memory=self.memory_mb << 20)
        result = run_python(HARNESS, json.dumps(task), limits)
        passed = result.exit_code == 0 and token in result.stdout.splitlines()
        label, reason = ("passed", "") if passed else describe_failure(result)
        return Verdict({"passed": float(passed)}, reason, code[:10_000], label)

    def _before(self, item: Item, code: str) -> str:
        """Return the answer's code after the item's; an indented answer continues its last line."""
        if not self.before:
            return code
        prefix = _text(item, self.before)
        return prefix + code if code[:1].isspace() and prefix.endswith("\n") else f"{prefix}\n{code}"

    def _tests(self, item: Item) -> str:
        """Return the tests of an item."""
        tests = item.fields.get(self.tests)
        if isinstance(tests, list | tuple) and tests and all(isinstance(test, str) for test in tests):
            tests = "\n".join(tests)
        if not isinstance(tests, str) or not tests.strip():
            raise item_error(
                item, f"the column {self.tests} has no tests", "add them, or eval.suites.NAME.options.tests=COLUMN"
            )
        return f"{tests}\ncheck({_text(item, self.entry_point)})" if self.entry_point else tests


def _text(item: Item, column: str) -> str:
    """Return the text in a column of an item."""
    value = item.fields.get(column)
    if not isinstance(value, str):
        raise item_error(
            item,
            f"the column {column} has no text",
            "add it, or correct eval.suites.NAME.options",
        )
    return value


def describe_failure(result: SandboxResult) -> tuple[str, str]:
    """Return the class of a failure, and why in one line."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    last = lines[-1].strip()[:200] if lines else ""
    kind = last.partition(":")[0]
    if result.timed_out:
        return "timeout", "it did not end within the limit of time"
    if kind == "MemoryError" or result.exit_code in (-9, 137):
        return "memory", "it needed more memory than the limit"
    if kind == "AssertionError":
        return "wrong", last
    if kind in ("SyntaxError", "IndentationError", "TabError"):
        return "syntax", last
    if result.exit_code == 0:
        return "ended", "it ended before its tests did"
    return "error", last or f"exit code {result.exit_code}"
