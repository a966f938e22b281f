"""Render pages: escaping templates, and the style and script of the package with their hashes."""

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from sft_cli.console import counted
from sft_cli.escape import escape_control
from sft_cli.report.token_runs import loss_runs
from sft_cli.utils.text import percent

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def template_environment(package: str) -> "Environment":
    """Return the templates of a package, with the macros and filters of all pages.

    Every text is escaped, and control characters are made visible.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("sft_cli.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape_control(str(value)),
    )
    templates.filters |= {
        "token": token_markup,
        "runs": loss_runs,
        "number": lambda value: f"{value:,}",
        "counted": counted,
        "percent": percent,
    }
    return templates


def token_markup(text: str) -> "Markup":
    """Return a token's text; the style marks its newlines, which stay newlines when they are copied."""
    from markupsafe import Markup, escape

    return escape(escape_control(text)).replace("\n", Markup("<em>\n</em>"))


def package_text(package: str, name: str) -> str:
    """Return the text of a file of a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """Return a hash in the form of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
