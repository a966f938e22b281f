"""The web application: its addresses, and the errors of SftError as pages and JSON."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sft_cli.board import pages
from sft_cli.board.run_index import RunIndex
from sft_cli.board.security import Access, Guard
from sft_cli.errors import SftError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


class Board:
    """The handlers of all addresses; each page shows what an address below ``/api/`` gives as JSON."""

    def __init__(self, index: RunIndex) -> None:
        self.index = index

    def runs_page(self, request: "Request") -> "Response":
        """The list of runs."""
        rows = self.index.rows()
        return _html("runs", {"rows": rows, "directory": self.index.directory, "page": "runs"})

    def runs(self, request: "Request") -> "Response":
        """The rows that changed since a revision."""
        return _json(self.index.changes(request.query_params.get("since", "")))

    def row(self, request: "Request") -> "Response":
        """One row of the list."""
        return _json(asdict(self.index.row(request.path_params["name"])))

    def asset(self, request: "Request") -> "Response":
        """The style or a script."""
        from starlette.responses import Response

        found = pages.asset(request.path_params["name"])
        if found is None:
            return Response(status_code=404)
        return Response(found[0], media_type=found[1], headers={"cache-control": "no-cache"})


def create_app(index: RunIndex, access: Access) -> "Starlette":
    """Return the application.

    Args:
        index: The runs it shows.
        access: Who may use it.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    board = Board(index)
    addresses: dict[str, Callable[..., Any]] = {
        "/": board.runs_page,
        "/assets/{name}": board.asset,
        "/api/runs": board.runs,
        "/api/runs/{name:path}": board.row,
    }
    routes = [Route(path, _with_errors(handler, path)) for path, handler in addresses.items()]
    return Starlette(routes=routes, middleware=[Middleware(Guard, access=access)])


def _with_errors(handler: Callable[..., Any], path: str) -> Callable[..., Any]:
    """Return a handler that answers an SftError with its sentence, status 404."""

    def handle(request: "Request") -> "Response":
        try:
            return handler(request)
        except SftError as error:
            parts = {"where": error.where, "problem": error.problem, "fix": error.fix}
            if path.startswith("/api/"):
                return _json({"error": parts}, 404)
            return _html("error", {"error": parts, "page": ""}, 404)

    return handle


def _json(content: Any, status: int = 200) -> "Response":
    """Return an answer in JSON."""
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status, headers={"cache-control": "no-store"})


def _html(name: str, values: dict[str, Any], status: int = 200) -> "Response":
    """Return a page."""
    from starlette.responses import HTMLResponse

    return HTMLResponse(pages.render(name, values), status_code=status, headers={"cache-control": "no-store"})
