"""One rendering of a conversation that tells what the renderings of its beginnings are.

A chat template runs through the messages in a loop and may write a generation prompt behind it. Where the texts up to
the end of each message are found from one run, a conversation of n turns costs one rendering in place of 2n.

Why that is the same: run on fewer messages, the template does step by step what it does on all of them, until it asks
for something about a message that is not there: the next one, the number of them, the last one. So the messages are
handed over in a sequence that notes every such question. If none was asked before the end of message j-1, the run on
the first j messages comes to the same place with the same text; there its loop ends, and what follows is a constant
(``_constant`` reads that off the template). All other texts are rendered as ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes

from sft_cli.chat.masks.sentinels import BOUNDARY
from sft_cli.chat.template.chat_template import ENTITIES, GENERATION, ChatTemplate
from sft_cli.chat.template.message_trace import Asked, Messages

FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_MAIN, _PEEK = "_main_messages", "_peek"
_NEXT, _NUMBER = ("last", "nextitem"), ("length", "revindex", "revindex0")
_HARMLESS = ("first", "index", "index0", "previtem", "depth", "depth0")
_CONSTANT = (
    *(nodes.Output, nodes.TemplateData, nodes.If, nodes.Const, nodes.Name, nodes.Not, nodes.And, nodes.Or),
    *(nodes.Compare, nodes.Operand, nodes.Test, nodes.Add, nodes.Concat, nodes.CondExpr),
)
_ELSEWHERE = (nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport, nodes.Break, nodes.Continue)


@dataclass(frozen=True, slots=True)
class Walk:
    """The texts of the beginnings of a conversation.

    Attributes:
        ends: ``ends[j]`` is the text up to the end of the first j messages; None where that was not found.
        closings: What follows it without and with a generation prompt.
    """

    ends: list[str | None]
    closings: tuple[str, str]

    def text(self, count: int, prompt: bool) -> str | None:
        """The rendering of the first ``count`` messages; None where it was not found."""
        end = self.ends[count]
        return None if end is None else end + self.closings[prompt]


class Walker:
    """Walks conversations with one template."""

    def __init__(self, template: ChatTemplate) -> None:
        self._render = _instrumented(template)
        self._closings = self._constants() if self._render is not None else None

    def walk(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> Walk | None:
        """The texts of the beginnings; None where one rendering cannot tell any."""
        if self._closings is None:
            return None
        asked = Asked(len(messages))
        text = self._run(messages, tools, False, asked)
        if text is None or ("&" in text and any(entity in text for entity in ENTITIES)):
            return None
        *pieces, behind = text.split(BOUNDARY)
        if len(pieces) != len(messages) - asked.skipped:
            return None
        ends: list[str | None] = [None] * (asked.skipped + 1)
        end = ""
        for count, piece in enumerate(pieces, asked.skipped + 1):
            end += piece
            ends.append(None if count in asked.unknown else end)
        if behind != self._closings[0]:  # no message went through the loop: what stands before it is there, too
            return None
        return Walk(ends, self._closings)

    def _constants(self) -> tuple[str, str] | None:
        """What the template writes behind its loop, without and with a generation prompt."""
        talk = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "user")]
        texts = [self._run(talk, None, prompt, Asked(3)) for prompt in (False, True)]
        found = [text.rpartition(BOUNDARY) for text in texts if text is not None]
        return (found[0][2], found[1][2]) if len(found) == 2 and all(behind for _, behind, _ in found) else None

    def _run(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, prompt: bool, asked: Asked
    ) -> str | None:
        """The instrumented text; None if the template refuses or fails: the plain rendering says how."""
        assert self._render is not None
        given = {"messages": Messages(messages, 0, asked), "tools": tools, "documents": None}
        try:
            return self._render({**given, "add_generation_prompt": prompt, _MAIN: asked.main, _PEEK: asked.peeked})
        except Exception:  # a template is a program of someone else's; the plain rendering says what is wrong
            return None


def _instrumented(template: ChatTemplate) -> Callable[[dict[str, Any]], str] | None:
    """Renders with ``BOUNDARY`` behind each message; None for a template of another build."""
    if GENERATION.search(template.source) or BOUNDARY in template.source:
        return None
    environment = template.environment
    tree = environment.parse(template.source)
    at = next((i for i, node in reversed(list(enumerate(tree.body))) if isinstance(node, nodes.For)), None)
    if at is None or any(True for _ in tree.find_all(_ELSEWHERE)):
        return None
    loop, behind = tree.body[at], tree.body[at + 1 :]
    assert isinstance(loop, nodes.For)
    early = nodes.Template([*tree.body[:at], loop])
    if (
        loop.else_
        or loop.recursive
        or loop.test
        or not _constant(tree, behind)
        or _reads(early, "add_generation_prompt")
    ):
        return None
    loop.iter = nodes.Call(nodes.Name(_MAIN, "load"), [loop.iter], [], None, None)
    if not all(_watched(node) for node in loop.body):
        return None
    loop.body.append(nodes.Output([nodes.TemplateData(BOUNDARY)]))
    tree.set_environment(environment)
    nodes.Node.set_lineno(tree, 1)
    compiled = jinja2.Template.from_code(environment, environment.compile(tree), {})
    constants = {**environment.globals, **template.special_tokens, **template.variables}

    def render(values: dict[str, Any]) -> str:
        environment.begin()
        return environment.concat(compiled.root_render_func(compiled.new_context({**constants, **values}, shared=True)))

    return render


def _reads(tree: nodes.Node, name: str) -> bool:
    return any(node.name == name for node in tree.find_all(nodes.Name))


def _constant(tree: nodes.Template, behind: list[nodes.Node]) -> bool:
    """Whether nodes write the same whatever the conversation is."""
    stored = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    stored |= {node.name for node in tree.find_all(nodes.Macro)} | {"messages", "tools", "documents"}
    every = [node for top in behind for node in (top, *top.find_all(nodes.Node))]
    return all(
        isinstance(node, _CONSTANT) and not (isinstance(node, nodes.Name) and node.name in stored) for node in every
    )


def _watched(node: nodes.Node) -> bool:
    """Whether every question of the loop's own ``loop`` is noted from now on; inner loops have one of their own."""
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
                    told: list[nodes.Expr] = [number, child, nodes.Const(child.attr in _NEXT)]
                    noted = nodes.Call(nodes.Name(_PEEK, "load"), told, [], None, None)
                    if isinstance(value, list):
                        value[i] = noted
                    else:
                        setattr(node, field, noted)
                elif child.attr not in _HARMLESS:
                    return False
            elif (isinstance(child, nodes.Name) and child.name == "loop") or not _watched(child):
                return False
    return True
