"""Whether two results are those of the same suite: the same items, asked and scored in the same manner."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sft_cli.compare.results import SuiteRecord
from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.config.validate import to_plain
from sft_cli.suites.results import answer_settings, with_defaults
from sft_cli.utils.mappings import flatten

OF_PLACES = ("path", "file", "hub", "subset", "split", "revision", "source", "licence", "items", "limit")
"""Keys of a definition that say where the items come from; their fingerprint is compared instead."""
OF_TOTALS = ("tags", "reduce")
"""Keys of a definition that change no score of an answer."""
OF_SCORING = ("scorer", "scorers", "options", "target", "cluster", "version")
"""Keys of a definition that scoring the stored answers again can make equal."""
OF_MODELS = ("dtype", "stop_ids", "template_variables", "tokenizer")
"""Settings that belong to the model, which may differ between the models that are compared."""

_ROW_DIGEST = re.compile("[0-9a-f]{12}")
"""Id of an item that has none of its own."""


def differing_keys(first: SuiteRecord, second: SuiteRecord) -> dict[str, tuple[Any, Any]]:
    """Return the two values of each key by which the results are those of different suites."""
    pairs: dict[str, tuple[Any, Any]] = {}
    # A suite with a limit of its own never uses the default one.
    limits = [(record.definition.get("definition") or {}).get("max_new_tokens") for record in (first, second)]
    unused = ("default_max_new_tokens",) if None not in limits else ()
    groups = (
        ("definition", OF_PLACES + OF_TOTALS, to_plain(SuiteConfig())),
        ("settings", OF_MODELS + unused, answer_settings(SuiteConfig())),
    )
    for group, ignored, defaults in groups:
        stored = [with_defaults(record.definition.get(group) or {}, defaults) for record in (first, second)]
        old, new = (_flat(values, ignored) for values in stored)
        for key in dict.fromkeys((*old, *new)):
            if old.get(key) != new.get(key):
                pairs.setdefault(key, (old.get(key), new.get(key)))
    prints = [record.definition.get("data", {}).get("fingerprint") for record in (first, second)]
    if prints[0] != prints[1] and not _shares_rows(first, second):
        pairs["data.fingerprint"] = (prints[0], prints[1])
    return pairs


def can_be_rescored(keys: Iterable[str]) -> bool:
    """Return whether results that differ by these keys become equal when their answers are scored again."""
    return all(key.partition(".")[0] in OF_SCORING for key in keys)


def differing_model_settings(first: SuiteRecord, second: SuiteRecord) -> list[str]:
    """Return the settings of the models that differ, which may be what is compared."""
    old, new = (record.definition.get("settings") or {} for record in (first, second))
    return [key for key in OF_MODELS if old.get(key) != new.get(key)]


def _shares_rows(first: SuiteRecord, second: SuiteRecord) -> bool:
    """Return whether the rows of one result are among those of the other: a part of the same file was evaluated.

    Only ids that are digests of rows prove that.
    """
    smaller, larger = sorted((first.scores, second.scores), key=len)
    return bool(smaller) and all(name in larger and _ROW_DIGEST.fullmatch(name) for name in smaller)


def _flat(group: Mapping[str, Any], ignored: tuple[str, ...]) -> dict[str, Any]:
    """Return the dotted keys of a group with their values, without those of ignored keys."""
    return dict(flatten({key: value for key, value in group.items() if key not in ignored}))
