"""Rules of the suites that are asked during training, and of the figure that decides which weights are the best."""

from collections.abc import Collection, Iterator

from sft_cli.config.automatic import may_hold_out
from sft_cli.config.files.search_path import package_dir
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.suites import SuiteKind
from sft_cli.config.validate import ConfigError
from sft_cli.utils.expressions import ExpressionError, parse_expression
from sft_cli.utils.similar import closest_name

HELD_OUT, HELD_OUT_FIGURES = "heldout", ("loss", "perplexity")
"""The name of the held-out rows in ``trainer.best``, and their figures."""
UNSCORED = ["none"]
"""Scorers of a suite that only a judge can score."""


def check_eval_suites(config: Config) -> Iterator[ConfigError]:
    """Yield errors in ``trainer.eval_suites`` and ``trainer.best``."""
    yield from _check_names(config)
    if config.trainer.best is not None:
        yield from _check_best(config, config.trainer.best)


def _check_names(config: Config) -> Iterator[ConfigError]:
    """Yield an error for each name that is no suite to ask during training."""
    key, suites, names = "trainer.eval_suites", config.eval.suites, config.trainer.eval_suites
    for name in dict.fromkeys(names):
        suite = suites.get(name)
        if names.count(name) > 1:
            yield ConfigError(key, f"{key} names {name} twice", f"{key}=[{','.join(dict.fromkeys(names))}]")
        elif name == HELD_OUT or (suite is not None and suite.kind is SuiteKind.heldout):
            problem = f"{key} names {name}, but held-out rows are always evaluated during training if there are any"
            yield ConfigError(key, problem, f"remove {name} from {key}")
        elif suite is None:
            yield ConfigError(key, f"{key} names {name!r}, which is not in eval.suites", _suite_fix(name, suites))
        elif suite.kind in (SuiteKind.perplexity, SuiteKind.memorisation):
            problem = f"{key} names {name}, a suite of {suite.kind.value}, which is measured after training"
            yield ConfigError(key, problem, f"remove {name} from {key}, and evaluate the run: sft eval RUN eval={name}")
        elif suite.kind is SuiteKind.generate and list(suite.scorers) == UNSCORED:
            problem = f"{key} names {name}, whose answers only a judge can score"
            fix = f"remove it, and judge the trained run: sft eval RUN eval={name}, then sft judge RUN --suite {name}"
            yield ConfigError(key, problem, fix)


def _suite_fix(name: str, suites: Collection[str]) -> str:
    """Return the fix for a suite that the config does not have."""
    options = {file.stem for file in (package_dir("configs") / "eval").glob("*.yaml")}
    if name in options:
        chosen = [*(suite for suite in suites if suite in options), name]
        return f"add eval=[{','.join(chosen)}]"
    near = closest_name(name, [*suites, *options])
    if near is not None:
        return f"did you mean {near}?" + ("" if near in suites else f" Then add eval={near} as well")
    return f"define it: eval.suites.{name}.path=FILE" + (f", or name one of {', '.join(suites)}" if suites else "")


def _check_best(config: Config, text: str) -> Iterator[ConfigError]:
    """Yield an error for a text that is no expression, and for each figure that will not be measured."""
    key, suites = "trainer.best", config.trainer.eval_suites
    try:
        expression = parse_expression(text)
    except ExpressionError as error:
        fix = f'write sums and products of figures, such as {key}="{_example(suites)}"'
        yield ConfigError(key, f"{key} is {text!r}: {error}", fix)
        return
    if not expression.names:
        yield ConfigError(key, f"{key} is {text!r}, which names no figure", f'write {key}="{_example(suites)}"')
    for name in expression.names:
        group, _, figure = name.partition(".")
        if group == HELD_OUT and figure not in HELD_OUT_FIGURES:
            known = [f"{HELD_OUT}.{one}" for one in HELD_OUT_FIGURES]
            near = closest_name(name, known) or known[0]
            yield ConfigError(key, f"{key} names {name!r}, which is not measured", f"did you mean {near}?")
        elif group == HELD_OUT and config.data.mix and not may_hold_out(config):
            problem = f"{key} names {name}, but no rows are held out"
            yield ConfigError(key, problem, f"set data.val_fraction=0.05, or remove {name}", clash="data.val_fraction")
        elif group != HELD_OUT and group not in suites:
            near = closest_name(group, [*suites, HELD_OUT])
            hint = (
                f"did you mean {near}.{figure}?" if near else f"add trainer.eval_suites=[{','.join([*suites, group])}]"
            )
            yield ConfigError(key, f"{key} names {name!r}, but {group} is not in trainer.eval_suites", hint)


def _example(suites: Collection[str]) -> str:
    return next((f"{name}.FIGURE - heldout.loss" for name in suites), "-1*heldout.loss")


def unused_eval_suite_keys(config: Config, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key of these suites on the command line that has no effect."""
    key = "trainer.eval_suite_items"
    if key in explicit and not config.trainer.eval_suites:
        yield ConfigError(
            key, f"{key} would have no effect: no suite is asked", "add trainer.eval_suites=[NAME], or remove it"
        )
