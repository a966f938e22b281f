"""Write ``report.html`` of a run: one file that needs no network."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sft_cli import __version__
from sft_cli.console import gib, say
from sft_cli.report import sections
from sft_cli.report.axes import HEIGHT, WIDTH
from sft_cli.report.html import csp_hash, package_text, template_environment
from sft_cli.run_dir import RunDir
from sft_cli.train.run_details import commands_for, run_details
from sft_cli.train.run_list import RunState, read_metrics
from sft_cli.train.run_report.curves import Series, draw, pairs
from sft_cli.train.show_run import compared_rows, describe_run_lines, evaluation_rows
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import flatten
from sft_cli.utils.text import duration, percent

PACKAGE = "sft_cli.train.run_report"
MAX_EVALUATIONS = 40
"""Most rows of the table of evaluations during training; of more, the last ones are shown."""
MAX_CHARACTERS = 3000
"""Characters of a prompt (its end) or an answer (its start)."""
_COMMAND = re.compile(r"^\$ (sft .*?)  # (.*)$", re.MULTILINE)


def try_write_run_report(run: RunDir, state: RunState) -> None:
    """Write the page and print its path; a failure is a warning, so that it cannot fail a run.

    Args:
        run: The run directory.
        state: The state that the page names; the process that trains still holds the lock.
    """
    try:
        file = write_run_report(run, state)
    except Exception as error:  # the run is done, and its files may be of any content
        say(f"warning: {run.report} was not written: {type(error).__name__}: {error}")
        return
    say(f"report    {file}")


def write_run_report(run: RunDir, state: RunState | None = None) -> Path:
    """Write ``report.html`` from the files of a run, and return its path.

    Args:
        run: The run directory.
        state: The state to show; None for that of the directory.
    """
    details = run_details(run)
    if state is not None:
        details |= {"state": state, "next": commands_for(run, state)}
    write_atomic(run.report, _render(run, details))
    return run.report


def _render(run: RunDir, details: Mapping[str, Any]) -> str:
    """Return the page. Jinja escapes every text except the package's own style."""
    from markupsafe import Markup

    lines = list(read_metrics(run.metrics))
    evaluations = [line for line in lines if line.get("eval")]
    steps = [line for line in lines if "loss" in line and "eval" not in line]
    manifest = run.read_json(run.manifest) if run.manifest.is_file() else {}
    style = package_text("sft_cli.report", "page.css") + package_text(PACKAGE, "page.css")
    templates = template_environment(PACKAGE)
    templates.filters |= {"start": _start, "end": _end}
    charts = [chart for series in _series(steps, evaluations, details) if (chart := draw(series)) is not None]
    return templates.get_template("page.html.jinja").render(
        details=details,
        title=details["name"] or run.path.resolve().name,
        facts=list(describe_run_lines(details)),
        charts=charts,
        chart_size=(WIDTH, HEIGHT),
        totals=_totals(steps, details),
        during=_evaluation_table(evaluations),
        compared=list(compared_rows(details["comparison"])) if details["comparison"] else [],
        evaluated=list(evaluation_rows(details)),
        mix=sections.mix(manifest),
        sources=details["data"]["sources"],
        samples=_samples(run),
        environment=list(flatten(details["environment"])),
        config=list(flatten(details["config"], keep_empty=True)),
        commands=_command_lines(run),
        version=__version__,
        style=Markup(style),
        style_hash=csp_hash(style),
    )


def _series(
    steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], details: Mapping[str, Any]
) -> list[Series]:
    """Return what the charts show."""
    estimate = details["environment"].get("memory_estimate_bytes")
    known = f"Line: the estimate of {gib(estimate)} before training." if estimate else ""
    if details["environment"].get("device") == "cpu":
        known = f"Resident, with the libraries. {known}"
    return [
        Series("loss (nats per token)", pairs(steps, "loss"), pairs(evaluations, "loss"), None, "Dots: held-out rows."),
        Series("learning rate", pairs(steps, "lr"), linear=True),
        Series("gradient norm", pairs(steps, "grad_norm"), caption="Before clipping."),
        Series("throughput (tokens/s)", pairs(steps, "tokens_per_second"), linear=True),
        Series(
            "peak memory (GiB)",
            pairs(steps, "memory", 2**30),
            limit=estimate / 2**30 if estimate else None,
            caption=known,
        ),
    ]


def _totals(steps: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and remark of the numbers at the top."""
    found = []
    planned = f"of {details['planned_steps']:,}" if details["planned_steps"] else ""
    found.append(("steps", f"{details['step']:,}", planned))
    if details["held_out_loss"] is not None:
        best = details["best_held_out_loss"]
        remark = f"best {best:.4f} at step {details['best_step']:,}" if best is not None else ""
        found.append(("held-out loss", f"{details['held_out_loss']:.4f}", remark))
    if details["loss"] is not None:
        found.append(("training loss", f"{details['loss']:.4f}", "last step"))
    if details["tokens_per_second"] is not None:
        found.append(("tokens/s", f"{details['tokens_per_second']:,.0f}", "median of all steps"))
        found.append(
            ("time in steps", duration(details["seconds"]), f"{median(one['seconds'] for one in steps):.3g} s a step")
        )
    if details["memory"] is not None:
        estimate = details["environment"].get("memory_estimate_bytes")
        remark = f"estimate {gib(estimate)} ({percent(details['memory'] / estimate)})" if estimate else ""
        found.append(("peak memory", gib(details["memory"]), remark))
    return found


def _evaluation_table(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return columns and rows of the evaluations during training: loss, each source, each figure of a suite."""
    figures = []
    for line in evaluations[-MAX_EVALUATIONS:]:
        values = {"held-out loss": line.get("loss")}
        sources = line.get("sources", {})
        if len(sources) > 1:
            values |= {f"loss of {name}": value for name, value in sources.items()}
        suites = line.get("suites", {})
        values |= {f"{suite}.{name}": value for suite, found in suites.items() for name, value in found.items()}
        figures.append((line["step"], {name: value for name, value in values.items() if value is not None}))
    columns = list(dict.fromkeys(name for _, values in figures for name in values))
    rows = [(step, [f"{values[name]:.4f}" if name in values else "" for name in columns]) for step, values in figures]
    return {"columns": columns, "rows": rows, "left_out": max(0, len(evaluations) - MAX_EVALUATIONS)}


def _samples(run: RunDir) -> list[dict[str, Any]]:
    """Return sampled prompts with the expected answer and the answers before, at first, and at last."""
    first, last = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
    for sample in read_metrics(run.samples):
        first.setdefault(sample["where"], sample)
        last[sample["where"]] = sample
    before = json.loads(run.base_scores.read_text(encoding="utf-8"))["answers"] if run.base_scores.is_file() else []
    samples = []
    for number, (where, sample) in enumerate(last.items()):
        answers = [("base model", before[number])] if number < len(before) else []
        if first[where]["step"] != sample["step"]:
            answers.append((f"step {first[where]['step']:,}", first[where]["answer"]))
        answers.append((f"step {sample['step']:,}", sample["answer"]))
        samples.append({**sample, "answers": answers})
    return samples


def _command_lines(run: RunDir) -> list[tuple[str, str]]:
    """Return the command lines of the run's sessions, with their times, from its transcript."""
    text = run.console.read_text(encoding="utf-8", errors="replace") if run.console.is_file() else ""
    return _COMMAND.findall(text)


def _start(text: str) -> str:
    """Return the start of a long text."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def _end(text: str) -> str:
    """Return the end of a long text."""
    return text if len(text) <= MAX_CHARACTERS else f"…{text[-MAX_CHARACTERS:]}"
