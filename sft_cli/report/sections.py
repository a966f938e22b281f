"""Sections of the page from a manifest: counts with shares; long lists are cut, and absent parts left out."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sft_cli.config.automatic import FEWEST_HELD_OUT, MOST_HELD_OUT, SHARE
from sft_cli.config.schema.fields import Auto
from sft_cli.console import counted
from sft_cli.data.ledger import COUNTED_COLUMNS
from sft_cli.data.remarks import remark_sentences
from sft_cli.escape import truncate_middle
from sft_cli.report.ledger_view import LedgerSample

Json = Mapping[str, Any]
MOST_FILES = 4
"""The most files that are named of a source."""
MOST = 60
"""The most entries of a list."""
MOST_TEXT = 700
"""The most characters of a text."""
UNITS = {"rows": "share_rows", "tokens": "share_tokens", "trained_tokens": "share_trained"}
"""The counts of a mix, and the keys of their shares."""


def ratio(part: float, whole: float) -> float:
    """Return ``part / whole``; 0 if the whole is 0."""
    return part / whole if whole else 0.0


def totals(manifest: Json) -> list[tuple[str, str, str]]:
    """Return name, value and remark of the numbers at the top."""
    sources = manifest["sources"].values()
    count = {
        key: sum(source.get(key, 0) for source in sources)
        for key in ("rows", "used", "dropped", "not_sampled", "truncated", "truncated_tokens")
    }
    train, validation = manifest["splits"]["train"], manifest["splits"]["validation"]
    trained = ratio(train["trained_tokens"], train["tokens"])
    rare = {
        "not sampled": (count["not_sampled"], "usable rows that the mix does not draw"),
        "truncated": (count["truncated"], _lost(count["truncated_tokens"])),
    }
    return [
        ("rows read", f"{count['rows']:,}", f"from {counted(len(sources), 'source')}"),
        ("used", f"{count['used']:,}", f"{ratio(count['used'], count['rows']):.1%} of the rows"),
        ("dropped", f"{count['dropped']:,}", f"{ratio(count['dropped'], count['rows']):.1%} of the rows"),
        *((name, f"{number:,}", remark) for name, (number, remark) in rare.items() if number),
        ("training examples", f"{train['examples']:,}", f"in an epoch, from {counted(train['rows'], 'row')}"),
        ("training tokens", f"{train['tokens']:,}", f"{ratio(train['tokens'], train['examples']):,.0f} per example"),
        ("trained tokens", f"{train['trained_tokens']:,}", f"{trained:.1%} of the training tokens"),
        ("held out", counted(validation["examples"], "example"), _held_out_remark(manifest)),
    ]


def _lost(tokens: int) -> str:
    """The remark about truncated rows."""
    return f"rows that lost their last {counted(tokens, 'token')}" if tokens else "rows that lost their oldest turns"


def _held_out_remark(manifest: Json) -> str:
    """The purpose of the held-out examples, and the setting that decides their number."""
    rules = manifest.get("inputs", {}).get("mix", {}).get("rules", {})
    fraction, rows = rules.get("val_fraction"), rules.get("val_rows")
    if not manifest["splits"]["validation"]["examples"]:
        return "every row is trained on"
    if rows is not None:
        chosen = f"data.val_rows={rows}"
    elif fraction == Auto.auto.value:
        chosen = f"{SHARE:.0%} of the rows, {FEWEST_HELD_OUT} to {MOST_HELD_OUT}; data.val_fraction=0 trains on all"
    else:
        chosen = f"data.val_fraction={fraction:g}" if fraction else "the sources' own held-out rows"
    return f"not trained on: they measure the loss on new rows ({chosen})"


def facts(manifest: Json) -> list[tuple[str, str]]:
    """Return name and value of the settings that the data were prepared with."""
    longest = max_length(manifest)
    found = [
        ("fingerprint", manifest["fingerprint"]),
        ("model", manifest.get("model") or "none: only a tokenizer was named"),
        ("tokenizer", manifest.get("tokenizer") or "unknown"),
        ("chat template", _template(manifest)),
        ("stop tokens", "  ".join(manifest["stop_tokens"]) or "none"),
        ("longest example allowed", f"{longest:,} tokens" if longest else "no limit"),
        ("written by", f"sft_cli {manifest['sft_cli']}"),
    ]
    if rows := manifest.get("unrolled_rows"):
        number = counted(rows, "row")
        found.append(("unrolled", f"{number} became one example per trained turn, because the history changes"))
    if documents := manifest.get("cut_documents"):
        found.append(("cut", f"{counted(documents, 'document')} longer than an example became several"))
    remarks = remark_sentences(manifest)
    return found + [(label, f"{counted(rows, 'row')}: {sentence}") for label, rows, sentence in remarks]


def _template(manifest: Json) -> str:
    """The name of the template with the beginning of its SHA-256, since two templates can have one name."""
    source = manifest.get("inputs", {}).get("encode", {}).get("template")
    digest = f"  sha256 {sha256(source.encode()).hexdigest()[:16]}" if source else ""
    return f"{manifest['template']}{digest}"


def sources(manifest: Json) -> list[dict[str, Any]]:
    """Return for each source its files, its unread columns and its counts."""
    return [
        {
            "name": name,
            "files": _files(manifest.get("inputs", {}).get("rows", {}).get(name, {}).get("content", {})),
            "not_read": list(source.get("not_read", ())),
            "ignored": list(source.get("ignored", ())),
            **{key: source.get(key) for key in ("format", "licence", "role")},
            "counts": [source.get(count, 0) for count in COUNTED_COLUMNS],
        }
        for name, source in manifest["sources"].items()
    ]


def _files(content: Json) -> str:
    """The files of a source, or its dataset on the hub."""
    named = list[str]()
    for side, found in content.items():
        if "hub" in found:
            parts = [found["hub"], found.get("name"), found["split"], str(found["revision"])[:12]]
            named.append(" ".join(part for part in parts if part))
        else:
            files = [str(entry[0]) for entry in found.get("files", ())]
            more = f" and {len(files) - MOST_FILES:,} more" if len(files) > MOST_FILES else ""
            named.append(", ".join(files[:MOST_FILES]) + more + (" (held out)" if side == "validation" else ""))
    return "; ".join(named)


def max_length(manifest: Json) -> int | None:
    """Return the most tokens of an example; None without a limit."""
    return manifest.get("max_length", manifest.get("inputs", {}).get("max_length"))


def mix(manifest: Json) -> list[dict[str, Any]]:
    """Return for each source its intended and its realised part of an epoch; empty without a mix."""
    found = manifest.get("mix", {})
    return [_realised_share(name, entry, found["of"]) for name, entry in found.get("sources", {}).items()]


def _realised_share(name: str, entry: Json, of: str) -> dict[str, Any]:
    """The intended and the realised share of a source, in the same unit."""
    unit, passes = "trained_tokens" if of == "trained tokens" else "rows", entry.get("intended_passes")
    words = f"{entry['intended']:.1%} of {'trained tokens' if unit == 'trained_tokens' else unit}"
    if passes is not None:
        words = f"{passes:g} pass{'es' * (passes != 1)}"
    cells = [
        {"count": entry[one], "share": entry[key], "intended": entry["intended"] if one == unit else None}
        for one, key in UNITS.items()
    ]
    return {"name": name, "intended": words, "cells": cells, "passes": entry.get("passes")}


def stages(manifest: Json) -> list[dict[str, Any]]:
    """Return the stages of an epoch with the shares of their sources; empty if there is only one stage."""
    found = manifest.get("mix", {})
    return [
        {
            **stage,
            "sources": [
                _realised_share(name, entry, found["of"])
                for name, entry in stage["sources"].items()
                if entry["rows"] or entry["intended"]
            ],
        }
        for stage in found.get("stages", [])
        if len(found["stages"]) > 1
    ]


def tags(manifest: Json) -> list[dict[str, Any]]:
    """Return for each tag its values with counts and shares, in the order of the manifest."""
    found = []
    for tag, entries in manifest.get("mix", {}).get("tags", {}).items():
        whole = {unit: sum(entry[unit] for entry in entries.values()) for unit in UNITS}
        rows = [
            {
                "name": value,
                "cells": [{"count": entry[unit], "share": ratio(entry[unit], whole[unit])} for unit in UNITS],
            }
            for value, entry in list(entries.items())[:MOST]
        ]
        found.append({"tag": tag, "rows": rows, "more": len(entries) - len(rows)})
    return found


def drops(manifest: Json, account: LedgerSample) -> dict[str, Any]:
    """Return each reason with its count, its filter and some rows, and the rows whose text is shown.

    An example has ``where``, ``source``, ``reason``, ``detail``, ``text`` (empty if it is not stored), ``id``, and
    ``back``, the id of the link that leads back.
    """
    whole = sum(manifest["dropped"].values())
    rows = [
        {
            "reason": reason,
            "count": count,
            "share": ratio(count, whole),
            "filter": account.filters.get(reason),
            "examples": [
                {
                    "where": line["where"],
                    "source": line["source"],
                    "reason": reason,
                    "detail": truncate_middle(line["detail"] or "", MOST_TEXT),
                    "text": truncate_middle(account.texts.get((line["source"], line["where"]), ""), MOST_TEXT),
                    "id": f"dropped-{place}-{number}",
                    "back": f"drop-{place}-{number}",
                }
                for number, line in enumerate(account.dropped.get(reason, ()), 1)
            ],
        }
        for place, (reason, count) in enumerate(list(manifest["dropped"].items())[:MOST], 1)
    ]
    shown = [example for row in rows for example in row["examples"] if example["text"]]
    return {"rows": rows, "shown": shown, "total": whole, "more": len(manifest["dropped"]) - len(rows)}
