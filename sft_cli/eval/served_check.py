"""What a server can answer (``eval.engine=openai``), and the name of its model. Imports no torch."""

import shlex

from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.suites import SuiteConfig, SuiteFormat, SuiteKind
from sft_cli.errors import SftError
from sft_cli.suites.chosen import evaluates_heldout
from sft_cli.utils.home import expand_home

LIKELIHOODS = (SuiteKind.choices, SuiteKind.perplexity)
"""Kinds of suites that are measured by log-likelihoods."""
LOCALLY = "or evaluate the model in this process: eval.engine=local"


def check_served(typed: str, config: EvalConfig, *, compare: bool) -> None:
    """Refuse what the API of chat completions cannot answer.

    Args:
        typed: The argument of ``sft eval``, or the model that a directory of results names.
        config: The settings of the evaluation.
        compare: Whether the base is to be evaluated as well.

    Raises:
        SftError: It was asked for, or the model is not named.
    """
    command = f"sft eval {shlex.quote(typed)} eval.engine=openai"
    left = ",".join(name for name, suite in config.suites.items() if _can_be_served(suite)) or "ifeval"
    fix = f"choose suites that are generated: {command} eval=[{left}], {LOCALLY}"
    if evaluates_heldout(config):
        raise SftError(where="eval.engine=openai", problem="a server gives no loss of held-out rows", fix=fix)
    if likelihoods := [name for name, suite in config.suites.items() if suite.kind in LIKELIHOODS]:
        problem = f"a server gives no log-likelihoods, which are measured by {', '.join(likelihoods)}"
        raise SftError(where="eval.engine=openai", problem=problem, fix=fix)
    if continued := [name for name, suite in config.suites.items() if suite.kind is SuiteKind.memorisation]:
        problem = f"a server continues no begun answers, which are asked for by {', '.join(continued)}"
        raise SftError(where="eval.engine=openai", problem=problem, fix=fix)
    if texts := [name for name, suite in config.suites.items() if suite.format is SuiteFormat.text]:
        problem = f"a server is asked by messages, but these suites are plain text (format=text): {', '.join(texts)}"
        raise SftError(where="eval.engine=openai", problem=problem, fix=fix)
    if config.lm_eval.tasks:
        problem = "tasks of lm-evaluation-harness need the model in this process"
        raise SftError(where="eval.lm_eval.tasks", problem=problem, fix=f"remove them, {LOCALLY}")
    if compare:
        problem = "the server holds one model, not its base"
        raise SftError(where="--compare base", problem=problem, fix=f"remove --compare, {LOCALLY}")
    served_name(typed, config)


def served_name(typed: str, config: EvalConfig) -> str:
    """Return the name of the model at the server: the key, or what was typed if it is no directory.

    Raises:
        SftError: There is none.
    """
    if config.endpoint.model is not None:
        return config.endpoint.model
    if typed and not expand_home(typed).exists():
        return typed
    problem = "the model at the server is not named"
    raise SftError(where="eval.endpoint.model", problem=problem, fix="set eval.endpoint.model=NAME")


def _can_be_served(suite: SuiteConfig) -> bool:
    """Return whether a suite can be answered by chat completions."""
    return suite.kind is SuiteKind.generate and suite.format is SuiteFormat.chat
