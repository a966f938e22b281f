"""The data of a run for its model card, from the manifest of its prepared rows."""

from collections.abc import Iterator, Mapping
from typing import Any

from sft_cli.config.schema.config import Config
from sft_cli.merge.card_settings import public_name


def data_sources(manifest: Mapping[str, Any], config: Config) -> Iterator[dict[str, Any]]:
    """Yield name, path, format, number of rows used and licence of each source."""
    for name, result in manifest["sources"].items():
        path = config.data.mix[name].path
        assert path is not None, "it has been read"
        yield {
            "name": name,
            "path": public_name(path),
            "format": result["format"],
            "used": result["used"],
            "licence": result["licence"],
        }


def realised_mix(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows, tokens and trained tokens of each source in the training rows, and its share of trained tokens."""
    sources = manifest.get("mix", {}).get("sources", {})
    names = ("rows", "tokens", "trained_tokens", "share_trained")
    return [{"name": name, **{key: source.get(key) for key in names}} for name, source in sources.items()]


def dropped_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return where rows were dropped, why, and how many: by filters, then all reasons of reading and encoding."""
    found = [
        (entry["filter"], reason, number)
        for entry in manifest.get("clean", ())
        for reason, number in entry["dropped"].items()
    ]
    seen = {reason for _, reason, _ in found}
    others = manifest.get("dropped", {}).items()
    return [*found, *(("reading", reason, number) for reason, number in others if reason not in seen)]


def tag_counts(manifest: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return name, value and counts of each tag of the training rows, such as ``origin`` or ``language``."""
    tags = manifest.get("mix", {}).get("tags", {})
    return [(tag, value, counts) for tag, values in tags.items() for value, counts in values.items()]
