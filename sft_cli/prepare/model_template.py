"""Load the tokenizer and the chat template of a config, and check that the template can be trained."""

from dataclasses import replace
from functools import partial

from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.template.loading import MissingTemplateError, load_template
from sft_cli.chat.template.template_check import TemplateCheck
from sft_cli.chat.tokens.added_tokens import add_tokens
from sft_cli.chat.tokens.content_tokens import with_content_tokens
from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.config.model_files.context_window import read_context_length
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.errors import SftError, raise_all
from sft_cli.prepare import source_preview


def load_tokenizer_and_template(config: Config) -> tuple[ChatTokenizer, ChatTemplate]:
    """Load the tokenizer and the chat template of a config.

    Raises:
        SftError: No model is given, or one of them cannot be used.
    """
    name = config.model.tokenizer or config.model.path
    if name is None:
        raise SftError(
            where="model.path",
            problem="no model is given",
            fix="type model.path=DIR_OR_HUB_ID (sft prepare needs only model.tokenizer=DIR_OR_HUB_ID)",
        )
    if config.model.tokenizer is None:
        tokenizer = load_tokenizer(name, config.model.revision, "model.path")
    else:
        tokenizer = load_tokenizer(name)
    tokenizer = add_tokens(tokenizer, config.model.add_tokens)
    try:
        template = load_template(config.template, tokenizer)
    except MissingTemplateError as error:
        plain = load_template(replace(config.template, name="plain"), tokenizer)
        fix = TemplateCheck(tokenizer, replace(plain, source=""), config.data).suggestion(
            source_preview.first_row_features(config)
        )
        raise_all([SftError(where=error.where, problem=error.problem, fix=fix), *_beyond_context(config)])
        raise
    except SftError as error:
        raise_all([error, *_beyond_context(config)])
        raise
    return with_content_tokens(tokenizer, template, config.model.add_tokens, config.data.content_tokens), template


def check_template(config: Config, tokenizer: ChatTokenizer, template: ChatTemplate) -> None:
    """Refuse a template that cannot be trained; a ``max_length`` that the model cannot take is reported with it."""
    try:
        TemplateCheck(tokenizer, template, config.data).check(partial(source_preview.first_row_features, config))
    except SftError as error:
        raise_all([error, *_beyond_context(config)])


def _beyond_context(config: Config) -> list[SftError]:
    """The error of a ``trainer.max_length`` above the model's context length; none for the default.

    Shorter rows make it harmless, so it is reported only with an error that must be fixed before rows are measured.
    """
    context, length = read_context_length(config.model.path, config.model.revision), config.trainer.max_length
    if context is None or length <= context or length == TrainerConfig.max_length:
        return []
    return [
        SftError(
            where=f"trainer.max_length={length}",
            problem=f"the model takes at most {context:,} tokens",
            fix=f"trainer.max_length={context}",
        )
    ]
