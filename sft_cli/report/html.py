"""Render pages: escaping templates, and the style and script of the package with their hashes."""

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from sft_cli.escape import escape_control

if TYPE_CHECKING:
    from jinja2 import Environment


def template_environment(package: str) -> "Environment":
    """Return the templates of a package, with every text escaped and control characters made visible."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape_control(str(value)),
    )


def package_text(package: str, name: str) -> str:
    """Return the text of a file of a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """Return a hash in the form of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
