"""Jinja's sandbox with a budget: expensive loops, calls, filters and operators raise ``BudgetExceeded``."""

import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, Template
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, _PassArg, pass_context

from sft_cli.sandbox import size_estimates
from sft_cli.sandbox.budget import MAX_SIZE, BudgetExceeded, RenderBudget
from sft_cli.sandbox.codegen import CHARGE, CONCAT, STEP, SUM, CountingCodeGenerator

MAX_BITS = 8192
"""Most bits of an integer: 2,400 digits."""
MAX_SOURCE_LENGTH = 1_000_000
"""Most characters of a template; the longest in use have 60,000."""
_COMPARING = ("in", "eq", "==", "equalto", "ne", "!=", "lt", "<", "lessthan", "le", "<=", "gt", ">", "greaterthan")
_STR_METHODS = {
    name: method
    for name, method in vars(str).items()
    if isinstance(method, types.MethodDescriptorType) and not name.startswith(("_", "format"))
}
"""Methods of texts that a template calls directly, with the same result in a tenth of the time."""
_LOOP_ATTRIBUTES = frozenset(
    ("first", "last", "index", "index0", "revindex", "revindex0", "length", "depth", "depth0", "previtem", "nextitem")
)
_TESTS = (*_COMPARING, "ge", ">=", "lower", "upper")


class _Namespace(Namespace):
    """A namespace with a fixed text, since namespaces that contain each other would have an infinite one."""

    def __repr__(self) -> str:
        return "<namespace>"


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox with a budget; call ``begin_render`` before each rendering.

    Attributes:
        budget: Budget of the current rendering.
    """

    code_generator_class = CountingCodeGenerator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        self.budget = RenderBudget()
        super().__init__(**options)
        self.concat = self.budget.concat
        self.to_text = self.budget.to_text
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace
        for name, function in self.filters.items():
            self.filters[name] = self.guard(name, function)
        for name in _TESTS:
            self.tests[name] = self.guard(name, self.tests[name])
        self.filters |= {
            STEP: self.budget.count_step,
            CHARGE: self.budget.charge,
            CONCAT: self.budget.join,
            SUM: self.add_terms,
        }

    def begin_render(self) -> None:
        """Start another rendering."""
        self.budget.reset()

    def from_string(self, source: Any, *others: Any, **named: Any) -> Template:
        """Compile a template of limited length."""
        if isinstance(source, str) and len(source) > MAX_SOURCE_LENGTH:
            raise BudgetExceeded(f"has {len(source):,} characters, more than {MAX_SOURCE_LENGTH:,}")
        return super().from_string(source, *others, **named)

    def compile(self, *source: Any, **options: Any) -> Any:
        """Compile a template without Python's warnings about the generated code."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return super().compile(*source, **options)

    def guard(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter or test that checks its arguments before the call and charges its result."""
        first_argument = _PassArg.from_obj(function)  # pyright: ignore[reportArgumentType]

        @pass_context
        def call(context: Context, value: Any, *arguments: Any, **named: Any) -> Any:
            """Check and count a call of the function."""
            size_estimates.check_call(self.budget, name, value, (*arguments, *named.values()))
            if first_argument is None:
                return self.budget.charge(function(value, *arguments, **named))
            first = {_PassArg.context: context, _PassArg.eval_context: context.eval_ctx, _PassArg.environment: self}
            return self.budget.charge(function(first[first_argument], value, *arguments, **named))

        return call

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an attribute, or the item of that name."""
        if type(obj) is str and attribute in _STR_METHODS:
            return _STR_METHODS[attribute].__get__(obj)
        if attribute in _LOOP_ATTRIBUTES and type(obj) is LoopContext:
            return Environment.getattr(self, obj, attribute)
        return super().getattr(obj, attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a function or a method."""
        if type(__obj) is types.BuiltinMethodType and type(__obj.__self__) is str and __obj.__name__ in _STR_METHODS:
            kwargs.pop("_loop_vars", None)  # Jinja's arguments for functions that take the context
            kwargs.pop("_block_vars", None)
            size_estimates.check_call(__self.budget, __obj.__name__, __obj.__self__, (*args, *kwargs.values()))
            return __self.budget.charge(__obj(*args, **kwargs))
        if isinstance(__obj, types.BuiltinMethodType) and not isinstance(__obj.__self__, types.ModuleType | None):
            size_estimates.check_call(__self.budget, __obj.__name__, __obj.__self__, (*args, *kwargs.values()))
        else:
            __self.budget.spend(size_estimates.CALL_STEPS)
        return __self.budget.charge(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return ``text.format`` with a check of its arguments."""
        format = super().wrap_str_format(value)
        if format is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            """Format the text if the result is small enough."""
            values = [*args, *kwargs.values()]
            spread = [
                part
                for argument in values
                for part in (argument.values() if isinstance(argument, Mapping) else [argument])
            ]
            size_estimates.check_format(self.budget, value.__self__, [*values, *spread])
            return format(*args, **kwargs)

        return checked

    def add_terms(self, terms: tuple[Any, ...]) -> Any:
        """Add the terms of a chain of ``+`` from left to right."""
        if set(map(type, terms)) == {str}:
            return self.budget.join(terms)
        total = terms[0]
        for term in terms[1:]:
            total = self.call_binop(None, "+", total, term)
        return total

    def call_binop(self, context: Context | None, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result may be larger than its operands."""
        budget = self.budget
        if operator == "+" and type(left) is str and type(right) is str and len(left) + len(right) < MAX_SIZE:
            return budget.charge(left + right)
        budget.spend(10)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise BudgetExceeded(f"creates a number of more than {MAX_BITS:,} bits")
        elif operator == "*":
            times = max((abs(argument) for argument in (left, right) if isinstance(argument, int)), default=1)
            budget.check_size(max(budget.size(left), budget.size(right)) * times)
        elif operator == "+":
            budget.check_size(budget.size(left) + budget.size(right))
        elif operator == "%" and isinstance(left, str | bytes):
            size_estimates.check_format(budget, left, right if isinstance(right, tuple) else [right])
        return budget.charge(self.binop_table[operator](left, right))
