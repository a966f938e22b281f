"""Chat templates: finding, compiling and rendering them, as transformers and servers do.

The environment (sandbox, trimmed blocks, ``tojson`` without HTML escapes, ``raise_exception``, ``strftime_now``,
``{% generation %}`` blocks) is the one documented by transformers' ``apply_chat_template``; chat/masks/parity.py holds
the two together.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta

from sft_cli.chat.template.jinja_env import GENERATION, KEPT, Dialect, raising, tojson
from sft_cli.chat.template.named_templates import DEFAULT, TOOL_USE
from sft_cli.chat.tokens.tokenizer import SPECIAL_NAMES, ChatTokenizer
from sft_cli.config.paths import resolve
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.errors import SftError
from sft_cli.sandbox.budget import TooMuch

GIVEN = ("messages", "tools", "documents", "add_generation_prompt", KEPT)
"""What every rendering is called with."""
_OBJECT = re.compile(r"<[\w. ]+ at 0x[0-9a-f]+>")
ENTITIES = ("&#34;", "&#39;", "&quot;", "&lt;", "&gt;", "&amp;")


class TemplateRefusal(Exception):
    """A template cannot render this conversation; the message says why in words for the user.

    Attributes:
        unwritten: Whether the template wrote nothing that could be used: another form of the conversation may do.
        fix: What to do, if it is more than to correct the row; ``{source}`` stands for the name of the row's source.
    """

    def __init__(self, message: str, *, unwritten: bool = False, fix: str = "") -> None:
        super().__init__(message)
        self.unwritten, self.fix = unwritten, fix


@dataclass(frozen=True)
class ChatTemplate:
    """A compiled chat template.

    Attributes:
        source: The Jinja text, as it is saved into the tokenizer.
        special_tokens: Special tokens by name, readable in the template.
        name: For messages: ``tokenizer``, a name of configs/template, or a file.
        now: The time a template may write, one for all its texts.
        variables: Further values the template reads, such as ``{"enable_thinking": False}``.
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
        """The template of conversations with tools: ``tool_use``, as transformers chooses; itself if there is none."""
        if TOOL_USE not in self.named:
            return self
        return replace(self, source=self.named[TOOL_USE], name=f"{self.label} {TOOL_USE}", named={})

    @cached_property
    def environment(self) -> Dialect:
        """Where it is compiled."""
        environment = Dialect()
        environment.filters["tojson"] = environment.guarded("tojson", tojson)
        environment.globals["raise_exception"] = raising
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
        except Exception as error:  # compiling what a stranger wrote may fail in any way
            said = f"it {error}" if isinstance(error, TooMuch) else f"{type(error).__name__}: {error}"
            raise SftError(
                where=self.label, problem=f"cannot be compiled: {said:.200}", fix="choose another template="
            ) from error
        # Jinja chains two mappings here and walks them anew for every text: half the time of a short one.
        template.globals = {**template.globals, **self.special_tokens, **self.variables}

        def render(**given: Any) -> str:
            self.environment.begin()
            return template.render(**given)

        return render

    @cached_property
    def _tagged(self) -> bool:
        """Whether it has generation tags."""
        return GENERATION.search(self.source) is not None

    @cached_property
    def writes_date(self) -> bool:
        """Whether the text of a conversation depends on the day it is rendered."""
        if "strftime_now" not in self.source:
            return False
        other = replace(self, now=self.now + timedelta(days=397))
        try:
            texts = [one.render([{"role": "user", "content": "Hi"}], None, prompt=True) for one in (self, other)]
        except TemplateRefusal:
            return True
        return texts[0] != texts[1]

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
        read: set[str] = set()
        for template in (self, self.for_tools):
            assert template._render
            if self.variables:
                read |= jinja2.meta.find_undeclared_variables(self.environment.parse(template.source))
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
        except TooMuch as error:
            raise TemplateRefusal(f"the template {error}") from error
        except jinja2.TemplateError as error:
            raise TemplateRefusal(f"the template refuses it: {error!s:.500}", unwritten=True) from error
        except Exception as error:  # a template is a program of someone else's
            problem = f"the template fails on it: {type(error).__name__}: {error!s:.500}"
            raise TemplateRefusal(problem, unwritten=True) from error
        entities = [entity for entity in ENTITIES if entity in text] if "&" in text else ()
        known = json.dumps([*messages, *(tools or ())], ensure_ascii=False) + self.source if entities else ""
        for entity in entities:
            if entity not in known:
                raise TemplateRefusal(
                    f"the template writes {entity} where the conversation has none (it escapes tool arguments)",
                    unwritten=True,
                )
        if " at 0x" in text and (found := _OBJECT.search(text)) and found.group() not in f"{messages}{tools}":
            raise TemplateRefusal(
                f"the template writes a Python object ({found.group():.40}), not its text: it lacks | list or | join"
            )
        return text


class NoTemplate(SftError):
    """The tokenizer has no chat template, and none was chosen."""


def load_template(config: TemplateConfig, tokenizer: ChatTokenizer) -> ChatTemplate:
    """The template of a run: a user's file, one of ours, the tokenizer's own, or another of the tokenizer's by name.

    One of ours begins with the tokenizer's beginning-of-text token where the tokenizer itself adds one to plain text,
    because servers add none around a chat template.

    Raises:
        SftError: There is no such template, or it cannot be compiled.
    """
    source, name = _source(config, tokenizer)
    named = tokenizer.named_templates if config.path is None and config.name == "auto" else {}
    return ChatTemplate(source, tokenizer.special_tokens, name, variables=config.variables, named=named).compile()


def named_templates() -> list[str]:
    """The names of configs/template."""
    folder = files("sft_cli.configs").joinpath("template")
    return sorted(file.name.removesuffix(".jinja") for file in folder.iterdir() if file.name.endswith(".jinja"))


def _source(config: TemplateConfig, tokenizer: ChatTokenizer) -> tuple[str, str]:
    """The Jinja text of the template a configuration asks for, and its name."""
    if config.path is not None:
        file = Path(resolve(config.path))
        if not file.is_file():
            raise SftError(where=f"template.path={config.path}", problem="no such file", fix="check the path")
        try:
            return file.read_text(encoding="utf-8"), str(config.path)
        except UnicodeDecodeError as error:
            where = f"template.path={config.path}"
            raise SftError(where=where, problem="not a text file in UTF-8", fix="save it as UTF-8") from error
    if config.name == "auto":
        return _own(tokenizer), "the tokenizer's own template"
    known = named_templates()
    if config.name in known:
        source = files("sft_cli.configs").joinpath("template", f"{config.name}.jinja").read_text(encoding="utf-8")
        return ("{{ bos_token }}" + source if tokenizer.adds_bos and "bos_token" not in source else source), config.name
    own = _by_name(tokenizer)
    if config.name in own:
        return own[config.name], f"the tokenizer's own template {config.name}"
    others = f"the tokenizer's own: {', '.join(own)}" if own else "the tokenizer has none with a name"
    raise SftError(
        where=f"template.name={config.name}",
        problem="no such template",
        fix=f"choose one of: auto, {', '.join(known)}; {others}",
    )


def _own(tokenizer: ChatTokenizer) -> str:
    """The tokenizer's default template."""
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    where = f"tokenizer {tokenizer.directory}"
    if named := sorted(tokenizer.named_templates):
        raise SftError(
            where=where,
            problem=f"template=auto, but none of the tokenizer's templates is called default ({', '.join(named)})",
            fix=f"choose one of them: template.name={named[0]}",
        )
    raise NoTemplate(
        where=where,
        problem="template=auto, but the tokenizer has no chat template (a base model often has none)",
        fix="choose one: template=alpaca, chatml, llama2, vicuna or plain, or template.path=FILE.jinja",
    )


def _by_name(tokenizer: ChatTokenizer) -> dict[str, str]:
    """The tokenizer's templates by name, if it has named ones."""
    if not tokenizer.named_templates:
        return {}
    default = {} if tokenizer.chat_template is None else {DEFAULT: tokenizer.chat_template}
    return dict(sorted({**default, **tokenizer.named_templates}.items()))
