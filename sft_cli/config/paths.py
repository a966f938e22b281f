"""Paths: the user's, those of embedded files, the cache, and run directories."""

import glob
import os
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from sft_cli.config.schema.config import Config

BUILTIN = "builtin:"


def resolve(path: str) -> str:
    """Return the path of ``builtin:quickstart/model`` or ``~/rows.jsonl``; other texts, such as hub ids, unchanged."""
    if path.startswith(BUILTIN):
        return str(files("sft_cli").joinpath(path.removeprefix(BUILTIN)))
    return os.path.expanduser(path)


def absolute(config: Config) -> Config:
    """Return a copy in which every local path is absolute, so that it is valid in any working directory.

    ``builtin:…`` and names that are not local paths (hub ids) are unchanged.
    """
    mix = {
        name: replace(source, path=_local(source.path), validation_path=_local(source.validation_path))
        for name, source in config.data.mix.items()
    }
    against = {name: _local(path) or path for name, path in config.clean.contamination.against.items()}
    probes = {name: replace(probe, path=_local(probe.path)) for name, probe in config.trainer.retention.probes.items()}
    suites = {
        name: replace(suite, path=_local(suite.path), shots=replace(suite.shots, path=_local(suite.shots.path)))
        for name, suite in config.eval.suites.items()
    }
    synth = config.synth
    synth = replace(
        synth,
        prompts=replace(synth.prompts, path=_local(synth.prompts.path)),
        teacher=replace(synth.teacher, model=_local(synth.teacher.model)),
        self_instruct=replace(synth.self_instruct, seeds=_local(synth.self_instruct.seeds)),
        templates={name: _local(path) or path for name, path in synth.templates.items()},
    )
    scorer = replace(config.clean.perplexity, model=_local(config.clean.perplexity.model))
    return replace(
        config,
        run_dir=_absolute(config.run_dir),
        prepared_dir=_absolute(config.prepared_dir),
        model=replace(config.model, path=_local(config.model.path), tokenizer=_local(config.model.tokenizer)),
        template=replace(config.template, path=_local(config.template.path)),
        data=replace(config.data, mix=mix),
        trainer=replace(config.trainer, retention=replace(config.trainer.retention, probes=probes)),
        eval=replace(config.eval, data_dir=_absolute(config.eval.data_dir), suites=suites),
        synth=synth,
        clean=replace(
            config.clean, contamination=replace(config.clean.contamination, against=against), perplexity=scorer
        ),
    )


def _absolute(path: str | None) -> str | None:
    """Return the absolute path of a file that may not exist yet."""
    return path if path is None or path.startswith(BUILTIN) else os.path.abspath(os.path.expanduser(path))


def _local(path: str | None) -> str | None:
    """Return the absolute path of an existing file, or of a glob in an existing directory; otherwise expand ``~``."""
    if path is None or path.startswith(BUILTIN):
        return path
    expanded = os.path.expanduser(path)
    if os.path.exists(expanded):
        return os.path.abspath(expanded)
    if glob.has_magic(expanded):
        leading = next(parent for parent in Path(expanded).parents if not glob.has_magic(str(parent)))
        if leading.is_dir():
            return os.path.join(glob.escape(os.path.abspath(leading)), Path(expanded).relative_to(leading))
    return expanded


def cache_home() -> Path:
    """Return the cache directory, which contains prepared data: ``$SFT_HOME`` if set, else ``~/.cache/sft``."""
    return Path(os.environ.get("SFT_HOME") or Path.home() / ".cache" / "sft")


def default_run_dir(run_name: str) -> Path:
    """Return ``runs/<run_name>-<date>-<time>`` below ``$SFT_HOME`` if set, else below the working directory."""
    return _dated("runs", run_name)


def default_sweep_dir(run_name: str) -> Path:
    """Return ``sweeps/<run_name>-<date>-<time>`` below ``$SFT_HOME`` if set, else below the working directory."""
    return _dated("sweeps", run_name)


def _dated(kind: str, run_name: str) -> Path:
    base = Path(os.environ.get("SFT_HOME") or ".")
    return base / kind / f"{run_name}-{time.strftime('%Y%m%d-%H%M%S')}"
