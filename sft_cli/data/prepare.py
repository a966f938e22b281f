"""`sft prepare`: from the sources of a config to a directory of proven examples, every input row accounted for."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sft_cli.chat import parity
from sft_cli.chat.examples import ExampleMaker, Outcome
from sft_cli.chat.template import ChatTemplate, load_template
from sft_cli.chat.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.config.paths import cache_home, resolve
from sft_cli.config.schema import Config, OnBadRow, Overflow
from sft_cli.console import say
from sft_cli.data import manifest as manifests
from sft_cli.data import prepared
from sft_cli.data.gather import Candidate, gather
from sft_cli.data.ledger import Entry, Ledger
from sft_cli.data.prepared import Prepared, Side, SplitWriter
from sft_cli.errors import Mistakes, SftError, raise_all

CHUNK = 2000
"""Rows encoded at once."""
SHOWN = 5
"""Bad rows told at once."""
GOLDENS = 4
"""Golden prompts kept per source."""


@dataclass
class _Build:
    """The state of one preparation."""

    maker: ExampleMaker
    config: Config
    ledger: Ledger = field(default_factory=Ledger)
    lengths: dict[Side, list[int]] = field(default_factory=lambda: {"train": [], "validation": []})
    goldens: list[parity.Golden] = field(default_factory=list)
    stops: set[str] = field(default_factory=set)
    sanitized: int = 0
    silent: list[str] = field(default_factory=list)
    problems: list[SftError] = field(default_factory=list)


def prepare(config: Config) -> Prepared:
    """Prepare the data of a config, or open what an earlier run with the same inputs prepared.

    Raises:
        SftError: A source, template or row cannot be used; nothing is left behind.
    """
    started = time.perf_counter()
    tokenizer, template = read_template(config)
    inputs = manifests.inputs(config, tokenizer, template)
    fingerprint = manifests.fingerprint(inputs)
    chosen = config.prepared_dir
    directory = Path(resolve(chosen)) if chosen else cache_home() / "prepared" / fingerprint[:16]
    present = prepared.read_manifest(directory)
    if present is not None and present["fingerprint"] == fingerprint:
        say(f"data      {directory} is up to date (fingerprint {fingerprint[:16]})")
        return prepared.open_prepared(directory)
    _check_free(directory, ours=present is not None)
    if present is not None:
        say(f"data      {directory} is prepared anew: {manifests.difference(present['inputs'], inputs)}")
    maker = ExampleMaker(tokenizer, template, config.data, config.trainer.max_length)
    maker.check_template()
    new = prepared.scratch(directory)
    try:
        manifest = _build(new, maker, config, inputs, fingerprint)
        tokenizer.with_template(template.source).save(new / "tokenizer")
        new.chmod(0o755)
        prepared.replace_directory(new, directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    manifests.show(manifest, directory, time.perf_counter() - started)
    return prepared.open_prepared(directory)


def _check_free(directory: Path, ours: bool) -> None:
    """Refuse a directory whose replacement would lose what sft prepare did not write."""
    if not directory.exists():
        return
    if not directory.is_dir():
        problem = "it is a file"
    elif ours and (foreign := prepared.foreign(directory)):
        problem = f"data have changed, and the directory to replace also holds {', '.join(foreign[:3])}"
    elif not ours and any(directory.iterdir()):
        problem = "the directory is not empty and was not written by sft prepare"
    else:
        return
    raise SftError(
        where=f"prepared_dir={directory}", problem=problem, fix="name another directory, or leave prepared_dir out"
    )


def read_template(config: Config) -> tuple[ChatTokenizer, ChatTemplate]:
    """The tokenizer and the chat template of a config."""
    name = config.model.tokenizer or config.model.path
    if name is None:
        raise SftError(
            where="model.path",
            problem="no model is given",
            fix="type model.path=DIR_OR_HUB_ID (sft prepare needs only model.tokenizer=DIR_OR_HUB_ID)",
        )
    if config.model.tokenizer is None:
        tokenizer = load_tokenizer(name, config.model.revision, "model.path")
    else:
        tokenizer = load_tokenizer(name)
    return tokenizer, load_template(config.template, tokenizer)


def _build(new: Path, maker: ExampleMaker, config: Config, inputs: dict, fingerprint: str) -> dict:
    """Write everything but the tokenizer into ``new``; the manifest."""
    build = _Build(maker, config)
    sources = {name: gather(name, source, config) for name, source in config.data.mix.items()}
    if not sources:
        raise SftError(
            where="data.mix",
            problem="there is no data",
            fix="type data=local data.mix.local.path=rows.jsonl, or choose a recipe (sft recipes)",
        )
    candidates = [candidate for gathered in sources.values() for candidate in gathered.candidates]
    weighted = any(c.weighted for c in candidates)
    writers: dict[Side, SplitWriter] = {side: SplitWriter(new, side, weighted) for side in build.lengths}
    for chunk in _chunks(candidates):
        _encode(build, chunk, writers)
        if build.problems:
            _refuse(build.problems)
    for writer in writers.values():
        writer.close()
    build.ledger.check_budget(config.data.max_dropped)
    if not build.lengths["train"]:
        raise SftError(where="data.mix", problem="no training row is left", fix="see data.val_fraction and max_rows")
    prepared.finish(new)
    build.ledger.write(new / "ledger.jsonl")
    parity.save(build.goldens, new / "golden.json")
    formats = {name: gathered.format for name, gathered in sources.items()}
    manifest = manifests.build(
        config,
        inputs,
        fingerprint,
        build.ledger,
        formats,
        build.lengths,
        sorted(build.stops),
        build.sanitized,
        build.silent,
    )
    manifests.write(manifest, new / "manifest.json")
    return manifest


def _encode(build: _Build, chunk: Sequence[Candidate], writers: dict[Side, SplitWriter]) -> None:
    """Encode a chunk of rows, write its examples and account for each row."""
    wanted = [c.conversation for c in chunk if c.conversation is not None and c.copies]
    outcomes = iter(build.maker.make(wanted))
    for candidate in chunk:
        if not candidate.copies:
            _account(build, candidate, "not_sampled")
        elif candidate.conversation is None:
            assert candidate.problem is not None
            _drop(build, candidate, candidate.reason, candidate.problem, build.config.data.on_bad_row is OnBadRow.error)
        else:
            _settle(build, candidate, next(outcomes), writers[candidate.side])


def _settle(build: _Build, candidate: Candidate, outcome: Outcome, writer: SplitWriter) -> None:
    """Write the examples of a row, or drop it."""
    data = build.config.data
    if outcome.problem is not None:
        fatal = data.overflow is Overflow.error if outcome.too_long else data.on_bad_row is OnBadRow.error
        reason = "too long" if outcome.too_long else "mask not proven"
        _drop(build, candidate, reason, outcome.problem, fatal)
        return
    writer.write(outcome.examples * candidate.copies)
    build.lengths[candidate.side] += [len(example.input_ids) for example in outcome.examples] * candidate.copies
    build.stops |= outcome.stops
    build.sanitized += outcome.sanitized
    if candidate.silent:
        build.silent.append(candidate.where)
    _account(build, candidate, "used", outcome)
    known = sum(golden.source == candidate.source for golden in build.goldens)
    if known < GOLDENS and candidate.conversation and (golden := parity.golden(build.maker, candidate.conversation)):
        build.goldens.append(golden)


def _account(build: _Build, candidate: Candidate, fate: str, outcome: Outcome | None = None) -> None:
    """One line of the ledger for a row that was not dropped."""
    examples = outcome.examples if outcome else ()
    build.ledger.add(
        Entry(
            where=candidate.where,
            source=candidate.source,
            split=candidate.side,
            fate="used" if fate == "used" else "not_sampled",
            examples=len(examples),
            copies=candidate.copies,
            tokens=sum(len(example.input_ids) for example in examples),
            trained_tokens=sum(weight > 0 for example in examples for weight in example.weights),
            truncated_messages=outcome.dropped_messages if outcome else 0,
        )
    )


def _drop(build: _Build, candidate: Candidate, reason: str, problem: SftError, fatal: bool) -> None:
    """Account for a row that cannot be used; remember the problem if it must stop the run."""
    build.ledger.add(
        Entry(
            where=candidate.where,
            source=candidate.source,
            split=candidate.side,
            fate="dropped",
            reason=reason,
            detail=problem.problem,
        )
    )
    if fatal:
        build.problems.append(problem)


def _refuse(problems: list[SftError]) -> None:
    """Tell the first bad rows, and how many more there are."""
    if len(problems) > SHOWN:
        last = problems[SHOWN - 1]
        more = SftError(
            where=last.where, problem=f"{last.problem} (and {len(problems) - SHOWN} more rows)", fix=last.fix
        )
        raise Mistakes([*problems[: SHOWN - 1], more])
    raise_all(problems)


def _chunks(candidates: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
    """The candidates in slices of ``CHUNK``."""
    for start in range(0, len(candidates), CHUNK):
        yield candidates[start : start + CHUNK]


def prepare_command(overrides: Sequence[str], config_dirs: Sequence[str]) -> None:
    """Body of ``sft prepare``."""
    from sft_cli.config.compose import compose

    prepare(compose(overrides, config_dirs))
