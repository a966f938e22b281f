"""Answer the items of a suite with a model in this process."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from torch import nn

from sft_cli.config.schema.suites import Compat, SuiteKind
from sft_cli.distributed.process_group import World
from sft_cli.eval.engine.choices import continuation_logprobs, cut_context
from sft_cli.eval.engine.prompts import ServedPrompts
from sft_cli.eval.engine.reasoning import split_reasoning, template_tags
from sft_cli.eval.engine.run import AnswerItems, Pending, Records, until_reached
from sft_cli.eval.engine.sampling import Sampling, answer_seed
from sft_cli.eval.engine.text_windows import WINDOW, part_records
from sft_cli.eval.generate import GeneratedAnswer, GenerationSettings, answer_batches
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.load import model_context_length
from sft_cli.model.quant import causal_lm
from sft_cli.suites.choices import LM_EVAL
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.limits import EvalLimits
from sft_cli.suites.results import answer_head

ITEMS_PER_PLAN = 128
"""Items of choices that are packed together, and after which their answers are written."""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """A model to evaluate.

    Attributes:
        model: A transformers causal LM or a PEFT model around one; the caller enters autocast.
        loss_model: The same model with its packed attention.
        prompts: Encodes prompts as served.
        stop_ids: Tokens that end an answer.
        max_tokens: Largest number of tokens of a packed row.
        batch_size: Answers generated at once.
        max_new_tokens: Longest answer of a suite without a limit of its own.
    """

    model: nn.Module
    loss_model: LossModel
    prompts: ServedPrompts
    stop_ids: tuple[int, ...]
    max_tokens: int
    batch_size: int
    max_new_tokens: int


def local_answers(engine: EngineModel) -> AnswerItems:
    """Return the function that answers items with a model in this process."""

    def answer(suite: LoadedSuite, pending: Pending, limits: EvalLimits) -> Records:
        """Yield the lines of some items at a time."""
        batches = {SuiteKind.choices: _choice_batches, SuiteKind.perplexity: _text_batches}
        return until_reached(batches.get(suite.config.kind, _answer_batches)(engine, suite, pending), limits)

    return answer


def _answer_batches(
    engine: EngineModel, suite: LoadedSuite, pending: Pending
) -> Generator[list[dict[str, Any]], None, None]:
    """Yield the lines of each batch of generated answers."""
    config = suite.config
    if not pending:
        return
    # The samples of an item have one prompt, unless it continues their own answers.
    keys = [(entry.item.id, sample if entry.after else 0) for entry, sample in pending]
    entries = {key: entry for key, (entry, _) in zip(keys, pending, strict=True)}
    ids = {key: entry.prompt_ids or engine.prompts.prompt_ids(entry, config.format) for key, entry in entries.items()}
    texts = {key: engine.prompts.prompt_text(entry, config.format) for key, entry in entries.items()}
    settings = GenerationSettings(
        stop_ids=engine.stop_ids,
        max_new_tokens=config.max_new_tokens or engine.max_new_tokens,
        batch_size=engine.batch_size,
        sampling=Sampling(config.temperature, config.top_p) if config.temperature else None,
        stop_texts=tuple(config.stop),
        tokenizer=engine.prompts.tokenizer,
        share_prefixes=engine.loss_model.shares_prefixes,
    )
    seeds = [answer_seed(config.seed, entry.item.id, sample) for entry, sample in pending]
    prompts = [ids[key] for key in keys]
    batches = answer_batches(engine.model, prompts, settings, seeds=seeds, pad_id=engine.stop_ids[0], world=World())
    for batch, generated in batches:
        yield [
            _answer_record(engine, suite, pending[index], texts[keys[index]], answer)
            for index, answer in zip(batch, generated, strict=True)
        ]


def _answer_record(
    engine: EngineModel, suite: LoadedSuite, place: tuple[SuiteItem, int], prompt: str, answer: GeneratedAnswer
) -> dict[str, Any]:
    """Return the line of a generated answer."""
    entry, sample = place
    tokenizer = engine.prompts.tokenizer
    tags = template_tags(str(tokenizer.chat_template or ""))
    # A template may mark reasoning and calls of tools by special tokens.
    keep = bool(tags) or entry.tools is not None
    text = tokenizer.decode(list(answer.ids), skip_special_tokens=not keep, clean_up_tokenization_spaces=False)
    reasoning, text = split_reasoning(prompt, text, tags)
    ended = [text.index(stop) for stop in suite.config.stop if stop in text]
    return {
        **answer_head(entry, sample, prompt),
        "answer": text[: min(ended)] if ended else text,
        "reasoning": reasoning,
        "stopped": answer.stopped or bool(ended),
        "num_tokens": len(answer.ids) + answer.stopped,
        "cut": answer.truncated,
        **(_matched(entry, answer) if entry.expected_ids else {}),
    }


def _matched(entry: SuiteItem, answer: GeneratedAnswer) -> dict[str, Any]:
    """Return how many tokens of an answer are those expected, before the first other one."""
    pairs = zip(entry.expected_ids, answer.ids, strict=False)
    matched = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return {
        "where": entry.where,
        "expected": entry.item.target[0],
        "expected_tokens": len(entry.expected_ids),
        "matched_tokens": matched,
    }


def _text_batches(
    engine: EngineModel, suite: LoadedSuite, pending: Pending
) -> Generator[list[dict[str, Any]], None, None]:
    """Return the lines of parts of a text, some at a time."""
    context = model_context_length(causal_lm(engine.model).config)
    limit = None if context is None else context - num_prepended_vectors(engine.model)
    window = min(size for size in (suite.config.window or WINDOW, limit) if size is not None)
    stride = min(suite.config.stride or max(1, window // 2), max(1, window - 1))
    return part_records(
        engine.loss_model,
        engine.prompts.tokenizer,
        suite.items,
        [entry for entry, _ in pending],
        window=window,
        stride=stride,
        max_tokens=engine.max_tokens,
    )


def _choice_batches(
    engine: EngineModel, suite: LoadedSuite, pending: Pending
) -> Generator[list[dict[str, Any]], None, None]:
    """Yield the lines of some items of choices at a time."""
    for first in range(0, len(pending), ITEMS_PER_PLAN):
        yield _choice_records(engine, suite, [entry for entry, _ in pending[first : first + ITEMS_PER_PLAN]])


def _choice_records(engine: EngineModel, suite: LoadedSuite, entries: Sequence[SuiteItem]) -> list[dict[str, Any]]:
    """Compute the log-likelihoods of the choices of some items, and return their lines."""
    format, limit = suite.config.format, model_context_length(causal_lm(engine.model).config)
    limit = None if limit is None else limit - num_prepended_vectors(engine.model)
    whole = [engine.prompts.continuations(entry, format) for entry in entries]
    served = [cut_context(one, limit) for row in whole for one in row]
    compat = suite.config.compat is Compat.lm_eval
    theirs = (
        [cut_context(one, limit) for entry in entries for one in engine.prompts.lm_eval_continuations(entry, format)]
        if compat
        else []
    )
    values = continuation_logprobs(engine.loss_model, [*served, *theirs], engine.max_tokens)
    lines, start = [], 0
    for entry, uncut in zip(entries, whole, strict=True):
        choices: list[Mapping[str, Any]] = []
        for offset, text in enumerate(entry.choices):
            place = start + offset
            own = served[place]
            choice = {
                "text": text,
                "logprob": values[place],
                "num_tokens": len(own.ids),
                "num_bytes": len(text.encode("utf-8", "surrogatepass")),
                "merged": own.merged,
            }
            if compat:
                choice[LM_EVAL] = {
                    "logprob": values[len(served) + place],
                    "num_tokens": len(theirs[place].ids),
                }
            choices.append(choice)
        cut = any(one is not kept for one, kept in zip(uncut, served[start:], strict=False))
        lines.append(_choice_record(engine, suite, entry, choices, cut=cut))
        start += len(entry.choices)
    return lines


def _choice_record(
    engine: EngineModel, suite: LoadedSuite, entry: SuiteItem, choices: list[Mapping[str, Any]], *, cut: bool
) -> dict[str, Any]:
    """Return the line of an item of choices; its answer is the most likely one."""
    best = max(choices, key=lambda choice: choice["logprob"])
    return {
        **answer_head(entry, 0, engine.prompts.prompt_text(entry, suite.config.format)),
        "answer": best["text"],
        "reasoning": "",
        "stopped": True,
        "num_tokens": 0,
        "cut": cut,
        "choices": choices,
    }
