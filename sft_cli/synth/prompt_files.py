"""The prompts of generators: Jinja files of configs/synth/prompts, each replaceable by a file of the user."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError

from sft_cli.config.files.search_path import package_dir
from sft_cli.errors import SftError
from sft_cli.sandbox.environment import LimitedEnvironment
from sft_cli.utils.hashing import blake2b_of_text

DIGEST = 12
"""Digits of the digest that is the version of a prompt."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A prompt.

    Attributes:
        name: Its name.
        file: Its file.
        text: The Jinja text.
    """

    name: str
    file: Path
    text: str

    @property
    def digest(self) -> str:
        """The version of the prompt: a digest of its text."""
        return blake2b_of_text(self.text)[:DIGEST]

    def render(self, **values: Any) -> str:
        """Return the text for some values.

        Raises:
            SftError: The text is not valid Jinja, or reads a value that does not exist.
        """
        environment = LimitedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.begin_render()
        try:
            return environment.from_string(self.text).render(**values).strip()
        except TemplateError as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            known = f"it may read {', '.join(values)}" if values else "it has no values to read"
            raise SftError(
                where=str(self.file), problem=f"the prompt fails: {reason}", fix=f"correct it: {known}"
            ) from (error)


def load_prompt(name: str, own: Mapping[str, str]) -> PromptFile:
    """Return a prompt; ``config.rules.synth`` has checked its name.

    Args:
        name: Its name.
        own: ``synth.templates``.

    Raises:
        SftError: Its file does not exist.
    """
    file = Path(own[name]) if name in own else package_dir("configs") / "synth/prompts" / f"{name}.jinja"
    if not file.is_file():
        fix = f"synth.templates.{name}=FILE, or remove it"
        raise SftError(where=f"synth.templates.{name}", problem=f"there is no file {file}", fix=fix)
    return PromptFile(name, file, file.read_text(encoding="utf-8"))
