"""Score stored answers again, without the model."""

from collections.abc import Iterator
from typing import Any

from sft_cli.config.schema.config import Config, EvalConfig
from sft_cli.config.schema.suites import SuiteConfig, SuiteKind
from sft_cli.config.validate import from_plain
from sft_cli.console import say, table
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.suites.items import LoadedSuite
from sft_cli.suites.memorisation import answered_suite
from sft_cli.suites.results import SuiteResults
from sft_cli.suites.score_table import metric_table
from sft_cli.suites.scores import score_suite
from sft_cli.suites.texts import load_any_suite
from sft_cli.suites.variant_scores import VARIANT_COLUMNS, variant_rows
from sft_cli.utils.hashing import json_digest


def rescore_run(run: RunDir, config: Config) -> list[str]:
    """Score the stored answers of a run again, write verdicts and scores, and print the table.

    Args:
        run: The run.
        config: Its config with the overrides of the command line. The suites that it chooses are scored by its
            definitions; without any, all suites are scored by their stored definitions.

    Returns:
        The names of the suites.

    Raises:
        SftError: There are no answers, or their items cannot be found.
    """
    scores: dict[str, dict[str, dict[str, object]]] = {"own": {}, "base": {}}
    written, names = [], dict[str, None]()
    for results, name, label, suite in _stored(run, config):
        scored = score_suite(suite, results.read_answers())
        results.write_scores(scored.verdicts, scored.scores)
        group = scores["base" if label == "base" else "own"]
        group[name if name not in group else results.path.name] = scored.scores
        written.append(results.path)
        names[name] = None
    if not written:
        raise SftError(
            where=str(run.eval),
            problem="there are no answers of the suites to score",
            fix=f"evaluate first: sft eval {run.path} eval=SUITE",
        )
    table(*metric_table(scores["own"] or scores["base"], scores["base"] if scores["own"] else {}))
    if rows := variant_rows(scores["own"] or scores["base"]):
        table(VARIANT_COLUMNS, rows)
    for path in written:
        say(f"results   {path}")
    return list(names)


def _stored(run: RunDir, config: Config) -> Iterator[tuple[SuiteResults, str, str, LoadedSuite]]:
    """Yield the results on disk with the name of the suite, the label of the model, and the suite."""
    chosen = {name: suite for name, suite in config.eval.suites.items() if suite.kind is not SuiteKind.heldout}
    for file in sorted(run.eval.glob("*/suite.json")):
        results = SuiteResults(file.parent)
        record = results.read_definition()
        name = record["suite"]
        definition = chosen.get(name) if chosen else stored_definition(record, results)
        if definition is None:
            continue
        suite = load_answered(results, record, definition, config.eval.data_dir)
        yield results, name, record["model"]["label"], suite


def load_answered(
    results: SuiteResults, record: dict[str, Any], definition: SuiteConfig, data_dir: str | None = None
) -> LoadedSuite:
    """Return a suite with the items that were answered.

    Args:
        results: The results.
        record: Content of their suite.json.
        definition: The definition of the suite.
        data_dir: ``eval.data_dir``.

    Raises:
        SftError: The items are not found, or they are other ones.
    """
    name = str(record["suite"])
    if definition.kind is SuiteKind.memorisation:
        return answered_suite(name, definition, results.read_answers(), record["data"]["fingerprint"])
    suite = load_any_suite(name, definition, data_dir, record["data"]["rows"])
    ids = json_digest([entry.item.id for entry in suite.items])
    if (suite.fingerprint, ids) != (record["data"]["fingerprint"], record["data"]["ids"]):
        raise SftError(
            where=str(results.definition),
            problem=f"the items of {suite.origin} are not those that were answered",
            fix=f"name the file of the answered items: eval.suites.{name}.path=FILE",
        )
    return suite


def stored_definition(record: dict[str, Any], results: SuiteResults) -> SuiteConfig:
    """Return the definition in suite.json."""
    config, mistakes = from_plain({"eval": {"suites": {str(record["suite"]): record["definition"]}}})
    if config is None:
        fix = f"name the suite: eval={record['suite']}"
        raise SftError(where=str(results.definition), problem=mistakes[0].problem, fix=fix)
    assert isinstance(config.eval, EvalConfig)
    return config.eval.suites[str(record["suite"])]
