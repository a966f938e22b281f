"""Checks of a GGUF file: its template, and ids and stops through llama-cpp-python."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from sft_cli.config.compose import read_config
from sft_cli.config.paths import resolve
from sft_cli.errors import SftError
from sft_cli.export import llama_cpp
from sft_cli.export.gguf_family import FAMILIES
from sft_cli.export.gguf_settings import wrong_settings
from sft_cli.export.references import run_cases
from sft_cli.verify.artefact import Artefact
from sft_cli.verify.finding import VerifyFinding


def gguf_files(artefact: Artefact) -> list[Path]:
    """Return the GGUF files of an artefact."""
    return sorted(artefact.directory.glob("*.gguf"))


def gguf_template(file: Path) -> str | None:
    """Return the chat template in a GGUF file; None without one, or if the package gguf is not installed."""
    try:
        from gguf import GGUFReader, Keys
    except ImportError:
        return None
    field = GGUFReader(file).fields.get(Keys.Tokenizer.CHAT_TEMPLATE)
    return None if field is None else str(field.contents())


def check_gguf(artefact: Artefact) -> Iterator[VerifyFinding]:
    """Yield whether a GGUF file has the template, the ids and the stop tokens of training."""
    for file in gguf_files(artefact):
        yield from _check_template(artefact, file)
        yield from _check_settings(artefact, file)
        if not llama_cpp.is_installed():
            text = f"{file.name} was not opened: llama-cpp-python is not installed"
            yield VerifyFinding("llama.cpp ids", "skipped", text, "pip install 'sft-cli[llama-cpp]'")
            continue
        try:
            yield from _check_ids(artefact, file)
        except SftError as error:
            yield VerifyFinding("llama.cpp ids", "failed", error.problem, artefact.export_fix("gguf"))


def _check_template(artefact: Artefact, file: Path) -> Iterator[VerifyFinding]:
    trained = None if artefact.run is None else artefact.run.tokenizer / "chat_template.jinja"
    if trained is None or not trained.is_file():
        return
    same = gguf_template(file) == trained.read_text(encoding="utf-8")
    text = "identical to that of training" if same else f"the template in {file.name} differs from the trained one"
    yield VerifyFinding("template", "ok" if same else "failed", text, "" if same else artefact.export_fix("gguf"))


def _check_settings(artefact: Artefact, file: Path) -> Iterator[VerifyFinding]:
    """Yield whether sizes and constants, such as the caps of the logits, are those of the base's config.json."""
    if artefact.run is None or not artefact.run.config.is_file() or find_spec("gguf") is None:
        return
    model = read_config(artefact.run.config).model
    assert model.path is not None
    place = Path(resolve(model.path))
    if not (place / "config.json").is_file():
        yield VerifyFinding("GGUF constants", "skipped", f"the base {model.path} is not a directory here")
        return
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(place, trust_remote_code=model.trust_remote_code)
    if config.model_type not in FAMILIES:
        yield VerifyFinding("GGUF constants", "skipped", f"the names of {config.model_type} are not known")
        return
    try:
        wrong = wrong_settings(file, config)
    except ValueError as error:
        wrong = [f"{file.name} is damaged ({error})"]
    text = "; ".join(wrong) or "sizes, caps and rotary base are those of config.json"
    fix = artefact.export_fix("gguf") if wrong else ""
    yield VerifyFinding("GGUF constants", "failed" if wrong else "ok", text, fix)


def _check_ids(artefact: Artefact, file: Path) -> Iterator[VerifyFinding]:
    opened = llama_cpp.GgufVocabulary(file)
    run = artefact.run
    cases = [] if run is None else run_cases(run)
    wrong = opened.wrong_ids(cases)
    stops = [] if run is None else run.read_json(run.result / "generation_config.json")["eos_token_id"]
    endless = [id for id in (stops if isinstance(stops, list) else [stops]) if not opened.is_end(id)]
    opened.close()
    if not cases:
        yield VerifyFinding("llama.cpp ids", "skipped", "the run is unknown: add --run RUN")
    elif wrong:
        text = f"{len(wrong)} of {len(cases)} texts have other ids in {file.name}; {wrong[0]}"
        yield VerifyFinding("llama.cpp ids", "failed", text, artefact.export_fix("gguf"))
    else:
        yield VerifyFinding("llama.cpp ids", "ok", f"{len(cases)} have the ids of training")
    if endless:
        yield VerifyFinding("stops", "failed", f"llama.cpp does not stop at {endless}", artefact.export_fix("gguf"))
