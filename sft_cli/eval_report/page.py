"""Write ``report.html`` of the evaluations of a run: one file that needs no network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.blame.failures import ROW_REPORTS
from sft_cli.compare.results import SuiteRecord, read_results
from sft_cli.eval_report.figures import SuiteFigures, row_figures, suite_figures, unique_names
from sft_cli.eval_report.items import FAILED, GAINED, REGRESSED, RIGHT, PageItem, base_of, row_items, suite_items
from sft_cli.report.html import csp_hash, package_text, template_environment
from sft_cli.run_dir import RunDir
from sft_cli.utils.atomic import write_atomic

NAME = "report.html"
STATES = (REGRESSED, FAILED, GAINED, RIGHT)
MAX_ITEMS = 300
"""Items of a suite on the page, by the order of ``STATES``; if their failures are more, failures up to the limit."""
MAX_TAGS = 200
"""Values of tags that can be chosen."""
TINY = 1e-12
"""Size below which a value is shown as 0."""
MAX_CHARACTERS = 3000
"""Characters of a prompt (its end), an answer or a row (its start)."""


def write_eval_report(run: RunDir) -> Path | None:
    """Write ``eval/report.html`` from all results of a run; None if it has none.

    Raises:
        SftError: A result is damaged.
    """
    suites, items = list[SuiteFigures](), list[list[PageItem]]()
    for name, report, file in _row_reports(run.eval):
        suites.append(row_figures(name, report))
        items.append(row_items(name, report, file.with_suffix(".blame.jsonl")))
    for name, record, base in _tuned_results(run):
        suites.append(suite_figures(name, record, base, _overlap(record)))
        items.append(suite_items(name, record, base))
    if not suites:
        return None
    file = run.eval / NAME
    write_atomic(file, _render(run, suites, items))
    return file


def run_figures(run: RunDir) -> list[SuiteFigures]:
    """Return the scores of all results of a run, as on its page.

    Raises:
        SftError: A result is damaged.
    """
    of_rows = [row_figures(name, report) for name, report, _ in _row_reports(run.eval)]
    of_suites = [suite_figures(name, record, base, _overlap(record)) for name, record, base in _tuned_results(run)]
    return of_rows + of_suites


def _tuned_results(run: RunDir) -> list[tuple[str, SuiteRecord, SuiteRecord | None]]:
    """Return the results of the trained model on suites: unique name, results, and those of the base model."""
    records = read_results(run)
    tuned = [record for record in records if not record.is_base]
    names = unique_names([record.suite for record in tuned], [record.path.name for record in tuned])
    return [(name, record, base_of(record, records)) for name, record in zip(names, tuned, strict=True)]


def _row_reports(directory: Path) -> list[tuple[str, dict[str, Any], Path]]:
    """Return name, content and file of the reports on rows."""
    found = []
    for file in sorted(directory.glob("*.json")):
        report = json.loads(file.read_text(encoding="utf-8"))
        if report.get("suite") in ROW_REPORTS:
            found.append((file.stem, report, file))
    return found


def _overlap(record: SuiteRecord) -> Mapping[str, Any] | None:
    """Return the overlap of a suite with the training rows, if it was measured."""
    file = record.path / "scores.json"
    return json.loads(file.read_text(encoding="utf-8")).get("contamination") if file.is_file() else None


def _render(run: RunDir, suites: Sequence[SuiteFigures], items: Sequence[Sequence[PageItem]]) -> str:
    """Return the page. Jinja escapes every text except the package's own style and script."""
    from markupsafe import Markup

    shown = [sorted(found, key=lambda item: STATES.index(item.states[0]))[:MAX_ITEMS] for found in items]
    cards = [item for found in shown for item in found]
    tags = list(dict.fromkeys((tag, value) for item in cards for tag, value in item.tags.items()))[:MAX_TAGS]
    style = package_text("sft_cli.report", "page.css") + package_text("sft_cli.eval_report", "page.css")
    script = package_text("sft_cli.report", "page.js")
    templates = template_environment("sft_cli.eval_report")
    templates.filters |= {
        "figure": lambda value: f"{0 if abs(value) < TINY else value:.4g}",
        "start": lambda text: text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…",
        "end": lambda text: text if len(text) <= MAX_CHARACTERS else f"…{text[-MAX_CHARACTERS:]}",
    }
    return templates.get_template("page.html.jinja").render(
        run=run.path.resolve().name,
        version=__version__,
        suites=suites,
        cards=cards,
        counts={state: sum(state in item.states for item in cards) for state in STATES},
        states=STATES,
        tags=tags,
        tag_numbers={tag: number for number, tag in enumerate(tags)},
        left_out=sum(map(len, items)) - len(cards),
        style=Markup(style),
        script=Markup(script),
        style_hash=csp_hash(style),
        script_hash=csp_hash(script),
    )
