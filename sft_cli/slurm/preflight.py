"""Check a job's tokenizer, template and row files on the login node, before it waits in the queue."""

from collections.abc import Iterator

from sft_cli.config.redaction import is_address
from sft_cli.config.schema.config import Config
from sft_cli.data.sources.locate import locate_files
from sft_cli.data.sources.source_rows import is_on_hub, source_location, source_splits
from sft_cli.errors import Mistakes, SftError, raise_all
from sft_cli.prepare.model_template import check_template, load_tokenizer_and_template


def check_inputs(config: Config) -> None:
    """Refuse a tokenizer, a template or local rows that cannot be used; report all mistakes at once.

    Rows on the hub or at an address are not checked: the job, or ``sft prepare`` before it, reads them. With a
    container that mounts directories under other names, nothing is checked.

    Raises:
        SftError: At least one.
    """
    if any(":" in mount for mount in config.launcher.container.mounts):
        return
    raise_all([*_template(config), *_rows(config)])


def _template(config: Config) -> Iterator[SftError]:
    """Yield the errors of the tokenizer, and of the template on a few conversations."""
    try:
        tokenizer, template = load_tokenizer_and_template(config)
        check_template(config, tokenizer, template)
    except SftError as error:
        yield from _flatten(error)


def _rows(config: Config) -> Iterator[SftError]:
    """Yield an error for each source whose files do not exist."""
    for name, source in config.data.mix.items():
        for split in source_splits(source):
            try:
                place = source_location(source, name, split)
                if not is_address(place.given) and not is_on_hub(source, place):
                    locate_files(place)
            except SftError as error:
                yield from _flatten(error)


def _flatten(error: SftError) -> Iterator[SftError]:
    """Yield the single errors of an error."""
    yield from error.errors if isinstance(error, Mistakes) else (error,)
