"""Verify saved models: print every finding and return the exit code."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sft_cli.config.compose import read_config
from sft_cli.console import counted, say, table
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.serve.engine import Engine
from sft_cli.verify.artefact import Artefact, open_artefact
from sft_cli.verify.encodings import check_encodings
from sft_cli.verify.files import check_files
from sft_cli.verify.finding import VerifyFinding
from sft_cli.verify.gguf import check_gguf, gguf_files, gguf_template
from sft_cli.verify.ollama import check_replacement, known_templates
from sft_cli.verify.servers import SERVERS, Server, check_server
from sft_cli.verify.serving import check_serving

REFUSED = 3
"""Exit code if a check failed or a server that was asked for refuses the model."""


def find_artefacts(path: Path, run: RunDir | None) -> list[Artefact]:
    """Return the directory as an artefact, or the result and the exports of a run directory.

    Raises:
        SftError: There is nothing to verify.
    """
    if not path.exists():
        raise SftError(where=str(path), problem="there is no such directory", fix="sft runs lists the runs")
    if not (path / "config.yaml").is_file():
        return [open_artefact(path, run)]
    run = RunDir(path)
    exports = [place for place in sorted((path / "export").glob("*")) if place.is_dir()]
    merged = [place for place in (path / "merged",) if place.is_dir()]
    return [open_artefact(place, run) for place in (run.result, *merged, *exports)]


def verify_path(
    path: Path,
    run: RunDir | None,
    servers: Sequence[Server],
    templates: Path | None,
    served_by: Engine | None = None,
    timeout: float = 600,
) -> int:
    """Print the findings on a run or a directory and return the exit code.

    Args:
        path: A run directory, or one that was exported, or a GGUF file.
        run: The run of an exported directory, for its golden conversations; None means the one around it.
        servers: The servers that must take the model; the others are reported without changing the exit code.
        templates: Ollama's list of known templates, or None.
        served_by: The server to start for golden conversations; None starts none.
        timeout: Seconds that the server may take to load.
    """
    bad: list[VerifyFinding] = []
    for artefact in find_artefacts(path, run):
        findings = list(_all_findings(artefact, servers, templates))
        if served_by is not None:
            findings += check_serving(artefact, served_by, timeout)
        say(f"{artefact.kind:<10}{artefact.directory}")
        table(("check", "result", "what was found"), [(f.check, f.status, f.text) for f in findings])
        for finding in findings:
            if finding.fix:
                say(f"fix       {finding.check}: {finding.fix}")
        bad += [finding for finding in findings if finding.is_bad]
    say(f"verify    {counted(len(bad), 'problem')}" if bad else "verify    no problems")
    return REFUSED if bad else 0


def _all_findings(artefact: Artefact, servers: Sequence[Server], templates: Path | None) -> Iterator[VerifyFinding]:
    """Yield the findings on one artefact; refusals of servers that were not asked for become notes."""
    yield from check_files(artefact)
    if artefact.kind == "gguf":
        yield from check_gguf(artefact)
    else:
        remote = artefact.run is not None and read_config(artefact.run.config).model.trust_remote_code
        yield from check_encodings(artefact, trust_remote_code=remote)
    for server in SERVERS:
        for finding in _server_findings(artefact, server, templates):
            if server in servers or finding.status != "refused":
                yield finding
            else:
                yield VerifyFinding(finding.check, "note", finding.text, finding.fix)


def _server_findings(artefact: Artefact, server: Server, templates: Path | None) -> Iterator[VerifyFinding]:
    yield from check_server(artefact, server)
    if server == "ollama":
        template = gguf_template(gguf_files(artefact)[0]) if artefact.kind == "gguf" else artefact.template()
        if template is not None:
            yield from check_replacement(template, *known_templates(templates))
