"""Where in which file, or on the command line, a key got its value."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sft_cli.config.validate import ConfigError
from sft_cli.errors import SftError

COMMAND_LINE = "command line"
DEFAULT = "default"


@dataclass(frozen=True)
class Provenance:
    """Where every value of a composed config came from.

    Attributes:
        files: ``file:line`` by dotted key; later files have replaced earlier ones.
        typed: The dotted keys set on the command line, those inside a ``{mapping}`` one by one.
        chosen: The groups whose option the command line chose.
    """

    files: Mapping[str, str]
    typed: Collection[str] = ()
    chosen: Collection[str] = ()

    def of(self, key: str) -> str:
        """``command line``, ``recipes/quickstart.yaml:14`` or ``default``."""
        parts = key.split(".")
        for place, part in enumerate(parts):
            if part.isdigit() and parts[:place] not in ([], ["data", "mix"]):
                return self.of(".".join(parts[:place]))  # an item of a list has no line of its own
        if key in self.typed or any(name.startswith(f"{key}.") for name in self.typed):
            return COMMAND_LINE
        return self.files.get(key, DEFAULT)

    def locate(self, mistake: ConfigError) -> SftError:
        """The mistake with its place: of its key or, where that has its default, of the key it clashes with."""
        for key in (mistake.key, mistake.clash):
            place, group = self.of(key), key.partition(".")[0]
            if group in self.chosen and Path(place).parent.name == group:
                place = COMMAND_LINE  # the file is only what was chosen there
            if place != DEFAULT:
                return SftError(where=place, problem=mistake.problem, fix=mistake.fix)
        return SftError(where=mistake.key, problem=mistake.problem, fix=mistake.fix)
