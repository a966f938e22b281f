"""Run suites on a model that a server holds (``eval.engine=openai``), and print the tables."""

from collections.abc import Sequence
from pathlib import Path

from sft_cli.config.redaction import redact_secrets
from sft_cli.config.schema.config import Config
from sft_cli.console import counted, say
from sft_cli.endpoint.client import EndpointClient
from sft_cli.endpoint.settings import SettingNames
from sft_cli.eval.drift import print_drift
from sft_cli.eval.engine.served import EndpointModel, endpoint_settings, served_answers
from sft_cli.eval.evaluated import ModelLabel
from sft_cli.eval.served_check import served_name
from sft_cli.eval.suite_session import SuiteEngine, print_outcomes, run_suites, suite_answers
from sft_cli.suites.items import LoadedSuite
from sft_cli.suites.limits import EvalLimits

NAMES = SettingNames(
    owner="model",
    missing="eval.engine=openai",
    url="eval.endpoint.url",
    model="eval.endpoint.model",
    timeout="eval.endpoint.timeout",
    concurrency="eval.endpoint.concurrency",
    requests_per_minute="eval.endpoint.requests_per_minute",
    rejected="change the settings of the suite that it does not take",
)


def evaluate_served(
    typed: str, label: ModelLabel, config: Config, suites: Sequence[LoadedSuite], results: Path
) -> list[str]:
    """Answer and score suites by a server, and print tables.

    Args:
        typed: The argument of ``sft eval``, or the model that a directory of results names.
        label: The label of the model.
        config: The config of the evaluation.
        suites: The suites with their items.
        results: Directory of the results.

    Returns:
        The values of the drift card that are beyond ``eval.limits``, as text.
    """
    endpoint = config.eval.endpoint
    settings = endpoint_settings(endpoint, served_name(typed, config.eval))
    variables, longest = dict(config.template.variables), config.eval.max_new_tokens
    model = EndpointModel(EndpointClient(settings, NAMES), longest, endpoint.concurrency, variables)
    identity = {"label": label, "engine": "openai", "url": redact_secrets(endpoint.url or ""), "served": settings.model}
    generation = {"default_max_new_tokens": longest, "template_variables": variables}
    limits = EvalLimits.from_config(config.eval)
    engine = SuiteEngine(label, served_answers(model), identity, generation, results)
    outcomes = tuple(run_suites(engine, suites, limits))
    print_outcomes(outcomes)
    cost = f", cost {limits.cost:.4g}" if limits.cost else ""
    say(f"endpoint  {counted(limits.tokens, 'token')} of answers by {settings.model}{cost}")
    return print_drift(suite_answers(outcomes), (), config.eval.limits)
