"""Answers of the board, and the values of its queries."""

from typing import TYPE_CHECKING, Any

from sft_cli.board import pages
from sft_cli.errors import SftError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def error_parts(error: SftError) -> dict[str, str]:
    """Return an error for a page or JSON."""
    return {"where": error.where, "problem": error.problem, "fix": error.fix}


def whole_number(request: "Request", name: str) -> int | None:
    """Return a whole number of the query; None without it.

    Raises:
        SftError: It is something else.
    """
    text = request.query_params.get(name, "")
    if text and not (text.isdecimal() and len(text) < 16):
        raise SftError(where=f"{name}={text[:40]}", problem="not a whole number of 0 or more", fix=f"{name}=100")
    return int(text) if text else None


def json_answer(content: Any, status: int = 200) -> "Response":
    """Return an answer in JSON."""
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status, headers={"cache-control": "no-store"})


def html_answer(name: str, values: dict[str, Any], status: int = 200) -> "Response":
    """Return a page.

    Args:
        name: Name of its template.
        values: What the template shows.
        status: Status of the answer.
    """
    from starlette.responses import HTMLResponse

    return HTMLResponse(pages.render(name, values), status_code=status, headers={"cache-control": "no-store"})
