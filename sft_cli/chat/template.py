"""Chat templates: finding, compiling and rendering them, as transformers and servers do.

The environment (sandbox, trimmed blocks, ``tojson`` without HTML escapes, ``raise_exception``, ``strftime_now``,
``{% generation %}`` blocks) is the one documented by transformers' ``apply_chat_template``; chat/parity.py holds the
two together.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sft_cli.chat.tokenizer import SPECIAL_NAMES, ChatTokenizer
from sft_cli.config.paths import resolve
from sft_cli.config.schema import TemplateConfig
from sft_cli.errors import SftError

GENERATION = re.compile(r"\{%[-+]?\s*generation\b")
KEPT = "_generated"
"""Variable of a rendering that collects the texts between its generation tags."""
GIVEN = ("messages", "tools", "documents", "add_generation_prompt", KEPT)
"""What every rendering is called with."""
ENTITIES = ("&#34;", "&#39;", "&quot;", "&lt;", "&gt;", "&amp;")


class TemplateRefusal(Exception):
    """A template cannot render this conversation; the message says why in words for the user."""


class _Generation(jinja2.ext.Extension):
    """Accepts ``{% generation %}…{% endgeneration %}`` and appends what is between to the variable ``KEPT``."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a plain class attribute

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_keep", [jinja2.nodes.ContextReference()])
        return jinja2.nodes.CallBlock(call, [], [], body, lineno=line)

    def _keep(self, context: jinja2.runtime.Context, caller: Callable[[], str]) -> str:
        text = caller()
        context[KEPT].append(text)
        return text


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox; ``message.content`` of a plain dict is looked up as the key it is, not as an attribute first."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute in obj and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute]
        return super().getattr(obj, attribute)


_DICT_ATTRIBUTES = frozenset(dir(dict))


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@dataclass(frozen=True)
class ChatTemplate:
    """A compiled chat template.

    Attributes:
        source: The Jinja text, as it is saved into the tokenizer.
        special_tokens: Special tokens by name, readable in the template.
        name: For messages: ``tokenizer``, a name of configs/template, or a file.
        now: The time a template may write, one for all its texts.
        variables: Further values the template reads, such as ``{"enable_thinking": False}``.
    """

    source: str
    special_tokens: Mapping[str, str]
    name: str
    now: datetime = field(default_factory=datetime.now)
    variables: Mapping[str, str | bool] = field(default_factory=dict)

    @cached_property
    def environment(self) -> ImmutableSandboxedEnvironment:
        """Where it is compiled."""
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
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
                fix="correct that line, or choose another template=",
            ) from error
        # Jinja chains two mappings here and walks them anew for every text: half the time of a short one.
        template.globals = {**template.globals, **self.special_tokens, **self.variables}
        return template.render

    @cached_property
    def _tagged(self) -> bool:
        """Whether it has generation tags."""
        return GENERATION.search(self.source) is not None

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: not the compiled code."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def label(self) -> str:
        """What messages call it: ``template chatml``, ``the tokenizer's own template``."""
        return self.name if " " in self.name else f"template {self.name}"

    def compile(self) -> "ChatTemplate":
        """Itself, after a check of its syntax and of the variables given to it.

        Raises:
            SftError: It is not a template, or does not read a variable.
        """
        assert self._render
        read = jinja2.meta.find_undeclared_variables(self.environment.parse(self.source)) if self.variables else set()
        for name in self.variables:
            where = f"template.variables.{name}"
            if name in GIVEN or name in SPECIAL_NAMES:
                raise SftError(
                    where=where,
                    problem="every template gets it from the conversation or the tokenizer",
                    fix="leave it out",
                )
            if name not in read:
                others = sorted(read - {*GIVEN, *SPECIAL_NAMES, *self.environment.globals})
                known = f"it reads: {', '.join(others)}" if others else "it reads none"
                raise SftError(
                    where=where,
                    problem=f"{self.label} reads no such variable ({known})",
                    fix="correct the name, or leave it out",
                )
        return self

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, prompt: bool
    ) -> str:
        """The text of the messages; with ``prompt``, up to where the assistant's answer begins.

        Raises:
            TemplateRefusal: The template raises, or escapes characters the input did not escape.
        """
        return self._rendered(messages, tools, prompt, [])

    def generated(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str | None:
        """What stands between the last ``{% generation %}`` tags of the text; None for a template without any.

        Raises:
            TemplateRefusal: As ``render``.
        """
        if not self._tagged:
            return None
        kept: list[str] = []
        self._rendered(messages, tools, False, kept)
        return kept[-1] if kept else ""

    def _rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        prompt: bool,
        kept: list[str],
    ) -> str:
        """The text; what is between its generation tags is appended to ``kept``."""
        given = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": prompt, KEPT: kept}
        try:
            text = self._render(**given)
        except jinja2.TemplateError as error:
            raise TemplateRefusal(f"the template refuses it: {error}") from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise TemplateRefusal(f"the template fails on it: {type(error).__name__}: {error}") from error
        entities = [entity for entity in ENTITIES if entity in text] if "&" in text else ()
        known = json.dumps([*messages, *(tools or ())], ensure_ascii=False) + self.source if entities else ""
        for entity in entities:
            if entity not in known:
                raise TemplateRefusal(
                    f"the template writes {entity} where the conversation has none (it escapes tool arguments)"
                )
        return text


def load_template(config: TemplateConfig, tokenizer: ChatTokenizer) -> ChatTemplate:
    """The template of a run: a user's file, a named one, or the tokenizer's own.

    A named template begins with the tokenizer's beginning-of-text token where the tokenizer itself adds one to plain
    text, because servers add none around a chat template.
    """
    source, name = _source(config, tokenizer)
    return ChatTemplate(source, tokenizer.special_tokens, name, variables=config.variables).compile()


def _source(config: TemplateConfig, tokenizer: ChatTokenizer) -> tuple[str, str]:
    """The Jinja text of the template a configuration asks for, and its name."""
    if config.path is not None:
        file = Path(resolve(config.path))
        if not file.is_file():
            raise SftError(where=f"template.path={config.path}", problem="no such file", fix="check the path")
        return file.read_text(encoding="utf-8"), str(config.path)
    if config.name == "auto":
        if tokenizer.chat_template is None:
            raise SftError(
                where=f"tokenizer {tokenizer.directory}",
                problem="template=auto, but the tokenizer has no chat template (a base model often has none)",
                fix="choose one: template=alpaca, chatml, llama2, vicuna or plain, or template.path=FILE.jinja",
            )
        return tokenizer.chat_template, "the tokenizer's own template"
    named = files("sft_cli.configs").joinpath("template", f"{config.name}.jinja")
    if not named.is_file():
        known = sorted(
            p.name.removesuffix(".jinja")
            for p in files("sft_cli.configs").joinpath("template").iterdir()
            if p.name.endswith(".jinja")
        )
        raise SftError(
            where=f"template.name={config.name}",
            problem="no such template",
            fix=f"choose one of: auto, {', '.join(known)}",
        )
    source = named.read_text(encoding="utf-8")
    return ("{{ bos_token }}" + source if tokenizer.adds_bos and "bos_token" not in source else source), config.name
