"""Generate template code that charges every loop iteration, call and growing value to the budget.

Only code generation changes the syntax tree; parsing a template still gives the tree of its source.
"""

from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator

STEP, CHARGE, CONCAT, SUM = "_step", "_kept", "_concat", "_sum"
"""Names of the environment's filters that charge a constant, a value, a concatenation, and a chain of ``+``."""
_CHARACTERS_PER_STEP = 64
"""Characters of a template written in the time of one step."""


class CountingCodeGenerator(CodeGenerator):
    """Code generator that adds charges to a template."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        """Generate the code of a whole template."""
        _add_charges(node)
        super().visit_Template(node, frame)

    def _output_child_pre(self, node: nodes.Expr, frame: Any, finalize: Any) -> None:
        super()._output_child_pre(node, frame, finalize)
        self.write("environment.to_text(")

    def _output_child_post(self, node: nodes.Expr, frame: Any, finalize: Any) -> None:
        self.write(")")
        super()._output_child_post(node, frame, finalize)


def _add_charges(node: nodes.Node) -> None:
    """Add charges to all nodes below a node."""
    if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.FilterBlock | nodes.AssignBlock):
        cost = _cost(node)
    else:
        cost = 0
    for field, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_charge(child) for child in value]
        elif isinstance(value, nodes.Node):
            vars(node)[field] = _charge(value)
    if isinstance(node, nodes.Compare):
        _charge_comparison(node)
    if isinstance(node, nodes.For) and node.test is not None:
        counted = _filter(nodes.Const(_cost(node.test), lineno=node.lineno, environment=node.environment), STEP)
        node.test = nodes.And(counted, node.test, lineno=node.lineno, environment=node.environment)
    if cost:
        assert isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.FilterBlock | nodes.AssignBlock)
        step = _filter(nodes.Const(cost, lineno=node.lineno, environment=node.environment), STEP)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno, environment=node.environment))


def _charge(node: Any) -> Any:
    """Return a node with charges below it, and around it if its value may grow."""
    if not isinstance(node, nodes.Node):
        return node
    constant = isinstance(node, nodes.List | nodes.Tuple | nodes.Dict) and _is_constant(node)
    if constant:
        return node
    if isinstance(node, nodes.Add) and isinstance(node.left, nodes.Add):
        terms = nodes.Tuple(list(map(_charge, _terms(node))), "load", lineno=node.lineno, environment=node.environment)
        return _filter(terms, SUM)
    _add_charges(node)
    if isinstance(node, nodes.Concat):
        pieces = nodes.Tuple(node.nodes, "load", lineno=node.lineno, environment=node.environment)
        return _filter(pieces, CONCAT)
    sliced = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    literal = isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load")
    return _filter(node, CHARGE) if sliced or literal else node


def _terms(node: nodes.Expr) -> list[nodes.Expr]:
    """Return the terms of ``a + b + c`` from left to right; adding them together copies each text once."""
    terms: list[nodes.Expr] = []
    while isinstance(node, nodes.Add):
        terms.append(node.right)
        node = node.left
    return [node, *reversed(terms)]


def _charge_comparison(node: nodes.Compare) -> None:
    """Charge the values that a comparison reads to the end: both sides, or the searched one."""
    for operand in node.ops:
        if operand.op in ("in", "notin"):
            if not isinstance(operand.expr, nodes.Const) and not _is_constant(operand.expr):
                operand.expr = _filter(operand.expr, CHARGE)
        elif not _is_short(node.expr) and not _is_short(operand.expr):
            node.expr, operand.expr = _filter(node.expr, CHARGE), _filter(operand.expr, CHARGE)


def _is_short(node: nodes.Expr) -> bool:
    """Return whether a side of a comparison is a constant or a number, so that comparing costs nothing."""
    return isinstance(node, nodes.Const) or (
        isinstance(node, nodes.Getattr) and node.attr in ("index", "index0", "revindex", "revindex0", "length")
    )


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    assert isinstance(node, nodes.Expr)
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


def _is_constant(node: nodes.Node) -> bool:
    """Return whether a list or mapping in a template contains only literals."""
    kinds = (nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair)
    is_literal = isinstance(node, kinds) and not (isinstance(node, nodes.Tuple) and node.ctx != "load")
    return is_literal and all(_is_constant(child) for child in node.iter_child_nodes())


def _cost(node: nodes.Node) -> int:
    """Return the steps of one iteration: the executed nodes and the written text."""
    return 1 + sum(
        1 + len(child.data) // _CHARACTERS_PER_STEP if isinstance(child, nodes.TemplateData) else 1
        for child in node.find_all(nodes.Node)
    )
