"""Render a template with symbolic contents (symbolic_text.py): one result for all conversations of a shape."""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from jinja2 import nodes

from sft_cli.chat.template.chat_template import RENDER_VARIABLES, ChatTemplate
from sft_cli.chat.template.jinja_env import GENERATED_TEXTS, GENERATION_TAG, ChatTemplateEnvironment
from sft_cli.chat.template.symbolic_text import ContentInspected, Insertion, SymbolicLog, SymbolicText, parts_of
from sft_cli.sandbox.budget import CHARACTERS_PER_STEP, MAX_SIZE, MAX_STEPS
from sft_cli.sandbox.codegen import CHARGE, CONCAT, CountingCodeGenerator

_CALL_STEPS = 100
"""Steps of a filter on a content: at least those of the filter on a text, without those for its length."""
_TESTS = {
    **dict.fromkeys(("defined", "string", "iterable", "sequence"), True),
    **dict.fromkeys(("undefined", "none", "mapping", "number", "integer", "float", "boolean"), False),
    **dict.fromkeys(("true", "false", "callable"), False),
}
"""Results of tests that are the same for all texts of visible characters."""
_FILTERS: dict[str, Callable[..., SymbolicText]] = {
    "trim": SymbolicText.strip,
    "string": lambda value: value,
    "default": lambda value, *others: value,
    "d": lambda value, *others: value,
}
"""Filters that write a content unchanged or stripped."""


class _SymbolicCodeGenerator(CountingCodeGenerator):
    """Code generator that does not call ``str`` on what a template writes: ``to_text`` returns text already."""

    def _output_child_pre(self, node: nodes.Expr, frame: Any, finalize: Any) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            raise ContentInspected
        self.write("environment.to_text(")

    def _output_child_post(self, node: nodes.Expr, frame: Any, finalize: Any) -> None:
        self.write(")")


class _SymbolicEnvironment(ChatTemplateEnvironment):
    """Environment of chat templates in which no filter or test reads a symbolic text."""

    code_generator_class = _SymbolicCodeGenerator

    def __init__(self) -> None:
        super().__init__()
        self.concat = self._concat  # type: ignore[method-assign]
        self.to_text = self._to_text
        self.filters = {name: self._guarded(function, _FILTERS.get(name)) for name, function in self.filters.items()}
        self.tests = {name: self._guarded(test, _constant(_TESTS.get(name))) for name, test in self.tests.items()}
        self.filters |= {CONCAT: self._join, CHARGE: self.budget.charge}

    def _guarded(self, function: Callable[..., Any], symbolic: Callable[..., Any] | None) -> Callable[..., Any]:
        """Return a filter or test that calls ``symbolic`` for a symbolic text, and refuses one among its arguments."""
        at = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            """Call the filter or test."""
            kinds = [isinstance(argument, SymbolicText) for argument in (*arguments, *named.values())]
            if not any(kinds):
                return function(*arguments, **named)
            if symbolic is None or sum(kinds) > 1 or not isinstance(arguments[at], SymbolicText) or named:
                raise ContentInspected
            self.budget.spend(_CALL_STEPS)
            return symbolic(*arguments[at:])

        return call

    def _join(self, pieces: tuple[Any, ...]) -> Any:
        """Concatenate values with ``~``."""
        is_symbolic = any(isinstance(piece, SymbolicText) for piece in pieces)
        return self.budget.charge(SymbolicText.join(pieces)) if is_symbolic else self.budget.join(pieces)

    def _to_text(self, value: Any) -> Any:
        """Return a value as text for output."""
        return self.budget.charge(value) if isinstance(value, SymbolicText) else self.budget.to_text(value)

    def _concat(self, pieces: Iterable[Any]) -> Any:
        """Concatenate the pieces of an output."""
        pieces = list(pieces)
        is_symbolic = any(isinstance(piece, SymbolicText) for piece in pieces)
        return SymbolicText.join(pieces) if is_symbolic else self.budget.concat(pieces)


def _constant(result: bool | None) -> Callable[..., bool] | None:
    """Return a test with a constant result."""
    return None if result is None else lambda value, *others: result


class SymbolicRenderer:
    """Renders conversations of one shape with one template, with symbolic contents.

    Attributes:
        log: What the renderings so far assume and create.

    Raises:
        ContentInspected: The template escapes what it writes.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self.log = SymbolicLog()
        self._steps = 0
        environment = template.set_up(_SymbolicEnvironment())
        self._budget, self._template = environment.budget, environment.from_string(template.source)
        self._template.globals = {**self._template.globals, **template.special_tokens, **template.variables}

    @staticmethod
    def is_supported(template: ChatTemplate) -> bool:
        """Return whether a template has no ``{% generation %}`` tags, which collect texts."""
        return GENERATION_TAG.search(template.source) is None

    def render(self, roles: Sequence[str], prompt: bool) -> tuple[list[str], list[Insertion]]:
        """Return the literals and the contents of the text of messages with these roles.

        Raises:
            ContentInspected: The template reads the contents.
            Exception: It fails.
        """
        contents = [SymbolicText([Insertion(i)], self.log) for i in range(len(roles))]
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        values = {**dict.fromkeys(RENDER_VARIABLES), "messages": messages, "add_generation_prompt": prompt}
        self._budget.reset()
        text: Any = self._template.render({**values, GENERATED_TEXTS: []})
        self._steps = max(self._steps, self._budget.steps)
        return parts_of(text)

    def within_budget(self, size: int) -> bool:
        """Return whether these renderings stay within the budget if the contents have ``size`` characters in all.

        Each charged value is counted twice: as the argument and as the result of a call.
        """
        largest = self.log.literal_size + self.log.max_copies * size
        return largest < MAX_SIZE and self._steps * (2 + 2 * largest // CHARACTERS_PER_STEP) <= MAX_STEPS
