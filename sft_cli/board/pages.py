"""Render the pages of the board: templates, filters, style and scripts."""

import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from sft_cli import __version__
from sft_cli.board.details import shown
from sft_cli.console import counted, gib
from sft_cli.report.html import package_text, template_environment, token_markup
from sft_cli.report.token_runs import loss_runs
from sft_cli.utils.text import duration, percent, time_left

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = "sft_cli.board"
SCRIPTS = ("runs.js", "run.js")
STYLE = "board.css"


def render(name: str, values: Mapping[str, Any]) -> str:
    """Return a page; every text is escaped."""
    return _templates().get_template(f"{name}.html.jinja").render({**values, "version": __version__})


def asset(name: str) -> tuple[str, str] | None:
    """Return text and media type of the style or of a script; None for any other name."""
    if name == STYLE:
        return _style(), "text/css"
    return (package_text(PACKAGE, name), "text/javascript") if name in SCRIPTS else None


@cache
def _style() -> str:
    """Return the style of the reports with the additions of the board."""
    return "".join(
        package_text(*place)
        for place in (("sft_cli.report", "page.css"), ("sft_cli.eval_report", "page.css"), (PACKAGE, STYLE))
    )


@cache
def _templates() -> "Environment":
    """Return the templates."""
    from jinja2 import ChoiceLoader, PackageLoader, PrefixLoader

    templates = template_environment(PACKAGE)
    templates.loader = ChoiceLoader(
        [PackageLoader(PACKAGE, "."), PrefixLoader({"report": PackageLoader("sft_cli.report", ".")})]
    )
    templates.filters |= {
        "token": token_markup,
        "runs": loss_runs,
        "percent": percent,
        "number": lambda value: f"{value:,}",
        "figure": figure,
        "when": when,
        "left": lambda seconds: "" if seconds is None else time_left(seconds),
        "duration": duration,
        "size": gib,
        "counted": counted,
        "shown": shown,
    }
    return templates


def figure(value: float | None) -> str:
    """Return a number with four significant digits; a dash for None."""
    return "–" if value is None else f"{value:.4g}"


def when(seconds: float | None) -> str:
    """Return a local time as ``2026-12-01 03:37``; a dash for None."""
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
