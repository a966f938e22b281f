"""Where recipes and group options lie: in the package, in ./recipes and ./configs, and in directories given with -d."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sft_cli.errors import SftError
from sft_cli.utils.home import expand_home

GROUPS = (
    "model",
    "data",
    "clean",
    "template",
    "adapter",
    "quant",
    "trainer",
    "eval",
    "synth",
    "distributed",
    "launcher",
)


@dataclass(frozen=True)
class SearchPath:
    """The files a command line can choose from.

    Attributes:
        recipes: Recipe files by name; several files where the name is taken twice.
        options: Option files by group and name.
        dirs: Directories with group folders, in addition to the package's own, in the order Hydra searches them.
    """

    recipes: Mapping[str, tuple[Path, ...]]
    options: Mapping[str, Mapping[str, tuple[Path, ...]]]
    dirs: tuple[Path, ...]


def package_dir(kind: str) -> Path:
    """The installed directory of ``configs`` or ``recipes``."""
    return Path(str(files(f"sft_cli.{kind}").joinpath("")))


def search_path(config_dirs: Sequence[str] = ()) -> SearchPath:
    """Everything that can be chosen from the working directory and ``config_dirs``.

    Raises:
        SftError: A directory of ``config_dirs`` does not exist.
    """
    given = [expand_home(name) for name in config_dirs]
    for folder in given:
        if not folder.is_dir():
            raise SftError(
                where=f"-d {folder}",
                problem="there is no such directory",
                fix="-d DIR with recipe files, or with folders such as data/ and trainer/; or remove -d",
            )
    dirs = [folder for folder in (Path("configs"), *given) if folder.is_dir()]
    recipe_dirs = [folder for folder in (package_dir("recipes"), Path("recipes"), *given) if folder.is_dir()]
    return SearchPath(
        recipes=_by_name(recipe_dirs),
        options={group: _by_name([folder / group for folder in (package_dir("configs"), *dirs)]) for group in GROUPS},
        dirs=tuple(dirs),
    )


def _by_name(folders: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """The YAML files of the folders by name; a file with the same content as an earlier one is the same choice."""
    found: dict[str, tuple[Path, ...]] = {}
    for folder in folders:
        for file in sorted(folder.glob("*.yaml")):
            others = found.get(file.stem, ())
            if not any(file.samefile(other) or file.read_bytes() == other.read_bytes() for other in others):
                found[file.stem] = (*others, file)
    return found


def display_name(file: Path) -> str:
    """The file as messages name it: ``recipes/quickstart.yaml`` in the package, otherwise as the user knows it."""
    for kind in ("configs", "recipes"):
        if file.is_relative_to(package_dir(kind)):
            return f"{kind}/{file.relative_to(package_dir(kind)).as_posix()}"
    if file.is_absolute() and file.is_relative_to(Path.cwd()):
        return file.relative_to(Path.cwd()).as_posix()
    return str(file)
