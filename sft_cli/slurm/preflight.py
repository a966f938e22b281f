"""What a job would find wrong when it begins, found on the login node: tokenizer, template, files of rows."""

from collections.abc import Iterator

from sft_cli.config.redaction import is_address
from sft_cli.config.schema.config import Config
from sft_cli.data.sources.locate import locate_files
from sft_cli.data.sources.source_rows import is_on_hub, source_location, source_splits
from sft_cli.errors import Mistakes, SftError, raise_all
from sft_cli.prepare.model_template import check_template, load_tokenizer_and_template


def check_inputs(config: Config) -> None:
    """Refuse a tokenizer, a template or local rows that cannot be used; all mistakes at once.

    Rows of the hub or behind an address wait for the job, or for ``sft prepare`` before it. A container that sees
    directories under other names is not looked into.

    Raises:
        SftError: At least one.
    """
    if any(":" in mount for mount in config.launcher.container.mounts):
        return
    raise_all([*_template(config), *_rows(config)])


def _template(config: Config) -> Iterator[SftError]:
    """What is wrong with the tokenizer, or with what the template makes of a few conversations."""
    try:
        tokenizer, template = load_tokenizer_and_template(config)
        check_template(config, tokenizer, template)
    except SftError as error:
        yield from _flatten(error)


def _rows(config: Config) -> Iterator[SftError]:
    """Sources whose files are not there."""
    for name, source in config.data.mix.items():
        for split in source_splits(source):
            try:
                place = source_location(source, name, split)
                if not is_address(place.given) and not is_on_hub(source, place):
                    locate_files(place)
            except SftError as error:
                yield from _flatten(error)


def _flatten(error: SftError) -> Iterator[SftError]:
    """The mistakes in an error."""
    yield from error.errors if isinstance(error, Mistakes) else (error,)
