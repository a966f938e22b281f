"""Write `report.html`: one page about a prepared directory that needs no network."""

from pathlib import Path
from typing import Any

import numpy as np

from sft_cli.data.ledger import COUNTED_COLUMNS
from sft_cli.data.prepared import open_prepared
from sft_cli.report import cleaning, gallery, ledger_view, sections, svg
from sft_cli.report.gallery import GalleryExample
from sft_cli.report.html import csp_hash, package_text, template_environment
from sft_cli.report.split_stats import SplitStats
from sft_cli.report.token_pieces import PreparedTokenReader

NAME = "report.html"
PACKAGE = "sft_cli.report"
LIMITS = (1200, 600, 300, 150, 60, 20)
"""Numbers of tokens shown of a row: the first one that keeps the page below MAX_BYTES is used."""
MAX_BYTES = 5_000_000
MAX_PLOTS = 60
"""Sources with their own histograms, the largest first."""


def write_report(prepared_directory: Path) -> Path:
    """Write report.html into a prepared directory (with its tokenizer), and return its path.

    The same directory gives the same bytes. Memory does not grow with the texts, only by a few bytes per row.
    """
    prepared = open_prepared(prepared_directory)
    manifest, ledger = prepared.manifest, prepared_directory / "ledger.jsonl"
    seed = manifest["fingerprint"]
    train, validation = SplitStats(prepared_directory, "train"), SplitStats(prepared_directory, "validation")
    sample = ledger_view.sample_ledger(ledger, seed)
    sample.texts = ledger_view.dropped_texts(prepared_directory / "dropped.jsonl")
    selection = gallery.select_examples(train, validation, sample, seed)
    reader = PreparedTokenReader.from_directory(prepared_directory, manifest)
    values = _values(manifest, train, sample)
    page = b""
    for limit in LIMITS:
        cards = gallery.read_examples(selection, (train, validation), reader, ledger, limit)
        gallery_values = _gallery_values(cards, selection)
        gallery_values["links"] = _links(cards, values["drops"])
        page = _render(values | gallery_values).encode("utf-8")
        if len(page) <= MAX_BYTES:
            break
    file = prepared_directory / NAME
    file.write_bytes(page)
    return file


def _values(manifest: dict[str, Any], train: SplitStats, sample: ledger_view.LedgerSample) -> dict[str, Any]:
    """Return the values of the page's sections above the gallery."""
    return {
        "manifest": manifest,
        "counts": COUNTED_COLUMNS,
        "totals": sections.totals(manifest),
        "facts": sections.facts(manifest),
        "sources": sections.sources(manifest),
        "mix": sections.mix(manifest),
        "tags": sections.tags(manifest),
        "drops": sections.drops(manifest, sample),
        "cleaning": cleaning.filter_steps(manifest),
        "stages": sections.stages(manifest),
        "max_length": sections.max_length(manifest),
        "histograms": _histograms(train, sections.max_length(manifest)),
        "plots_left_out": max(0, len(train.sources) - MAX_PLOTS),
        "plot_size": (svg.WIDTH, svg.HEIGHT),
    }


def _histograms(train: SplitStats, max_length: int | None) -> list[dict[str, Any]]:
    """Return for each source its two histograms, on one common scale of lengths, and the numbers shown with them."""
    low, high = int(train.lengths.min(initial=1 << 30)), int(train.lengths.max(initial=1))
    selected = sorted(train.sources, key=lambda source: -len(train.rows_of_source(source)))[:MAX_PLOTS]
    histograms = []
    for source in [source for source in train.sources if source in selected]:
        indices = train.rows_of_source(source)
        lengths, shares = train.lengths[indices], train.shares[indices]
        histograms.append(
            {
                "source": source,
                "examples": len(indices),
                "lengths": svg.length_histogram(lengths, low, high, max_length),
                "shares": svg.share_histogram(shares),
                "median": int(np.median(lengths)),
                "p90": int(np.quantile(lengths, 0.9)),
                "max": int(lengths.max()),
                "median_share": float(np.median(shares)),
                "untrained": int((train.trained[indices] == 0).sum()),
            }
        )
    return histograms


def _gallery_values(cards: list[GalleryExample], selection: gallery.GallerySelection) -> dict[str, Any]:
    """Return the values of the gallery."""
    kinds = [kind for kind in (*gallery.KINDS, gallery.HELD_OUT) if any(kind in card.kinds for card in cards)]
    return {
        "cards": cards,
        "kinds": kinds,
        "card_sources": list(dict.fromkeys(card.row.source for card in cards)),
        "sources_left_out": selection.sources_left_out,
    }


def _links(cards: list[GalleryExample], drops: dict[str, Any]) -> dict[str, str]:
    """Return the location of a row -> its id on the page, among the examples or the dropped rows."""
    links = {card.row.where: f"row-{number}" for number, card in enumerate(cards, 1)}
    return {example["where"]: example["id"] for example in drops["shown"]} | links


def _render(values: dict[str, Any]) -> str:
    """Return the page. Jinja escapes every text except the package's own style and script."""
    from markupsafe import Markup

    templates = template_environment(PACKAGE)
    style, script = package_text(PACKAGE, "page.css"), package_text(PACKAGE, "page.js")
    return templates.get_template("page.html.jinja").render(
        values
        | {
            "style": Markup(style),
            "script": Markup(script),
            "style_hash": csp_hash(style),
            "script_hash": csp_hash(script),
        }
    )
