"""The Jinja environment of chat templates: the extensions of transformers, in a sandbox with limits."""

import json
import re
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime

from sft_cli.sandbox.environment import LimitedEnvironment

GENERATION_TAG = re.compile(r"\{%[-+]?\s*generation\b")
GENERATED_TEXTS = "_generated"
"""Variable of a rendering that collects the texts inside generation tags."""
_DICT_ATTRIBUTES = frozenset(dir(dict))


class _Generation(jinja2.ext.Extension):
    """Accept ``{% generation %}…{% endgeneration %}`` and append the text inside to ``GENERATED_TEXTS``."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a plain class attribute

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_keep", [jinja2.nodes.ContextReference()])
        return jinja2.nodes.CallBlock(call, [], [], body, lineno=line)

    def _keep(self, context: jinja2.runtime.Context, caller: Callable[[], str]) -> str:
        text = caller()
        context[GENERATED_TEXTS].append(text)
        return text


class ChatTemplateEnvironment(LimitedEnvironment):
    """Jinja environment of chat templates; ``message.content`` of a plain dict is its key, not an attribute."""

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an attribute, or the entry of that name."""
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


def raise_exception(message: str) -> None:
    """Raise the error with which a template rejects a conversation."""
    raise jinja2.TemplateError(message)


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return the value as JSON, without HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
