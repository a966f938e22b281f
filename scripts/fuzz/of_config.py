"""Fuzz the config composer with valid, broken and hostile command lines, recipes and option files."""

import copy
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from sft_cli.config import compose as composer
from sft_cli.config.files.search_path import GROUPS, package_dir
from sft_cli.config.keys.valid_keys import KEYS
from sft_cli.errors import SftError

_NAMES = [name.replace("<name>", "a").replace("[]", "") for name in KEYS]
_RECIPES = sorted(package_dir("recipes").glob("*.yaml"))
_TEXTS = [file.read_text(encoding="utf-8") for file in _RECIPES]
_PIECES = st.sampled_from(
    [
        *("${", "}", "${a}", "${oc.env:HOME}", "${oc.env:HF_TOKEN}", "${oc.decode:1}", "${.b}", "${trainer}", "\\${x}"),
        *("[", "]", "{", "}", "(", ")", ",", ":", "=", "'", '"', "\\", "~", "+", "++", "@", "???", "null", "true"),
        *("1e-4", "5%", "0x1f", "-1", "nan", "inf", "1" * 5000, "a" * 300, "[" * 200, "int(", "extend_list(", "glob("),
        *("../../etc/passwd", "/dev/zero", "~root", "hydra:", "_target_", "os.system", "<<", "*a", "&a", "!!python/x"),
        *("\n", "\t", " ", "\u202e", "\x1b[2J", "\x00", "\ud800", "\ue000", "é", "🙂", "-", "- ", "#", "%", "|", ">"),
    ]
)
_ANY_TEXT = st.one_of(st.text(max_size=20), st.lists(_PIECES, max_size=8).map("".join))
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), _ANY_TEXT, st.sampled_from(["???", "${trainer.seed}", ""])
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4),
    max_leaves=8,
)
_KEY = st.one_of(st.sampled_from(_NAMES), st.sampled_from([*GROUPS, "recipe", "run_name"]), _ANY_TEXT)


def _word(pair: tuple[str, Any]) -> str:
    key, value = pair
    return f"{key}={value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**9)}"


_WORDS = st.lists(st.one_of(st.tuples(_KEY, _VALUES).map(_word), _ANY_TEXT), max_size=4)


def _nested(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        at = found
        *path, last = key.split(".")
        for part in path:
            inner = at.setdefault(part, {})
            at = inner if isinstance(inner, dict) else at
        at[last] = value
    return found


def _mutated(case: tuple[str, list[tuple[int, int, str]]]) -> str:
    text, edits = case
    for at, cut, put in edits:
        at %= len(text) + 1
        text = text[:at] + put + text[at + cut :]
    return text


_EDITS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 12), _ANY_TEXT), max_size=3)
_BEGINNINGS = st.sampled_from(["", "  ", "- ", "a: ", "trainer: ", "defaults: ", "? "])
_ALIASES = ["a: &a", "[*a, *a]", "- *a", "<<: *a", "&b ", "{a: ", "}", "!!set", "? [", "- - - "]
_BROKEN = st.one_of(
    st.lists(
        st.tuples(st.sampled_from(["", "  ", "- ", "a: ", "trainer: ", "? "]), _PIECES).map("".join), min_size=3
    ).map("\n".join),
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(["a: &a", "[*a, *a]", "- *a", "<<: *a", "&b ", "{a: ", "}", "!!set", "? [", "- - - "])
    ).map("\n".join),
)
_RECIPE = st.one_of(
    st.tuples(st.sampled_from(_TEXTS), _EDITS).map(_mutated),
    st.lists(st.tuples(_KEY, _VALUES), max_size=5).map(_nested).map(lambda tree: yaml.safe_dump(tree)),
    st.lists(
        st.tuples(st.sampled_from(["", "  ", "- ", "a: ", "trainer: ", "defaults: "]), _ANY_TEXT).map("".join)
    ).map("\n".join),
    st.binary(max_size=60),
)
_KINDS = (
    *[st.tuples(_WORDS, st.none(), st.none())] * 120,
    *[st.tuples(_WORDS, _BROKEN, st.none())] * 60,
    st.tuples(_WORDS, _RECIPE, st.none()),
    st.tuples(_WORDS, st.none(), _RECIPE),
)
INPUTS = st.sampled_from(range(len(_KINDS))).flatmap(lambda kind: _KINDS[kind])
"""Strategies of inputs; most never reach Hydra, which takes 0.1 s."""


def target(case: tuple[list[str], str | bytes | None, str | bytes | None]) -> str | None:
    """Compose a command line with a recipe or an option file, and check that the config survives a round trip."""
    words, recipe, option = case
    words, folders = list(words), []
    if recipe is not None:
        _write(Path("own.yaml"), recipe)
        words.append("recipe=./own.yaml")
    if option is not None:
        Path("dirs/data").mkdir(parents=True, exist_ok=True)
        _write(Path("dirs/data/own.yaml"), option)
        words.append("data=own")
        folders = ["dirs"]
    config = composer.compose(words, folders)
    Path("config.yaml").write_text(composer.dump_config(config), encoding="utf-8", errors="surrogatepass", newline="")
    return None


def _write(file: Path, content: str | bytes) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


def remember() -> None:
    """Cache results that no input changes: the package's own files, and Hydra's merging of their options."""
    merge, lines, look = composer._compose_groups, composer.key_lines, composer.search_path
    known: dict[str, Any] = {}

    def merged(groups: Mapping[str, Any], found: Any, recipes: Mapping[str, Path], mistakes: list[SftError]) -> Any:
        if recipes or groups.get("data") == "own":
            return merge(groups, found, recipes, mistakes)
        key = repr(sorted(groups.items()))
        if key not in known:
            known[key] = merge(groups, found, recipes, mistakes)
        values, files = known[key]
        return copy.deepcopy(values), files

    def lined(file: Path) -> Iterable[tuple[str, int]]:
        return packaged_lines(file) if file.is_relative_to(package_dir("configs")) else lines(file)

    packaged_lines, nowhere = cache(lambda file: tuple(lines(file))), cache(look)
    composer._compose_groups, composer.key_lines = merged, lined
    composer.search_path = lambda folders: look(folders) if folders else nowhere()
