"""Load the chat template of a run: a file, a packaged template, or one of the tokenizer's own."""

from importlib.resources import files
from pathlib import Path

from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.template.named_templates import DEFAULT
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.config.paths import resolve
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name


class MissingTemplateError(SftError):
    """The tokenizer has no chat template, and none was chosen."""


def load_template(config: TemplateConfig, tokenizer: ChatTokenizer) -> ChatTemplate:
    """Load the template of a run: a file, a packaged template, or one of the tokenizer's own, by name.

    A packaged template begins with the tokenizer's bos token if the tokenizer adds one to plain text, because servers
    add none around a chat template.

    Raises:
        SftError: There is no such template, or it cannot be compiled.
    """
    source, name = _find_source(config, tokenizer)
    named = tokenizer.named_templates if config.path is None and config.name == "auto" else {}
    return ChatTemplate(source, tokenizer.special_tokens, name, variables=config.variables, named=named).compile()


def packaged_templates() -> list[str]:
    """Return the names of the templates in configs/template."""
    folder = files("sft_cli.configs").joinpath("template")
    return sorted(file.name.removesuffix(".jinja") for file in folder.iterdir() if file.name.endswith(".jinja"))


def _find_source(config: TemplateConfig, tokenizer: ChatTokenizer) -> tuple[str, str]:
    """Return the Jinja source of the template that a config names, and its name."""
    if config.path is not None:
        file = Path(resolve(config.path))
        if not file.is_file():
            raise SftError(
                where=f"template.path={config.path}",
                problem="no such file",
                fix="template.path=FILE.jinja, or template=auto",
            )
        try:
            return file.read_text(encoding="utf-8"), str(config.path)
        except UnicodeDecodeError as error:
            where = f"template.path={config.path}"
            raise SftError(where=where, problem="not a text file in UTF-8", fix="save it as UTF-8") from error
    if config.name == "auto":
        return _default_template(tokenizer), "the tokenizer's own template"
    known = packaged_templates()
    if config.name in known:
        source = files("sft_cli.configs").joinpath("template", f"{config.name}.jinja").read_text(encoding="utf-8")
        return ("{{ bos_token }}" + source if tokenizer.adds_bos and "bos_token" not in source else source), config.name
    own = _tokenizer_templates(tokenizer)
    if config.name in own:
        return own[config.name], f"the tokenizer's own template {config.name}"
    others = f"the tokenizer's own: {', '.join(own)}" if own else "the tokenizer has none with a name"
    near = closest_name(config.name, [*known, *own]) or "auto"
    raise SftError(
        where=f"template.name={config.name}",
        problem="no such template",
        fix=f"template.name={near}; the names: auto, {', '.join(known)}; {others}",
    )


def _default_template(tokenizer: ChatTokenizer) -> str:
    """Return the tokenizer's default template."""
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    where = f"tokenizer {tokenizer.directory}"
    if named := sorted(tokenizer.named_templates):
        raise SftError(
            where=where,
            problem=f"template=auto, but none of the tokenizer's templates is called default ({', '.join(named)})",
            fix=f"choose one of them: template.name={named[0]}",
        )
    raise MissingTemplateError(
        where=where,
        problem="template=auto, but the tokenizer has no chat template (a base model often has none)",
        fix="choose one: template=alpaca, chatml, llama2, vicuna or plain, or template.path=FILE.jinja",
    )


def _tokenizer_templates(tokenizer: ChatTokenizer) -> dict[str, str]:
    """Return the tokenizer's templates by name, if it has named ones."""
    if not tokenizer.named_templates:
        return {}
    default = {} if tokenizer.chat_template is None else {DEFAULT: tokenizer.chat_template}
    return dict(sorted({**default, **tokenizer.named_templates}.items()))
