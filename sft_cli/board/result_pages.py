"""The addresses about the evaluations of a run and the rows behind it."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from sft_cli.board.answers import error_parts, html_answer, json_answer, whole_number
from sft_cli.board.data_rows import FATES, DataRows, as_plain
from sft_cli.board.details import report_links
from sft_cli.board.run_index import RunIndex
from sft_cli.compare.compare import as_json, compare_runs
from sft_cli.errors import SftError
from sft_cli.eval_report.page import run_figures
from sft_cli.utils.mappings import nan_to_none

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class ResultPages:
    """The handlers."""

    def __init__(self, index: RunIndex) -> None:
        self._index, self._data = index, DataRows()

    def evaluations_page(self, request: "Request") -> "Response":
        """The scores of a run with intervals, and its paired differences from another run."""
        name, other = request.path_params["name"], request.query_params.get("with", "")
        run = self._index.run(name)
        comparison, problem = None, None
        if other:
            try:
                comparison = _differences(self._comparison(name, other))
            except SftError as error:
                problem = error_parts(error)
        values = {
            "name": name,
            "reports": report_links(run),
            "suites": run_figures(run),
            "choices": [row.name for row in self._index.rows() if row.name != name],
            "other": other,
            "comparison": comparison,
            "problem": problem,
        }
        return html_answer("evaluations", {**values, "page": "run"})

    def evaluations(self, request: "Request") -> "Response":
        """The scores of a run."""
        figures = run_figures(self._index.run(request.path_params["name"]))
        return json_answer({"suites": [nan_to_none(asdict(suite)) for suite in figures]})

    def comparison(self, request: "Request") -> "Response":
        """Two runs compared, as ``sft compare --json`` prints it."""
        first, second = (request.query_params.get(name, "") for name in ("first", "second"))
        return json_answer(self._comparison(first, second))

    def _comparison(self, first: str, second: str) -> dict[str, Any]:
        """Return two runs compared."""
        return json.loads(as_json(compare_runs([self._index.run(first), self._index.run(second)])))

    def data_page(self, request: "Request") -> "Response":
        """A page of the ledger."""
        name = request.path_params["name"]
        run, wanted, start = self._index.run(name), _wanted(request), whole_number(request, "at") or 0
        found = self._data.page(run, wanted, start)
        query = urlencode({key: value for key, value in wanted.items() if value})
        values = {"name": name, "reports": report_links(run), "wanted": wanted, "query": query, "at": start}
        return html_answer("data", {**found, **values, "fates": FATES, "page": "run"})

    def ledger(self, request: "Request") -> "Response":
        """A page of the ledger as JSON."""
        run = self._index.run(request.path_params["name"])
        return json_answer(self._data.page(run, _wanted(request), whole_number(request, "at") or 0))

    def row_page(self, request: "Request") -> "Response":
        """The tokens of a row."""
        name = request.path_params["name"]
        run = self._index.run(name)
        found = self._data.row(run, whole_number(request, "at") or 0)
        line = {key: value for key, value in found["line"].items() if value not in (None, {}, [])}
        values = {"name": name, "reports": report_links(run), "shown_line": line.items(), "page": "run"}
        return html_answer("row", {**found, **values})

    def row(self, request: "Request") -> "Response":
        """The tokens of a row as JSON."""
        run = self._index.run(request.path_params["name"])
        return json_answer(as_plain(self._data.row(run, whole_number(request, "at") or 0)))


def _wanted(request: "Request") -> dict[str, str]:
    """Return what rows of the ledger must match.

    Raises:
        SftError: There is no such fate.
    """
    wanted = {name: request.query_params.get(name, "") for name in ("text", "source", "fate")}
    if wanted["fate"] and wanted["fate"] not in FATES:
        problem, fix = "there is no such fate", f"one of {', '.join(FATES)}"
        raise SftError(where=f"fate={wanted['fate'][:40]}", problem=problem, fix=fix)
    return wanted


def _differences(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line for each metric of two compared runs."""
    lines = []
    for metric in comparison["metrics"]:
        first, second = metric["cells"]
        difference = second["difference"] or {}
        lines.append(
            {
                "suite": metric["suite"],
                "metric": metric["metric"],
                "first": first["estimate"]["value"],
                "second": second["estimate"]["value"],
                "difference": difference.get("value"),
                "low": difference.get("low"),
                "high": difference.get("high"),
                "verdict": second["verdict"],
            }
        )
    return lines
