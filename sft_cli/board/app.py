"""The web application: its addresses, and the errors of SftError as pages and JSON."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from sft_cli.board import pages
from sft_cli.board.answers import error_parts, html_answer, json_answer, whole_number
from sft_cli.board.curves import CurveStore
from sft_cli.board.details import config_difference, data_report, eval_report, run_details
from sft_cli.board.new_run import compose_run, list_recipes
from sft_cli.board.result_pages import ResultPages
from sft_cli.board.run_index import RunIndex
from sft_cli.board.security import REPORT_POLICY, Access, Guard
from sft_cli.errors import SftError
from sft_cli.train.run_end import StopRequest, request_stop

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


MAX_OVERLAID = 6
"""Runs whose curves are shown together: as many as there are colours."""
MAX_FORM_BYTES = 1 << 16


class Board:
    """The handlers of all addresses; each page shows what an address below ``/api/`` gives as JSON."""

    def __init__(self, index: RunIndex) -> None:
        self.index = index
        self.curve_store = CurveStore()

    def runs_page(self, request: "Request") -> "Response":
        """The list of runs."""
        rows = self.index.rows()
        return html_answer("runs", {"rows": rows, "directory": self.index.directory, "page": "runs"})

    def runs(self, request: "Request") -> "Response":
        """The rows that changed since a revision."""
        return json_answer(self.index.changes(request.query_params.get("since", "")))

    def row(self, request: "Request") -> "Response":
        """One row of the list."""
        return json_answer(asdict(self.index.row(request.path_params["name"])))

    def run_page(self, request: "Request") -> "Response":
        """One run: curves, samples, checkpoints, settings, console."""
        name = request.path_params["name"]
        row, run = self.index.row(name), self.index.run(name)
        others = [other for other in dict.fromkeys(request.query_params.getlist("with")) if other not in ("", name)]
        others = others[: MAX_OVERLAID - 1]
        compared = [self.index.run(other) for other in others]
        values = {
            "row": row,
            "details": run_details(run),
            "others": others,
            "overlaid": [name, *others],
            "choices": [one.name for one in self.index.rows() if one.name not in (name, *others)],
            "difference": config_difference(run, compared[0]) if compared else None,
        }
        return html_answer("run", {**values, "page": "run"})

    def details(self, request: "Request") -> "Response":
        """Everything on the page of a run apart from its curves."""
        return json_answer(run_details(self.index.run(request.path_params["name"])))

    def difference(self, request: "Request") -> "Response":
        """The settings that differ between two runs."""
        first, second = (self.index.run(request.query_params.get(name, "")) for name in ("first", "second"))
        return json_answer({"settings": config_difference(first, second)})

    def curves(self, request: "Request") -> "Response":
        """The curves of a run; status 304 if they are those that the client has."""
        from starlette.responses import JSONResponse, Response

        run = self.index.run(request.path_params["name"])
        first, last = (whole_number(request, name) for name in ("first", "last"))
        content = self.curve_store.of(run).read(first, last)
        etag = f'"{self.index.instance}-{content["version"]}-{first}-{last}"'
        headers = {"etag": etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return JSONResponse(content, headers=headers)

    def report(self, request: "Request") -> "Response":
        """The report.html of a run's evaluations or of its data, which cannot read the board."""
        from starlette.responses import FileResponse

        run, kind = self.index.run(request.path_params["name"]), request.path_params["kind"]
        file = {"evaluation": eval_report, "data": data_report}.get(kind, lambda _: None)(run)
        if file is None:
            fix = f"sft eval {shlex.quote(str(run.path))}" if kind == "evaluation" else "sft prepare recipe=NAME"
            raise SftError(where=f"{run.path}, {kind}", problem="there is no such report", fix=fix)
        return FileResponse(file, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

    def stop(self, request: "Request") -> "Response":
        """Ask a run to stop or to finish, as ``sft stop`` does; the form leads back to the page of the run."""
        from starlette.responses import RedirectResponse

        name = request.path_params["name"]
        run = self.index.run(name)
        if self.index.row(name).state != "running":
            fix = f"sft train --resume {shlex.quote(str(run.path))}"
            raise SftError(where=str(run.path), problem="the run is not running", fix=fix)
        finish = request.query_params.get("finish") == "1"
        request_stop(run, StopRequest.finish if finish else StopRequest.save)
        return RedirectResponse(f"/run/{quote(name)}", status_code=303)

    def recipes(self, request: "Request") -> "Response":
        """All recipes with their descriptions."""
        return json_answer({"recipes": list_recipes()})

    def new_page(self, request: "Request") -> "Response":
        """The form of a new run."""
        values = {"recipes": list_recipes(), "recipe": "quickstart", "settings": "", "problem": None, "found": None}
        return html_answer("new", {**values, "page": "new"})

    def composed_page(self, request: "Request", sent: Mapping[str, str]) -> "Response":
        """The form of a new run with the command and the settings that the recipe composes to."""
        recipe, settings = sent.get("recipe", ""), sent.get("settings", "")
        found, problem = None, None
        try:
            found = compose_run(recipe, settings)
        except SftError as error:
            problem = error_parts(error)
        values = {"recipes": list_recipes(), "recipe": recipe, "settings": settings, "problem": problem}
        return html_answer("new", {**values, "found": found, "page": "new"})

    def compose(self, request: "Request", sent: Mapping[str, str]) -> "Response":
        """The command and the settings of a new run."""
        return json_answer(compose_run(sent.get("recipe", ""), sent.get("settings", "")))

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

    board, results = Board(index), ResultPages(index)
    addresses: dict[str, Callable[..., Any]] = {
        "/": board.runs_page,
        "/assets/{name}": board.asset,
        "/run/{name:path}": board.run_page,
        "/report/{kind}/{name:path}": board.report,
        "/api/runs": board.runs,
        "/api/runs/{name:path}": board.row,
        "/api/details/{name:path}": board.details,
        "/api/curves/{name:path}": board.curves,
        "/api/difference": board.difference,
        "/evaluations/{name:path}": results.evaluations_page,
        "/data/{name:path}": results.data_page,
        "/row/{name:path}": results.row_page,
        "/api/evaluations/{name:path}": results.evaluations,
        "/api/compare": results.comparison,
        "/api/ledger/{name:path}": results.ledger,
        "/api/row/{name:path}": results.row,
        "/new": board.new_page,
        "/api/recipes": board.recipes,
    }
    posted = {"/new": board.composed_page, "/api/compose": board.compose}
    routes = [Route(path, _with_errors(handler, path)) for path, handler in addresses.items()]
    routes.append(Route("/stop/{name:path}", _with_errors(board.stop, "/stop"), methods=["POST"]))
    routes += [Route(path, _with_form(handler, path), methods=["POST"]) for path, handler in posted.items()]
    return Starlette(routes=routes, middleware=[Middleware(Guard, access=access)])


def _with_errors(handler: Callable[..., Any], path: str) -> Callable[..., Any]:
    """Return a handler that answers an SftError with its sentence, status 404."""

    def handle(request: "Request") -> "Response":
        """Answer a request, or its error."""
        try:
            return handler(request)
        except SftError as error:
            parts = error_parts(error)
            if path.startswith("/api/"):
                return json_answer({"error": parts}, 404)
            return html_answer("error", {"error": parts, "page": ""}, 404)

    return handle


def _with_form(handler: Callable[..., Any], path: str) -> Callable[..., Any]:
    """Return a handler that gets the fields of a form, which is short."""
    from starlette.concurrency import run_in_threadpool

    async def handle(request: "Request") -> "Response":
        """Answer a request with its form."""
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MAX_FORM_BYTES:
                return json_answer(
                    {"error": {"where": path, "problem": "the form is too long", "fix": "shorten it"}}, 413
                )
        sent = dict(parse_qsl(content.decode("utf-8", "replace")))
        return await run_in_threadpool(_with_errors(lambda request: handler(request, sent), path), request)

    return handle
