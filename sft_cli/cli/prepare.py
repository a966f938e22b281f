"""``sft prepare``: convert rows to tokens, without training."""

from typing import Annotated

import typer

from sft_cli.cli.options import ConfigDirs, Overrides
from sft_cli.console import say


def prepare(
    overrides: Overrides = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Only print which stages would run again, and what changed.")
    ] = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Tokenize the data and verify the loss mask, without training.

    Example: sft prepare data=rows.jsonl model.tokenizer=Qwen/Qwen2.5-0.5B
    """
    from sft_cli.config.compose import compose
    from sft_cli.prepare import prepare as preparing

    config = compose(overrides or [], config_dir or [])
    if explain:
        for line in preparing.explain_stages(config):
            say(line)
    else:
        preparing.prepare_data(config)
