"""Make rows with a teacher: preview them and their cost, or write them with a manifest."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.config.redaction import redact_values
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.suites import EvalEngine
from sft_cli.config.schema.synth import Generator, SynthConfig
from sft_cli.config.validate import to_plain
from sft_cli.console import counted, say, table
from sft_cli.errors import SftError
from sft_cli.synth.answers import reject, respond
from sft_cli.synth.rows import Made
from sft_cli.synth.self_instruct import self_instruct
from sft_cli.synth.session import TeacherSession
from sft_cli.synth.teachers import open_teacher
from sft_cli.utils.atomic import write_atomic

JOURNAL, ROWS, MANIFEST = "journal.jsonl", "rows.jsonl", "manifest.json"
GENERATORS: Mapping[Generator, Callable[[SynthConfig, TeacherSession, int | None], Made]] = {
    Generator.respond: respond,
    Generator.reject: reject,
    Generator.self_instruct: self_instruct,
}
SHOWN = 600
"""Characters of a message that a preview shows."""


def default_dir(run_name: str) -> Path:
    """Return ``synth/<run_name>`` below ``$SFT_HOME`` if set, else below the working directory."""
    return Path(os.environ.get("SFT_HOME") or ".") / "synth" / run_name


def make_rows(config: Config, out: Path, preview: int | None) -> bool:
    """Make the rows of a config, and write them; or show some, and estimate the whole.

    Args:
        config: The config.
        out: Directory of rows, journal and manifest; replies in its journal are used again.
        preview: Number of prompts, or rows of self_instruct, to show; None writes all rows.

    Returns:
        Whether everything was made; False if a limit was reached.

    Raises:
        SftError: The directory has other files, or the teacher fails.
    """
    _check_directory(out)
    out.mkdir(parents=True, exist_ok=True)
    with open_teacher(config) as teacher, TeacherSession(teacher, config.synth, out / JOURNAL) as session:
        made = GENERATORS[config.synth.generator](config.synth, session, preview)
        if preview is not None:
            _show_preview(made, session)
            return not session.stopped
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made.rows)
        write_atomic(out / ROWS, lines.encode("utf-8", "backslashreplace"))
        manifest = _manifest(config, made, session)
        write_atomic(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        _show(made, session, out)
        return not session.stopped


def _check_directory(out: Path) -> None:
    """Refuse a directory that holds something else."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / JOURNAL).is_file())):
        fix = f"name another directory: --out {shlex.quote(f'{out}-2')}"
        raise SftError(where=str(out), problem="it exists, and sft synth did not write it", fix=fix)


def _manifest(config: Config, made: Made, session: TeacherSession) -> dict[str, Any]:
    """Return what the rows are, and how they were made."""
    dates = [row["synth"]["at"] for row in made.rows]
    engine = config.synth.teacher.engine
    terms = (
        f"Check whether the terms of {session.teacher.name}'s provider allow training a model on its replies."
        if engine is EvalEngine.openai
        else f"Check whether the licence of {session.teacher.name} allows training a model on its output."
    )
    return {
        "sft_cli": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "generator": config.synth.generator.value,
        "teacher": {"name": session.teacher.name, "engine": engine.value, **session.teacher.identity},
        "terms": terms,
        "prompts": {prompt.name: {"digest": prompt.digest, "file": str(prompt.file)} for prompt in made.prompts},
        "dates": {"first": min(dates), "last": max(dates)} if dates else {},
        "rows": len(made.rows),
        "counts": dict(made.counts.most_common()),
        "figures": made.figures,
        "requests": session.requests,
        "input_tokens": session.input_tokens,
        "output_tokens": session.output_tokens,
        "cost": round(session.cost, 6),
        "stopped": session.stopped,
        "settings": redact_values(to_plain(config.synth)),
    }


def _show(made: Made, session: TeacherSession, out: Path) -> None:
    """Print what became of the answers, what they cost, and where the rows are."""
    table(["outcome", "number"], [[reason, f"{number:,}"] for reason, number in made.counts.most_common()])
    if made.figures:
        table(list(made.figures), [[f"{value:.4g}" for value in made.figures.values()]])
    say(f"requests  {_usage(session)}, {session.from_journal:,} of them from the journal")
    if session.stopped:
        say(f"stopped   {session.stopped} is reached; raise it, and the same command continues")
    say(f"rows      {counted(len(made.rows), 'row')} in {out / ROWS}")
    say(f"next      sft prepare {shlex.quote(f'data={out / ROWS}')} model.tokenizer=DIR_OR_HUB_ID")


def _usage(session: TeacherSession) -> str:
    """Return the requests, tokens and cost so far as text."""
    tokens = f"{session.input_tokens:,} tokens in, " if session.input_tokens else ""
    cost = f", cost {session.cost:.4g}" if session.cost else ""
    return f"{session.requests:,}, {tokens}{session.output_tokens:,} tokens out{cost}"


def _show_preview(made: Made, session: TeacherSession) -> None:
    """Print the rows, and an estimate of the whole from the requests so far."""
    for number, row in enumerate(made.rows, 1):
        say(f"row {number}")
        for message in row["messages"]:
            text = " ".join(str(message["content"]).split())
            say(f"{message['role']}: {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}", indent=2)
    dropped = [f"{number} {reason}" for reason, number in made.counts.most_common() if reason != "kept"]
    if dropped:
        say(f"dropped   {', '.join(dropped)}")
    say(f"preview   requests {_usage(session)}; the journal keeps them, and the whole does not pay them again")
    if made.planned is None or not session.requests:
        say("whole     unknown: no row was made yet")
        return
    factor = made.planned / session.requests
    parts = [f"about {made.planned:,} requests"]
    if session.input_tokens:
        parts.append(f"{factor * session.input_tokens:,.0f} tokens in")
    parts.append(f"{factor * session.output_tokens:,.0f} tokens out")
    if session.cost:
        parts.append(f"cost {factor * session.cost:.4g}")
    say(f"whole     {', '.join(parts)}")
