"""The table of scorers by name, and how one is made from its options.

A scorer is a frozen dataclass: its fields are the options, and their annotations the types. Modules are imported when
a scorer of theirs is made.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sft_cli.errors import SftError
from sft_cli.scoring import plugins
from sft_cli.scoring.base import OptionError
from sft_cli.scoring.types import Scorer
from sft_cli.utils.entry_points import entry_points_by_name, installed_point
from sft_cli.utils.similar import closest_name

_METRICS = "sft_cli.scoring.metrics"
SCORERS: Mapping[str, str] = {
    "exact_match": f"{_METRICS}.text_match:ExactMatch",
    "regex": f"{_METRICS}.text_match:RegexMatch",
    "contains": f"{_METRICS}.text_match:ContainsText",
    "numeric": f"{_METRICS}.numeric:NumericMatch",
    "gsm8k_strict": f"{_METRICS}.gsm8k:Gsm8kStrict",
    "gsm8k_flexible": f"{_METRICS}.gsm8k:Gsm8kFlexible",
    "json_valid": f"{_METRICS}.json_answers:JsonValid",
    "json_schema": f"{_METRICS}.json_answers:JsonSchemaMatch",
    "rouge": f"{_METRICS}.overlap:RougeOverlap",
    "bleu": f"{_METRICS}.overlap:BleuOverlap",
    "chrf": f"{_METRICS}.overlap:ChrfOverlap",
    "token_f1": f"{_METRICS}.overlap:TokenF1",
    "classification": f"{_METRICS}.classification:Classification",
    "choice_letter": f"{_METRICS}.choice_letter:ChoiceLetter",
    "citations": f"{_METRICS}.citations:Citations",
    "length": f"{_METRICS}.length_limits:LengthLimits",
    "tool_calls": "sft_cli.scoring.tools.scorers:ToolCalls",
    "tool_abstention": "sft_cli.scoring.tools.scorers:ToolAbstention",
    "safety": "sft_cli.scoring.safety:SafetyContrast",
    "sycophancy": "sft_cli.scoring.paired:SycophancyFlips",
    "abstention": "sft_cli.scoring.paired:Abstention",
    "code": "sft_cli.scoring.code:CodeTests",
    "ifeval": "sft_cli.scoring.instructions.scorer:InstructionScorer",
    "ifeval_fixed": "sft_cli.scoring.instructions.scorer:InstructionScorer",
    "ifbench": "sft_cli.scoring.instructions.scorer:InstructionScorer",
}
"""Name of a scorer -> module and class."""
_FORMS = ("ifeval", "ifeval_fixed", "ifbench")
_FIXED_OPTIONS: Mapping[str, Mapping[str, Any]] = {name: {"form": name} for name in _FORMS}
"""Options that the name of a scorer decides."""


def scorer_names() -> tuple[str, ...]:
    """Return the names of all scorers, those of installed packages included."""
    return (*SCORERS, *(name for name in entry_points_by_name(plugins.GROUP) if name not in SCORERS))


def make_scorer(name: str, options: Mapping[str, Any], where: str) -> Scorer:
    """Return a scorer with its options.

    Args:
        name: Name of the scorer.
        options: Value of each option that is set; the others keep their defaults.
        where: The key that names the scorer, for errors.

    Raises:
        SftError: The name or an option is unknown, a value is of the wrong type or not allowed, or a package is absent.
    """
    point = installed_point(plugins.GROUP, name, built_in=name in SCORERS, kind="metric", where=where)
    if point is not None:
        return plugins.load_metric(point, options, where)
    if name not in SCORERS:
        known = scorer_names()
        near = closest_name(name, known)
        raise SftError(
            where=where,
            problem=f"unknown metric {name!r}; known are {', '.join(known)}",
            fix=f"did you mean {near}?" if near else f"write one of them, such as {known[0]}",
        )
    module, _, kind = SCORERS[name].partition(":")
    try:
        fixed = _FIXED_OPTIONS.get(name, {})
        plugins.refuse_unknown_options(name, fixed.keys() & options.keys(), ())
        return make_from_options(vars(import_module(module))[kind], name, {**options, **fixed})
    except OptionError as error:
        place = f"{where}.{error.option}" if error.option else where
        raise SftError(where=place, problem=error.problem, fix=error.fix) from error


def make_from_options(kind: type, name: str, options: Mapping[str, Any]) -> Any:
    """Return an object of a dataclass from its options; ``OptionError`` for an unknown, missing or mistyped one."""
    types, known = get_type_hints(kind), {field.name: field for field in fields(kind) if field.init}
    plugins.refuse_unknown_options(name, options, known)
    for option, field in known.items():
        if option not in options and field.default is MISSING and field.default_factory is MISSING:
            raise OptionError(option, f"{name} needs the option {option}", f"set {option}")
    return kind(**{option: _checked(option, value, types[option]) for option, value in options.items()})


def _checked(option: str, value: Any, kind: Any) -> Any:
    """Return a value of an option as its annotated type: lists become tuples, whole numbers floats."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        if value in arguments:
            return value
        near = closest_name(str(value), [str(choice) for choice in arguments])
        choices = ", ".join(map(str, arguments))
        raise OptionError(option, f"{value!r} is not one of {choices}", f"{option}: {near or arguments[0]}")
    if origin is UnionType:
        if value is None and type(None) in arguments:
            return None
        return _checked(option, value, next(kind for kind in arguments if kind is not type(None)))
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_checked(option, part, arguments[0]) for part in value)
        raise OptionError(option, f"{value!r} is not a list", f"{option}: [{value}]")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = origin or kind
    if not isinstance(value, Mapping if wanted is Mapping else wanted) or (kind is int and isinstance(value, bool)):
        name = wanted.__name__
        raise OptionError(option, f"{value!r} is not of the type {name}", f"write a value of the type {name}")
    return value
