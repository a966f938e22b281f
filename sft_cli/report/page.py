"""`report.html`: one page about a prepared directory; it opens anywhere, without a network."""

from pathlib import Path
from typing import Any

import numpy as np

from sft_cli.console import counted
from sft_cli.data.ledger import COUNTED_COLUMNS
from sft_cli.data.prepared import open_prepared
from sft_cli.escape import escape_control
from sft_cli.report import cleaning, gallery, ledger_view, sections, svg
from sft_cli.report.gallery import GalleryExample
from sft_cli.report.html import csp_hash, package_text, template_environment
from sft_cli.report.split_stats import SplitStats
from sft_cli.report.token_pieces import PreparedTokenReader
from sft_cli.report.token_runs import loss_runs
from sft_cli.utils.text import percent

NAME = "report.html"
PACKAGE = "sft_cli.report"
LIMITS = (1200, 600, 300, 150, 60, 20)
"""Tokens shown of a row: the first that keeps the page below MOST_BYTES."""
MOST_BYTES = 5_000_000
MOST_PLOTS = 60
"""Sources with histograms of their own, the largest first."""


def write_report(prepared_directory: Path) -> Path:
    """Write report.html into a prepared directory (with its tokenizer); its path.

    The same directory gives the same bytes. Memory does not grow with the texts, only by a few bytes a row.
    """
    prepared = open_prepared(prepared_directory)
    manifest, ledger = prepared.manifest, prepared_directory / "ledger.jsonl"
    seed = manifest["fingerprint"]
    train, validation = SplitStats(prepared_directory, "train"), SplitStats(prepared_directory, "validation")
    account = ledger_view.sample_ledger(ledger, seed)
    account.texts = ledger_view.dropped_texts(prepared_directory / "dropped.jsonl")
    choice = gallery.select_examples(train, validation, account, seed)
    reader = PreparedTokenReader.from_directory(prepared_directory, manifest)
    values = _values(manifest, train, account)
    page = b""
    for limit in LIMITS:
        shown = gallery.read_examples(choice, (train, validation), reader, ledger, limit)
        more = _gallery_values(shown, choice)
        more["links"] = _links(shown, values["drops"])
        page = _render(values | more).encode("utf-8")
        if len(page) <= MOST_BYTES:
            break
    file = prepared_directory / NAME
    file.write_bytes(page)
    return file


def _values(manifest: dict[str, Any], train: SplitStats, account: ledger_view.LedgerSample) -> dict[str, Any]:
    """What the page's sections above the gallery show."""
    return {
        "manifest": manifest,
        "counts": COUNTED_COLUMNS,
        "totals": sections.totals(manifest),
        "facts": sections.facts(manifest),
        "sources": sections.sources(manifest),
        "mix": sections.mix(manifest),
        "tags": sections.tags(manifest),
        "drops": sections.drops(manifest, account),
        "cleaning": cleaning.filter_steps(manifest),
        "stages": sections.stages(manifest),
        "max_length": sections.max_length(manifest),
        "histograms": _histograms(train, sections.max_length(manifest)),
        "plots_left_out": max(0, len(train.sources) - MOST_PLOTS),
        "plot_size": (svg.WIDTH, svg.HEIGHT),
    }


def _histograms(train: SplitStats, max_length: int | None) -> list[dict[str, Any]]:
    """Per source its two histograms, on one common scale of lengths, and the numbers that go with them."""
    low, high = int(train.lengths.min(initial=1 << 30)), int(train.lengths.max(initial=1))
    chosen = sorted(train.sources, key=lambda source: -len(train.rows_of_source(source)))[:MOST_PLOTS]
    found = []
    for source in [source for source in train.sources if source in chosen]:
        indices = train.rows_of_source(source)
        lengths, shares = train.lengths[indices], train.shares[indices]
        found.append(
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
    return found


def _gallery_values(cards: list[GalleryExample], choice: gallery.GallerySelection) -> dict[str, Any]:
    """What the gallery shows."""
    kinds = [kind for kind in (*gallery.KINDS, gallery.HELD_OUT) if any(kind in card.kinds for card in cards)]
    return {
        "cards": cards,
        "kinds": kinds,
        "card_sources": list(dict.fromkeys(card.row.source for card in cards)),
        "sources_left_out": choice.sources_left_out,
    }


def _links(cards: list[GalleryExample], drops: dict[str, Any]) -> dict[str, str]:
    """Place of a row -> where it is on the page: among the tokens, or among what was dropped."""
    shown = {card.row.where: f"row-{number}" for number, card in enumerate(cards, 1)}
    return {example["where"]: example["id"] for example in drops["shown"]} | shown


def _render(values: dict[str, Any]) -> str:
    """The page. Every text goes through Jinja's escaping; only the package's own style and script are put in as is."""
    from markupsafe import Markup, escape

    def shown(text: object) -> Markup:
        """A text in which nothing is hidden."""
        return escape(escape_control(str(text)))

    def token(text: str) -> Markup:
        """A token's text; the newlines in it are marked by the style, and stay newlines when they are copied."""
        return shown(text).replace("\n", Markup("<em>\n</em>"))

    templates = template_environment(PACKAGE)
    templates.filters |= {
        "token": token,
        "runs": loss_runs,
        "number": lambda value: f"{value:,}",
        "counted": counted,
        "percent": percent,
    }
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
