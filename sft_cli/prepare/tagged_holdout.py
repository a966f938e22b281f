"""Hold out whole groups of rows by a tag: ``data.holdout``."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.overrides.quoting import format_override
from sft_cli.errors import SftError
from sft_cli.prepare.source_split import SourceSplit
from sft_cli.utils.similar import closest_name


def tagged_rows(
    splits: Sequence[SourceSplit], candidates: Sequence[NDArray[np.bool_]], groups: Mapping[str, Sequence[str]]
) -> NDArray[np.bool_]:
    """Return ``(candidates,)`` whether a row is in one of the groups, over all splits in order.

    Args:
        splits: The splits of all sources.
        candidates: For each split, ``(rows,)`` whether a row may be held out.
        groups: ``data.holdout``: the values to hold out by tag.

    Raises:
        SftError: A value occurs in no row, or nothing else is left to train on.
    """
    if not groups:
        return np.zeros(sum(int(mask.sum()) for mask in candidates), np.bool_)
    found: dict[str, Counter[str]] = {tag: Counter() for tag in groups}
    held_out = list[bool]()
    for split, mask in zip(splits, candidates, strict=True):
        for row in split.store.read(np.flatnonzero(mask)):
            tags = {} if row.conversation is None else row.conversation.tags
            for tag, counts in found.items():
                counts.update([tags[tag]] if tag in tags else [])
            held_out.append(any(tags.get(tag) in names for tag, names in groups.items()))
    for tag, names in groups.items():
        for name in names:
            if not found[tag][name]:
                raise _unknown_value(tag, name, names, found[tag])
    if held_out and all(held_out):
        raise SftError(
            where="data.holdout",
            problem=f"all {len(held_out):,} rows are held out, so that none is left to train on",
            fix="hold out fewer groups",
        )
    return np.array(held_out, np.bool_)


def _unknown_value(tag: str, name: str, names: Sequence[str], found: Mapping[str, int]) -> SftError:
    """Return the error for a value that no row has."""
    near = closest_name(name, found)
    known = ", ".join(sorted(found)[:10]) + (" …" if len(found) > 10 else "")
    meant = format_override(f"data.holdout.{tag}", [near if one == name else one for one in names]) if near else ""
    fix = f"did you mean {meant}?" if meant else f"choose from the values of this tag: {known}"
    if not found:
        fix = f"name the column that holds the tag: data.mix.NAME.tags.{tag}=COLUMN"
    problem = f"no row has the {tag} {name!r}" if found else f"no row has the tag {tag}"
    return SftError(where=f"data.holdout.{tag}", problem=problem, fix=fix)


def count_groups(splits: Sequence[SourceSplit], groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Return the number of examples that are held out of each group, by tag and value."""
    counts: dict[str, dict[str, int]] = {tag: dict.fromkeys(names, 0) for tag, names in groups.items()}
    for split in splits if groups else ():
        rows, examples, tags = split.encoded.column("row"), split.encoded.column("examples"), split.encoded.tags()
        for tag, names in groups.items():
            values, codes = tags.get(tag, ((), np.zeros(0, np.int64)))
            for code, value in enumerate(values):
                if value in names:
                    counts[tag][value] += int(examples[(codes == code) & split.held_out[rows]].sum())
    return counts
