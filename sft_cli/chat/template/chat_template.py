"""Load, compile and render chat templates, as transformers and servers do.

The environment (sandbox, trimmed blocks, ``tojson`` without HTML escapes, ``raise_exception``, ``strftime_now``,
``{% generation %}`` blocks) is the one documented for transformers' ``apply_chat_template``; chat/masks/parity.py
compares the two.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

import jinja2
import jinja2.meta

from sft_cli.chat.template.jinja_env import (
    GENERATED_TEXTS,
    GENERATION_TAG,
    ChatTemplateEnvironment,
    raise_exception,
    tojson,
)
from sft_cli.chat.template.named_templates import TOOL_USE
from sft_cli.chat.tokens.tokenizer import SPECIAL_NAMES
from sft_cli.errors import SftError
from sft_cli.sandbox.budget import BudgetExceeded
from sft_cli.utils.similar import closest_name

RENDER_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt", GENERATED_TEXTS)
"""Variables of every rendering."""
Environment = TypeVar("Environment", bound=ChatTemplateEnvironment)
_PYTHON_OBJECT = re.compile(r"<[\w. ]+ at 0x[0-9a-f]+>")
LEAST_REPEATED = 12
"""Characters from which a text of a conversation that is written twice is recognized by itself."""
HTML_ENTITIES = ("&#34;", "&#39;", "&quot;", "&lt;", "&gt;", "&amp;")


class RenderError(Exception):
    """A conversation cannot be rendered or trained on with a template; the message explains the reason to the user.

    Attributes:
        nothing_written: Whether the template wrote nothing usable; another variant of the conversation may work.
        fix: The fix, if it is not just to correct the row; ``{source}`` is replaced by the name of the row's source.
    """

    def __init__(self, message: str, *, nothing_written: bool = False, fix: str = "") -> None:
        super().__init__(message)
        self.nothing_written, self.fix = nothing_written, fix


@dataclass(frozen=True)
class ChatTemplate:
    """A compiled chat template.

    Attributes:
        source: The Jinja source, as it is saved with the tokenizer.
        special_tokens: Special tokens by name, which the template may read.
        name: The name in messages: ``tokenizer``, a name of configs/template, or a file.
        now: The time that the template may write, the same for all texts.
        variables: Further variables of the template, such as ``{"enable_thinking": False}``.
        named: Further templates of the same tokenizer by name; ``tool_use`` is for conversations with tools.
    """

    source: str
    special_tokens: Mapping[str, str]
    name: str
    now: datetime = field(default_factory=datetime.now)
    variables: Mapping[str, str | bool] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def for_tools(self) -> "ChatTemplate":
        """The template for conversations with tools: ``tool_use``, as in transformers, or itself if there is none."""
        if TOOL_USE not in self.named:
            return self
        return replace(self, source=self.named[TOOL_USE], name=f"{self.label} {TOOL_USE}", named={})

    @cached_property
    def environment(self) -> ChatTemplateEnvironment:
        """The Jinja environment of the template."""
        return self.set_up(ChatTemplateEnvironment())

    def set_up(self, environment: Environment) -> Environment:
        """Add the functions of chat templates to an environment, and return it."""
        environment.filters["tojson"] = environment.guard("tojson", tojson)
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = self.now.strftime
        return environment

    @cached_property
    def _render(self) -> Callable[..., str]:
        try:
            template = self.environment.from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise SftError(
                where=f"{self.label}, line {error.lineno}",
                problem=f"not a valid Jinja template: {error.message}",
                fix="correct that line, or template=chatml, or template.path=FILE.jinja",
            ) from error
        except Exception as error:  # compiling an untrusted template may fail in any way
            message = f"it {error}" if isinstance(error, BudgetExceeded) else f"{type(error).__name__}: {error}"
            raise SftError(
                where=self.label,
                problem=f"cannot be compiled: {message:.200}",
                fix="template=chatml, or template.path=FILE.jinja",
            ) from error
        # Jinja would chain two mappings and iterate over them for every text: half the time of a short one.
        template.globals = {**template.globals, **self.special_tokens, **self.variables}

        def render(**values: Any) -> str:
            self.environment.begin_render()
            return template.render(**values)

        return render

    @cached_property
    def _has_generation_tags(self) -> bool:
        """Whether the source contains ``{% generation %}`` tags."""
        return GENERATION_TAG.search(self.source) is not None

    @cached_property
    def writes_date(self) -> bool:
        """Whether the text of a conversation depends on the day of rendering."""
        if "strftime_now" not in self.source:
            return False
        other = replace(self, now=self.now + timedelta(days=397))
        try:
            texts = [
                template.render([{"role": "user", "content": "Hi"}], None, prompt=True) for template in (self, other)
            ]
        except RenderError:
            return True
        return texts[0] != texts[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling, without the compiled code."""
        return {attribute.name: getattr(self, attribute.name) for attribute in fields(self)}

    @property
    def label(self) -> str:
        """The name for messages: ``template chatml``, ``the tokenizer's own template``."""
        return self.name if " " in self.name else f"template {self.name}"

    def compile(self) -> "ChatTemplate":
        """Check the syntax of the template and the variables given to it.

        Returns:
            The template itself.

        Raises:
            SftError: It is not a valid template, or does not read a variable.
        """
        read: set[str] = set()
        for template in (self, self.for_tools):
            assert template._render
            if self.variables:
                read |= jinja2.meta.find_undeclared_variables(self.environment.parse(template.source))
        for name in self.variables:
            where = f"template.variables.{name}"
            if name in RENDER_VARIABLES or name in SPECIAL_NAMES:
                raise SftError(
                    where=where,
                    problem="every template gets it from the conversation or the tokenizer",
                    fix=f"remove {where}",
                )
            if name not in read:
                others = sorted(read - {*RENDER_VARIABLES, *SPECIAL_NAMES, *self.environment.globals})
                near = closest_name(name, others)
                known = f"it reads: {', '.join(others)}" if others else "it reads none"
                raise SftError(
                    where=where,
                    problem=f"{self.label} reads no such variable ({known})",
                    fix=f"did you mean template.variables.{near}?\nremove {where}" if near else f"remove {where}",
                )
        return self

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, prompt: bool
    ) -> str:
        """Return the text of the messages; with ``prompt``, also the beginning of an assistant turn.

        Raises:
            RenderError: The template raises, or escapes characters that the input does not escape.
        """
        return self._render_text(messages, tools, prompt, [])

    def generation_text(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> str | None:
        """Return the text inside the last ``{% generation %}`` tags; None for a template without them.

        Raises:
            RenderError: See ``render``.
        """
        if not self._has_generation_tags:
            return None
        generated: list[str] = []
        self._render_text(messages, tools, False, generated)
        return generated[-1] if generated else ""

    def _render_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        prompt: bool,
        generated: list[str],
    ) -> str:
        """Return the text, and append the parts inside generation tags to ``generated``."""
        values = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": prompt,
            GENERATED_TEXTS: generated,
        }
        try:
            text = self._render(**values)
        except BudgetExceeded as error:
            raise RenderError(f"the template {error}") from error
        except jinja2.TemplateError as error:
            raise RenderError(f"the template refuses it: {error!s:.500}", nothing_written=True) from error
        except Exception as error:  # a template is someone else's program
            problem = f"the template fails on it: {type(error).__name__}: {error!s:.500}"
            raise RenderError(problem, nothing_written=True) from error
        if "&" in text and (entity := _escaped_entity(text, [*messages, *(tools or ())], self.source)) is not None:
            raise RenderError(
                f"the template writes {entity} where the conversation has none (it escapes tool arguments)",
                nothing_written=True,
            )
        if " at 0x" in text and (found := _PYTHON_OBJECT.search(text)) and found.group() not in f"{messages}{tools}":
            raise RenderError(
                f"the template writes a Python object ({found.group():.40}), not its text: it lacks | list or | join"
            )
        return text


def _escaped_entity(text: str, given: Sequence[Any], source: str) -> str | None:
    """Return an HTML entity that a template wrote for another character; None if there is none.

    An entity of the conversation itself is no reason to overlook one that the template wrote in another place. It is
    one if the text has more of them than the conversation, also outside of texts of the conversation that are repeated.

    Args:
        text: The rendered text.
        given: The messages and tools.
        source: The template.
    """
    written = [entity for entity in HTML_ENTITIES if entity in text and entity not in source]
    known = json.dumps(given, ensure_ascii=False) if written else ""
    for entity in written:
        if text.count(entity) <= known.count(entity):
            continue
        rest = text
        # A text that is hardly more than the entity would also remove those that the template wrote.
        repeated = [one for one in _texts(given) if entity in one and len(one.strip()) >= LEAST_REPEATED]
        for own in sorted(repeated, key=len, reverse=True):
            rest = rest.replace(own, "").replace(own.strip(), "").replace(json.dumps(own, ensure_ascii=False)[1:-1], "")
        if entity in rest:
            return entity
    return None


def _texts(value: Any) -> Iterator[str]:
    """Yield every text inside nested mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, Sequence):
        for entry in value:
            yield from _texts(entry)
