"""Get the renderings of all prefixes of a conversation from one rendering.

A chat template loops over the messages and may write a generation prompt after the loop. If one run gives the text up
to the end of each message, a conversation of n turns takes one rendering instead of 2n.

Why the result is the same: with fewer messages, the template performs the same steps until it reads something about a
missing message: the next message, the number of messages, the last message. The messages are therefore passed in a
sequence that records every such read. If none occurred before the end of message j-1, a run on the first j messages
reaches the same point with the same text; there the loop ends, and the text after it is constant (``_is_constant``
checks this in the template). All other texts are rendered separately.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.runtime
from jinja2 import nodes

from sft_cli.chat.masks.sentinels import MESSAGE_BOUNDARY
from sft_cli.chat.template.chat_template import GENERATION_TAG, HTML_ENTITIES, ChatTemplate
from sft_cli.chat.template.message_access import MessageAccessLog, TracedMessages

FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_MAIN, _LOOKAHEAD = "_main_messages", "_peek"
"""Filters of instrumented templates: around the messages of the main loop, and around lookaheads in it. Templates call
filters directly, and functions through the checks of the sandbox."""
_LOG = "_message_log"
"""Variable of a rendering of an instrumented template: its ``MessageAccessLog``."""
_NEXT, _NUMBER = ("last", "nextitem"), ("length", "revindex", "revindex0")
_INDEPENDENT = ("first", "index", "index0", "previtem", "depth", "depth0")
_CONSTANT = (
    *(nodes.Output, nodes.TemplateData, nodes.If, nodes.Const, nodes.Name, nodes.Not, nodes.And, nodes.Or),
    *(nodes.Compare, nodes.Operand, nodes.Test, nodes.Add, nodes.Concat, nodes.CondExpr),
)
_UNSUPPORTED = (nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport, nodes.Break, nodes.Continue)


@dataclass(frozen=True, slots=True)
class PrefixTexts:
    """The texts of the prefixes of a conversation.

    Attributes:
        ends: ``ends[j]`` is the text up to the end of the first j messages; None if it was not found.
        closings: The text that follows, without and with a generation prompt.
    """

    ends: list[str | None]
    closings: tuple[str, str]

    def text(self, count: int, prompt: bool) -> str | None:
        """Return the rendering of the first ``count`` messages; None if it was not found."""
        end = self.ends[count]
        return None if end is None else end + self.closings[prompt]


class PrefixRenderer:
    """Render the prefixes of conversations with one template."""

    def __init__(self, template: ChatTemplate) -> None:
        self._render = _instrument(template)
        self._closings = self._find_closings() if self._render is not None else None

    def render_prefixes(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> PrefixTexts | None:
        """Return the texts of the prefixes; None if one rendering yields none of them."""
        if self._closings is None:
            return None
        log = MessageAccessLog(len(messages))
        text = self._run(messages, tools, False, log)
        if text is None or ("&" in text and any(entity in text for entity in HTML_ENTITIES)):
            return None
        *pieces, closing = text.split(MESSAGE_BOUNDARY)
        if len(pieces) != len(messages) - log.skipped:
            return None
        ends: list[str | None] = [None] * (log.skipped + 1)
        end = ""
        for count, piece in enumerate(pieces, log.skipped + 1):
            end += piece
            ends.append(None if count in log.unknown_counts else end)
        if closing != self._closings[0]:  # no message went through the loop: the text before the loop is included
            return None
        return PrefixTexts(ends, self._closings)

    def _find_closings(self) -> tuple[str, str] | None:
        """Return the text after the template's loop, without and with a generation prompt."""
        messages = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "user")]
        texts = [self._run(messages, None, prompt, MessageAccessLog(3)) for prompt in (False, True)]
        split = [text.rpartition(MESSAGE_BOUNDARY) for text in texts if text is not None]
        return (split[0][2], split[1][2]) if len(split) == 2 and all(boundary for _, boundary, _ in split) else None

    def _run(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, prompt: bool, log: MessageAccessLog
    ) -> str | None:
        """Return the instrumented text; None if the template raises: the plain rendering reports the error."""
        assert self._render is not None
        values = {"messages": TracedMessages(messages, 0, log), "tools": tools, "documents": None}
        try:
            return self._render({**values, "add_generation_prompt": prompt, _LOG: log})
        except Exception:  # a template may raise anything; the plain rendering reports the error
            return None


def _instrument(template: ChatTemplate) -> Callable[[dict[str, Any]], str] | None:
    """Return a function that renders with ``MESSAGE_BOUNDARY`` after each message; None for an unsupported template."""
    if GENERATION_TAG.search(template.source) or MESSAGE_BOUNDARY in template.source:
        return None
    environment = template.environment
    tree = environment.parse(template.source)
    loop_index = next((i for i, node in reversed(list(enumerate(tree.body))) if isinstance(node, nodes.For)), None)
    if loop_index is None or any(True for _ in tree.find_all(_UNSUPPORTED)):
        return None
    loop, after_loop = tree.body[loop_index], tree.body[loop_index + 1 :]
    assert isinstance(loop, nodes.For)
    up_to_loop = nodes.Template([*tree.body[:loop_index], loop])
    if (
        loop.else_
        or loop.recursive
        or loop.test
        or not _is_constant(tree, after_loop)
        or _reads(up_to_loop, "add_generation_prompt")
    ):
        return None
    environment.filters |= {_MAIN: _main_loop, _LOOKAHEAD: _record_lookahead}
    loop.iter = nodes.Filter(loop.iter, _MAIN, [], [], None, None)
    if not all(_record_lookaheads(node) for node in loop.body):
        return None
    loop.body.append(nodes.Output([nodes.TemplateData(MESSAGE_BOUNDARY)]))
    tree.set_environment(environment)
    nodes.Node.set_lineno(tree, 1)
    compiled = jinja2.Template.from_code(environment, environment.compile(tree), {})
    constants = {**environment.globals, **template.special_tokens, **template.variables}

    def render(values: dict[str, Any]) -> str:
        environment.begin_render()
        return environment.concat(compiled.root_render_func(compiled.new_context({**constants, **values}, shared=True)))

    return render


@jinja2.pass_context
def _main_loop(context: jinja2.runtime.Context, messages: Any) -> Any:
    """Return the expression that the main loop iterates over."""
    return context.parent[_LOG].main_loop(messages)


@jinja2.pass_context
def _record_lookahead(context: jinja2.runtime.Context, value: Any, index: int, at_next: bool) -> Any:
    """Record that a round of the main loop read the next message (``at_next``) or all; return ``value``."""
    return context.parent[_LOG].record_lookahead(index, value, at_next)


def _reads(tree: nodes.Node, name: str) -> bool:
    return any(node.name == name for node in tree.find_all(nodes.Name))


def _is_constant(tree: nodes.Template, after_loop: list[nodes.Node]) -> bool:
    """Return whether nodes write the same text for every conversation."""
    stored = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    stored |= {node.name for node in tree.find_all(nodes.Macro)} | {"messages", "tools", "documents"}
    every = [node for top in after_loop for node in (top, *top.find_all(nodes.Node))]
    return all(
        isinstance(node, _CONSTANT) and not (isinstance(node, nodes.Name) and node.name in stored) for node in every
    )


def _record_lookaheads(node: nodes.Node) -> bool:
    """Record every read of the main loop's ``loop`` variable; return whether that is possible."""
    if isinstance(node, nodes.For):
        return not _reads(nodes.Template([nodes.Output([node.iter]), *node.else_]), "loop")
    if isinstance(node, nodes.Macro | nodes.CallBlock | nodes.FilterBlock):
        return not _reads(node, "loop")
    for field, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        for i, child in enumerate(children):
            if not isinstance(child, nodes.Node):
                continue
            if isinstance(child, nodes.Getattr) and isinstance(child.node, nodes.Name) and child.node.name == "loop":
                if child.attr in _NEXT + _NUMBER:
                    number = nodes.Getattr(nodes.Name("loop", "load"), "index0", "load")
                    arguments: list[nodes.Expr] = [number, nodes.Const(child.attr in _NEXT)]
                    recorded = nodes.Filter(child, _LOOKAHEAD, arguments, [], None, None)
                    if isinstance(value, list):
                        value[i] = recorded
                    else:
                        setattr(node, field, recorded)
                elif child.attr not in _INDEPENDENT:
                    return False
            elif (isinstance(child, nodes.Name) and child.name == "loop") or not _record_lookaheads(child):
                return False
    return True
