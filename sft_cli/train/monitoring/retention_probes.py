"""The rows of retention probes, prepared like the run's own: same tokenizer, template and loss mask."""

from dataclasses import dataclass, replace
from pathlib import Path

from sft_cli.config.schema.clean import CleanConfig
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import BudgetConfig, DataConfig, Overflow, SourceConfig, StoppingStrategy, Strategy
from sft_cli.config.schema.trainer import ProbeConfig, ProbeMetric
from sft_cli.console import say
from sft_cli.data.prepared import Split
from sft_cli.errors import SftError
from sft_cli.eval.exact_match import last_trained_span
from sft_cli.eval.select_rows import with_run_tokenizer
from sft_cli.prepare.prepare import prepare_data


@dataclass(frozen=True, slots=True)
class RetentionProbe:
    """A retention probe.

    Attributes:
        name: Its name in the config.
        config: The metric and how much worse it may get.
        split: The examples of its file.
        num_examples: Number of examples to measure, from the first; at least one.
        content: Digest of the examples.
    """

    name: str
    config: ProbeConfig
    split: Split
    num_examples: int
    content: str


def prepare_probes(config: Config, tokenizer: Path) -> list[RetentionProbe]:
    """Prepare the probes of ``trainer.retention`` in the cache; the run's own data is not changed.

    Args:
        config: The run's config, paths absolute.
        tokenizer: Directory of the run's tokenizer with its template.

    Raises:
        SftError: A file is missing, empty or in no known format, or answers are compared and it has no prompt.
    """
    return [_prepare_probe(config, name, probe, tokenizer) for name, probe in config.trainer.retention.probes.items()]


def _prepare_probe(config: Config, name: str, probe: ProbeConfig, tokenizer: Path) -> RetentionProbe:
    """Print the name of a probe and prepare it."""
    key = f"trainer.retention.probes.{name}"
    say(f"probe     {name}: {probe.path}")
    try:
        prepared = prepare_data(_probe_config(config, name, probe, tokenizer), training=False)
    except SftError as error:
        raise _reword_error(error, name, key) from error
    split = prepared.train
    num_examples = min(len(split), probe.max_rows)
    spans = (last_trained_span(split.tokens(index).weights) for index in range(num_examples))
    # The first token is never predicted, so the span of an example trained as a whole begins at position 1.
    if probe.metric is ProbeMetric.exact_match and not any(span is not None and span[0] > 1 for span in spans):
        raise SftError(
            where=f"{key}.metric",
            problem="metric is exact_match, but the rows are trained as a whole and have no prompt to answer",
            fix=f"{key}.metric=loss, or {key}.path=FILE with prompts and answers",
        )
    return RetentionProbe(name, probe, split, num_examples, prepared.manifest["content"])


def _probe_config(config: Config, name: str, probe: ProbeConfig, tokenizer: Path) -> Config:
    """Return a config with the probe's file as its only source: no held-out rows, no filters, long rows dropped."""
    defaults = DataConfig()
    data = replace(
        config.data,
        mix={name: SourceConfig(path=probe.path)},
        strategy=Strategy.proportional,
        stopping_strategy=StoppingStrategy.first_exhausted,
        total_rows=None,
        stages=defaults.stages,
        val_fraction=0.0,
        val_rows=None,
        holdout={},
        overflow=Overflow.drop,
        budget=BudgetConfig(),
    )
    return replace(with_run_tokenizer(tokenizer, config), data=data, clean=CleanConfig())


def _reword_error(error: SftError, name: str, key: str) -> SftError:
    """Return an error about a probe with the keys of the probe instead of those of a data source."""
    source = f"data.mix.{name}"
    if error.where in (f"{source}.format", "data.mix"):
        return SftError(
            where=f"{key}.path",
            problem=error.problem,
            fix='write rows in a format of `sft formats`, such as {"prompt": …, "completion": …}',
        )
    if f"{source}." in error.fix:  # the fix sets a key that probes do not have
        fix = 'write rows with only prompt and completion, in UTF-8: {"prompt": …, "completion": …}'
        return SftError(where=f"{key}.path: {error.where}", problem=error.problem, fix=fix)
    where, fix = error.where.replace(source, key), error.fix.replace(source, key)
    if where == error.where:
        where = f"{key}: {where}"
    for phrase in ("remove it from the mix", "take the source out of the mix"):
        fix = fix.replace(phrase, "remove the probe")
    return SftError(where=where, problem=error.problem, fix=fix)
