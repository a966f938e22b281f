"""The rows of retention probes, prepared as the run's own were: its tokenizer, its template, what carries loss."""

from dataclasses import dataclass, replace
from pathlib import Path

from sft_cli.config.schema.clean import CleanConfig
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import BudgetConfig, DataConfig, Overflow, SourceConfig, StoppingStrategy, Strategy
from sft_cli.config.schema.trainer import ProbeConfig, ProbeMetric
from sft_cli.console import say
from sft_cli.data.prepared import Split
from sft_cli.errors import SftError
from sft_cli.eval.exact_match import last_span
from sft_cli.eval.select_rows import as_served
from sft_cli.prepare.prepare import prepare


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe.

    Attributes:
        name: What the config calls it.
        config: What is measured, and how much worse it may get.
        split: Its examples.
        used: How many of them are measured, the first ones; at least one.
        content: Digest of the examples.
    """

    name: str
    config: ProbeConfig
    split: Split
    used: int
    content: str


def prepare_probes(config: Config, tokenizer: Path) -> list[Probe]:
    """The probes of ``trainer.retention``, each prepared under the cache; the run's own data are not touched.

    Args:
        config: The run's config, paths absolute.
        tokenizer: Directory of the run's tokenizer with its template.

    Raises:
        SftError: A file is missing, empty, in no known format, or holds no prompt where answers are compared.
    """
    return [_probe(config, name, probe, tokenizer) for name, probe in config.trainer.retention.probes.items()]


def _probe(config: Config, name: str, probe: ProbeConfig, tokenizer: Path) -> Probe:
    """One probe, told aloud."""
    key = f"trainer.retention.probes.{name}"
    say(f"probe     {name}: {probe.path}")
    try:
        prepared = prepare(_as_run(config, name, probe, tokenizer), training=False)
    except SftError as error:
        raise _of_probe(error, name, key) from error
    split = prepared.train
    used = min(len(split), probe.max_rows)
    spans = (last_span(split.tokens(index).weights) for index in range(used))
    # Nothing predicts id 0, so an example trained whole has its span begin at id 1.
    if probe.metric is ProbeMetric.exact_match and not any(span is not None and span[0] > 1 for span in spans):
        raise SftError(
            where=f"{key}.metric",
            problem="metric is exact_match, but the rows are trained whole and hold no prompt to answer",
            fix=f"set {key}.metric=loss, or name rows with prompts and answers",
        )
    return Probe(name, probe, split, used, prepared.manifest["content"])


def _as_run(config: Config, name: str, probe: ProbeConfig, tokenizer: Path) -> Config:
    """The config that prepares a probe's file alone: nothing is held out or cleaned, long rows are left out."""
    usual = DataConfig()
    data = replace(
        config.data,
        mix={name: SourceConfig(path=probe.path)},
        strategy=Strategy.proportional,
        stopping_strategy=StoppingStrategy.first_exhausted,
        total_rows=None,
        stages=usual.stages,
        val_fraction=0.0,
        val_rows=None,
        overflow=Overflow.drop,
        budget=BudgetConfig(),
    )
    return replace(as_served(tokenizer, config), data=data, clean=CleanConfig())


def _of_probe(error: SftError, name: str, key: str) -> SftError:
    """An error of preparing, in the words of the probe's own keys."""
    source = f"data.mix.{name}"
    if error.where in (f"{source}.format", "data.mix"):
        return SftError(
            where=f"{key}.path",
            problem=error.problem,
            fix='write rows in a format of `sft formats`, such as {"prompt": …, "completion": …}',
        )
    if f"{source}." in error.fix:  # a key that sources have and probes have not
        fix = 'write rows of prompt and completion alone, in UTF-8: {"prompt": …, "completion": …}'
        return SftError(where=f"{key}.path: {error.where}", problem=error.problem, fix=fix)
    where, fix = error.where.replace(source, key), error.fix.replace(source, key)
    if where == error.where:
        where = f"{key}: {where}"
    for said in ("leave it out of the mix", "take the source out of the mix"):
        fix = fix.replace(said, "leave the probe out")
    return SftError(where=where, problem=error.problem, fix=fix)
