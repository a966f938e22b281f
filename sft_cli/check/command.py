"""`sft check`: everything about a run that can be found wrong without its weights and without a GPU."""

import time
from collections.abc import Sequence

from sft_cli.check.asked import Asked
from sft_cli.check.asked import asked as own_words
from sft_cli.check.data_check import Sample, sample, told
from sft_cli.check.paths_and_ports import cache_for, place_lines
from sft_cli.check.results import Report, ok, warn
from sft_cli.config.automatic import settled
from sft_cli.config.compose import compose
from sft_cli.config.paths import absolute
from sft_cli.config.rules.check import required
from sft_cli.config.schema.config import Config
from sft_cli.console import status
from sft_cli.train.setup.run_warnings import concerns, plan_line


def check_command(words: Sequence[str], config_dirs: Sequence[str]) -> int:
    """Body of ``sft check``: prints a line for each thing looked at; exit code 0, or 1 when anything failed.

    Raises:
        SftError: The command line or the config cannot be understood.
    """
    started = time.perf_counter()
    own, rest = own_words(words)
    config = compose(rest, config_dirs)
    required(config)
    config = absolute(config)
    report = Report()
    report.tell(ok("config", f"{config.run_name}: composed, every key is known, nothing contradicts"))
    places = list(place_lines(config))
    report.tell(*places)
    status("check: reading rows")
    with cache_for(places), report.part("data"), sample(config, own.rows) as found:
        report.tell(told(found))
        examples, asked = found.examples, config
        config = settled(config, examples)
        report.tell(ok("plan", f"{'' if found.whole else 'about '}{plan_line(asked, config, examples)}"))
        for one in concerns(config, found.prepared, examples=examples, held_out=found.held_out(config)):
            report.tell(warn(one.name, one.text, one.fix))
        _with_model(report, config, found, own)
    shown = " ".join(rest)
    return report.finish(f"checked in {time.perf_counter() - started:.0f} s", f"sft train {shown}")


def _with_model(report: Report, config: Config, found: Sample, own: Asked) -> None:
    """What needs the model's configuration, and torch."""
    from sft_cli.train.run import uncollected

    status("check: loading torch")
    with uncollected():  # torch begins here
        from sft_cli.check.torch_checks.run import model_lines
    model_lines(report, config, found, own)
