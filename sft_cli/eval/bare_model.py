"""A model that no run belongs to: a directory of a model or an adapter, or a model of the hub. Imports no torch."""

import json
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.chat.masks.sentinels import SentinelMarker
from sft_cli.chat.masks.stop_tokens import PROBE_EXCHANGE, StopTokenFinder
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.tokens.tokenizer import TOKENIZER_FILES, ChatTokenizer, load_tokenizer, publish_to_cache
from sft_cli.config.model_files.weights import require_weights
from sft_cli.config.paths import cache_home, resolve
from sft_cli.config.schema.config import Config, EvalConfig, ModelConfig
from sft_cli.config.schema.suites import SuiteFormat, SuiteKind
from sft_cli.errors import SftError
from sft_cli.eval.evaluated import EvaluatedModel, stop_ids_of
from sft_cli.prepare.model_template import load_tokenizer_and_template
from sft_cli.run_dir import MODEL_RECORD, SWEEP_RECORD, RunDir, default_results_dir
from sft_cli.suites.chosen import evaluates_heldout
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.hashing import json_digest
from sft_cli.utils.home import expand_home

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
OF_RUNS = ("adapter", "model", "checkpoints", "steps")
"""Directories of a run whose models belong to it; ``RUN/merged`` is a model of its own."""


@dataclass(frozen=True, slots=True)
class BareModel:
    """A model that no run belongs to, and the directory of its results.

    Attributes:
        typed: What was typed.
        path: Its directory or hub id.
        is_adapter: Whether it is an adapter.
        results: The directory of its results.
    """

    typed: str
    path: str
    is_adapter: bool
    results: RunDir

    def config(self) -> Config:
        """Return the config of its evaluation, before overrides.

        Raises:
            SftError: An adapter names no base.
        """
        if not self.is_adapter:
            return Config(model=ModelConfig(path=self.path))
        directory = Path(self.path)
        settings = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        has_tokenizer = any((directory / name).is_file() for name in TOKENIZER_FILES)
        return Config(
            model=ModelConfig(
                path=settings.get("base_model_name_or_path"),
                revision=settings.get("revision"),
                tokenizer=self.path if has_tokenizer else None,
            )
        )


def find_bare_model(typed: str, out: Path | None, *, served: bool = False) -> BareModel | None:
    """Return the model that was typed, or None if it is a run, a part of a run, or nothing.

    Args:
        typed: A directory of a model, an adapter or results of a model; ``builtin:…``; or a hub id.
        out: The directory of its results; None for the default.
        served: Whether a server answers, so that anything else is the name of a model at the server.

    Raises:
        SftError: The directory holds neither a run nor a model.
    """
    path = Path(resolve(typed))
    if (path / MODEL_RECORD).is_file():
        recorded = json.loads((path / MODEL_RECORD).read_text(encoding="utf-8"))["model"]
        # The results are scored again also without the model: at a server, or removed since.
        found = find_bare_model(recorded, path if out is None else out, served=True)
        return None if found is None else replace(found, typed=typed)
    if (path / "config.yaml").is_file() or (path / SWEEP_RECORD).is_file() or _is_part_of_run(path):
        return None
    is_hub_id = not path.exists() and HUB_ID.fullmatch(typed) is not None and not Path(typed).parent.is_dir()
    if not path.is_dir() and not is_hub_id:
        name = Path(typed).name
        return BareModel(typed, typed, False, _results(name, out)) if served and name else None
    is_adapter = (path / "adapter_config.json").is_file()
    if not is_hub_id and not is_adapter and not (path / "config.json").is_file():
        problem = "the directory is neither a run (config.yaml) nor a model (config.json or adapter_config.json)"
        raise SftError(where=typed, problem=problem, fix="name a run that sft train wrote, or a directory of a model")
    absolute = typed if is_hub_id or typed.startswith("builtin:") else str(path.absolute())
    return BareModel(typed, absolute, is_adapter, _results(path.absolute().name, out))


def _results(name: str, out: Path | None) -> RunDir:
    """Return the directory of the results of a model."""
    return RunDir(default_results_dir(name) if out is None else expand_home(out))


def _is_part_of_run(path: Path) -> bool:
    """Return whether a directory is the result or a checkpoint of a run."""
    parents = (path.absolute(), *path.absolute().parents)
    run = next((index for index, parent in enumerate(parents) if (parent / "config.yaml").is_file()), None)
    return run is not None and run > 0 and parents[run - 1].name in OF_RUNS


def claim_results(model: BareModel) -> None:
    """Create the directory of the results, and record whose they are.

    Raises:
        SftError: It has other files, or the results of another model.
    """
    directory = model.results.path
    file = directory / MODEL_RECORD
    fix = f"name another directory: --out {shlex.quote(f'{directory}-2')}"
    if file.is_file():
        other = json.loads(file.read_text(encoding="utf-8"))["model"]
        if other != model.path:
            raise SftError(where=str(directory), problem=f"it holds the results of another model, {other}", fix=fix)
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SftError(where=str(directory), problem="it exists, and is no directory of results", fix=fix)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps({"model": model.path, "sft_cli": __version__}, indent=1) + "\n")


def check_adapter_base(model: BareModel, config: Config, command: str) -> None:
    """Check that the base of an adapter is named and still there.

    Args:
        model: The model.
        config: Its config with overrides.
        command: The command before the path, such as ``sft eval``, for errors.

    Raises:
        SftError: It is not.
    """
    if not model.is_adapter:
        return
    base = config.model.path
    fix = f"name it: {command} {shlex.quote(model.typed)} model.path=DIR_OR_HUB_ID"
    where = str(Path(model.path) / "adapter_config.json")
    if base is None:
        raise SftError(where=where, problem="the adapter names no base model", fix=fix)
    path = Path(resolve(base))
    if not path.is_dir() and (path.is_absolute() or not HUB_ID.fullmatch(base)):
        raise SftError(where=where, problem=f"the base of the adapter, {base}, no longer exists", fix=fix)


def check_bare_model(model: BareModel, config: Config, command: str) -> None:
    """Check what can be checked without loading anything.

    Args:
        model: The model.
        config: Its config with overrides.
        command: The command before the path, such as ``sft eval``, for errors.

    Raises:
        SftError: The base of an adapter is gone, or there are no weights.
    """
    check_adapter_base(model, config, command)
    require_weights(config.model)


def needs_template(config: EvalConfig) -> bool:
    """Return whether anything is asked by the chat template: held-out rows, suites or tasks."""
    suites = config.suites.values()
    by_template = any(suite.kind is SuiteKind.heldout or suite.format is SuiteFormat.chat for suite in suites)
    return by_template or (bool(config.lm_eval.tasks) and config.lm_eval.chat) or evaluates_heldout(config)


def evaluated_bare_model(model: BareModel, config: Config, *, needs_template: bool) -> EvaluatedModel:
    """Return the model with its tokenizer, template and stop tokens.

    Args:
        model: The model.
        config: The config of its evaluation.
        needs_template: Whether anything is asked by the chat template.

    Raises:
        SftError: It has no tokenizer, no template or no stop token.
    """
    if needs_template:
        tokenizer, template = load_tokenizer_and_template(config)
        tokenizer = tokenizer.with_template(template.source, template.named)
        ends = _template_stops(tokenizer, template, config)
    else:
        tokenizer, ends = _plain_tokenizer(config.model), []
    directory = _save(tokenizer)
    own = replace(config.model, tokenizer=None)
    source = _local_files(model, config)
    found = [*_own_stops(source, tokenizer), *ends]
    if not found:
        raise SftError(
            where=str(source / "generation_config.json"),
            problem="the model has no stop token (eos_token_id)",
            fix='write {"eos_token_id": ID} into that file',
        )
    is_local = Path(resolve(model.path)).is_dir()
    base = {"base": config.model.path, "revision": own.revision} if model.is_adapter else {}
    return EvaluatedModel(
        name=model.path,
        whole=None if model.is_adapter else own,
        adapter=Path(model.path) if model.is_adapter else None,
        base=own if model.is_adapter else None,
        full=False,
        added_ids=tuple(_added_ids(tokenizer, own)) if model.is_adapter else (),
        tokenizer=directory,
        stop_ids=tuple(dict.fromkeys(found)),
        origin={**base, **({} if is_local else {"snapshot": source.name}), "quant": config.quant.kind.value},
        results=model.results.eval,
    )


def _plain_tokenizer(model: ModelConfig) -> ChatTokenizer:
    """Return the tokenizer as it is, with or without a template."""
    name = model.tokenizer or model.path
    assert name is not None
    return load_tokenizer(name, None if model.tokenizer else model.revision, "model.path")


def _local_files(model: BareModel, config: Config) -> Path:
    """Return the directory of the model's small files: its own, or its snapshot in the hub cache."""
    directory = Path(resolve(model.path))
    return directory if directory.is_dir() else load_tokenizer(model.path, config.model.revision).directory


def _own_stops(directory: Path, tokenizer: ChatTokenizer) -> list[int]:
    """Return the stop tokens that a server reads: of generation_config.json, else config.json, else the tokenizer."""
    for name in ("generation_config.json", "config.json"):
        if found := stop_ids_of(directory / name):
            return found
    end = tokenizer.special_tokens.get("eos_token")
    id = None if end is None else tokenizer.backend.token_to_id(end)
    return [] if id is None else [id]


def _template_stops(tokenizer: ChatTokenizer, template: ChatTemplate, config: Config) -> list[int]:
    """Return the token that ends an answer by the template; none if it writes none."""
    try:
        text = template.render(PROBE_EXCHANGE, None, prompt=False)
        finder = StopTokenFinder(template, SentinelMarker(tokenizer, config.data.sanitize))
        stop, _ = finder.find(text, text.rfind(PROBE_EXCHANGE[-1]["content"]))
    except RenderError:
        return []
    return [tokenizer.control_tokens[stop]]


def _added_ids(tokenizer: ChatTokenizer, base: ModelConfig) -> list[int]:
    """Return the ids of an adapter's tokenizer that the tokenizer of its base does not have."""
    known = _plain_tokenizer(base).backend
    added: dict[int, Any] = tokenizer.backend.get_added_tokens_decoder()
    return sorted(id for id, token in added.items() if known.token_to_id(token.content) is None)


def _save(tokenizer: ChatTokenizer) -> Path:
    """Write the tokenizer with its template into the cache, under a digest of both, and return its directory."""
    templates = [tokenizer.chat_template, dict(tokenizer.named_templates)]
    digest = json_digest(["served", tokenizer.digests(), templates])
    directory = cache_home() / "tokenizers" / digest[:16]
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=directory.parent))
        try:
            tokenizer.save(scratch / directory.name)
            publish_to_cache(scratch / directory.name, directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return directory
