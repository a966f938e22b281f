"""Generators that answer given prompts: ``respond`` (distillation) and ``reject`` (rejection sampling)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

from sft_cli.config.rules.synth import NO_SYSTEM
from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.config.schema.synth import KeepAnswers, SynthConfig
from sft_cli.errors import SftError
from sft_cli.scoring.registry import make_scorer
from sft_cli.scoring.statistics import pass_at_k
from sft_cli.scoring.types import Answer, Scorer
from sft_cli.suites.items import SuiteItem, load_suite
from sft_cli.suites.scorers import CombinedScorers
from sft_cli.synth.prompt_files import PromptFile, load_prompt
from sft_cli.synth.requests import TeacherReply, TeacherRequest
from sft_cli.synth.rows import Made, drop_reason, message_row, provenance
from sft_cli.synth.session import TeacherSession


def load_prompts(config: SynthConfig) -> list[SuiteItem]:
    """Return the prompts of ``synth.prompts``, with their targets.

    Raises:
        SftError: No file is named, or a row lacks a column.
    """
    prompts = config.prompts
    if prompts.path is None:
        raise SftError(where="synth.prompts.path", problem="no prompts are named", fix="add synth.prompts.path=FILE")
    suite = SuiteConfig(
        path=prompts.path,
        split=prompts.split,
        prompt=prompts.prompt,
        messages=prompts.messages,
        system=prompts.system,
        id=prompts.id,
        target=prompts.target,
    )
    try:
        items = load_suite("prompts", suite).items
    except SftError as error:  # the reader knows them as a suite
        texts = [
            text.replace("eval.suites.prompts", "synth.prompts") for text in (error.where, error.problem, error.fix)
        ]
        raise SftError(where=texts[0], problem=texts[1], fix=texts[2]) from error
    chosen = [item for item in items if prompts.where is None or _is_true(prompts.where, item)]
    if not chosen:
        problem, fix = f"no row of {prompts.path} is chosen", "correct it, or remove it to use all rows"
        raise SftError(where="synth.prompts.where", problem=problem, fix=fix)
    return chosen[: prompts.limit]


def _is_true(text: str, item: SuiteItem) -> bool:
    """Return whether the text of ``synth.prompts.where`` holds for the row of a prompt."""
    value = PromptFile("where", Path(item.where), text).render(**item.item.fields)
    return value.strip().lower() not in ("", "false", "none", "0")


def respond(config: SynthConfig, session: TeacherSession, limit: int | None = None) -> Made:
    """Return a row for each prompt, answered once.

    Args:
        config: The settings.
        session: The teacher.
        limit: Number of prompts of a preview; None for all.
    """
    items = load_prompts(config)
    systems = [None if name == NO_SYSTEM else load_prompt(name, config.templates) for name in config.systems]
    made = Made(prompts=[system for system in systems if system is not None], planned=len(items))
    asked = [_with_system(item, systems, config.teacher.seed) for item in items[:limit]]
    requests = [TeacherRequest(item.item.id, item.item.messages, tools=item.tools) for item, _ in asked]
    replies = session.ask(requests, session.drawing(), "answers")
    for (item, system), reply in zip(asked, replies, strict=True):
        if reply is None:
            made.counts["not asked"] += 1
            continue
        reason = drop_reason(reply, config)
        made.counts[reason or "kept"] += 1
        if not reason:
            used = [] if system is None else [system]
            source = provenance(session, "respond", used, [item.item.id], [reply])
            made.rows.append(message_row(item.item.messages, reply.text, reply.reasoning, source))
    return made


def _with_system(
    item: SuiteItem, systems: Sequence[PromptFile | None], seed: int
) -> tuple[SuiteItem, PromptFile | None]:
    """Return a prompt with one of the system messages, and that message; the choice depends on seed and id alone."""
    if not systems:
        return item, None
    system = Random(f"{seed} {item.item.id}").choice(systems)
    rest = tuple(message for message in item.item.messages if message["role"] != "system")
    first = () if system is None else ({"role": "system", "content": system.render()},)
    return replace(item, item=replace(item.item, messages=(*first, *rest))), system


def reject(config: SynthConfig, session: TeacherSession, limit: int | None = None) -> Made:
    """Return rows of correct answers: ``synth.samples`` to each prompt, checked by ``synth.check``.

    Args:
        config: The settings.
        session: The teacher.
        limit: Number of prompts of a preview; None for all.

    Raises:
        SftError: A metric is unknown, or a prompt has no expected answer that it needs.
    """
    items, scorer = load_prompts(config), _checker(config)
    scorer.check_items(item.item for item in items)
    made = Made(planned=len(items) * config.samples)
    asked = items[:limit]
    requests = [
        TeacherRequest(item.item.id, item.item.messages, sample, item.tools)
        for item in asked
        for sample in range(config.samples)
    ]
    replies = session.ask(requests, session.drawing(), "samples")
    passed = list[int]()
    for number, item in enumerate(asked):
        own = replies[number * config.samples :][: config.samples]
        complete = [reply for reply in own if reply is not None]
        right, number_right = _right(item, complete, scorer, config, made)
        made.counts["not asked"] += len(own) - len(complete)
        if len(complete) == len(own):
            passed.append(number_right)
        kept = right[:1] if config.keep is KeepAnswers.best else right
        made.counts["kept"] += len(kept)
        made.counts["correct, not the best"] += len(right) - len(kept)
        for reply in kept:
            source = provenance(session, "reject", [], [item.item.id], [reply])
            made.rows.append(message_row(item.item.messages, reply.text, reply.reasoning, source))
    made.counts = +made.counts
    made.figures = _pass_at(passed, config.samples)
    return made


def _checker(config: SynthConfig) -> Scorer:
    where = "synth.check.scorers"
    return CombinedScorers([make_scorer(name, config.check.options, where) for name in config.check.scorers])


def _right(
    item: SuiteItem, replies: Sequence[TeacherReply], scorer: Scorer, config: SynthConfig, made: Made
) -> tuple[list[TeacherReply], int]:
    """Return the correct and distinct answers to a prompt, the shortest first, and the number of all correct ones."""
    found: dict[str, TeacherReply] = {}
    repeated = 0
    for reply in sorted(replies, key=lambda reply: reply.output_tokens):
        if reason := drop_reason(reply, config):
            made.counts[reason] += 1
            continue
        verdict = scorer.score(item.item, Answer(reply.text, reply.reasoning, reply.stopped, reply.output_tokens))
        if not verdict.scores or min(verdict.scores.values()) < config.check.threshold:
            made.counts["wrong"] += 1
        elif (text := " ".join(reply.text.split())) in found:
            repeated += 1
        else:
            found[text] = reply
    made.counts["correct, repeated"] += repeated
    return list(found.values()), len(found) + repeated


def _pass_at(correct: Sequence[int], samples: int) -> dict[str, float]:
    """Return the mean of pass@k over the prompts with all their samples, for k of 1, 2, 4 and so on."""
    ks = sorted({*(2**power for power in range(samples.bit_length()) if 2**power <= samples), samples})
    return {f"pass@{k}": fmean(pass_at_k(samples, number, k) for number in correct) for k in ks} if correct else {}
