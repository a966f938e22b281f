"""The engine as a model of lm-evaluation-harness."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from sft_cli.distributed.process_group import World
from sft_cli.eval.engine.choices import continuation_logprobs, cut_context
from sft_cli.eval.engine.local import EngineModel
from sft_cli.eval.engine.sampling import Sampling, answer_seed
from sft_cli.eval.generate import GenerationSettings, answer_batches
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors
from sft_cli.model.load import model_context_length
from sft_cli.model.quant import causal_lm


def harness_model(engine: EngineModel) -> Any:
    """Return a model (``lm_eval.api.model.LM``) that computes log-likelihoods and answers with the engine."""

    class EngineLM(import_module("lm_eval.api.model").LM):
        """Answers the requests of the harness."""

        tokenizer_name = "sft"

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Return the log-likelihood of each continuation; whether it is greedy is not computed."""
            return [(value, False) for value in _logprobs(engine, [request.args for request in requests])]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """Refuse: such tasks are refused before."""
            raise NotImplementedError

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Return the answers."""
            return _answers(engine, [request.args for request in requests])

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """Return the text of a conversation."""
            return engine.prompts.chat_text(chat_history, add_generation_prompt=add_generation_prompt)

        def chat_template(self, chat_template: bool | str = False) -> str:
            """Return the template, for the record of the harness."""
            return str(engine.prompts.tokenizer.chat_template or "") if chat_template else ""

    return EngineLM()


def _logprobs(engine: EngineModel, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the log-likelihood of the second text of each pair after the first."""
    limit = model_context_length(causal_lm(engine.model).config)
    limit = None if limit is None else limit - num_prepended_vectors(engine.model)
    asked = [cut_context(engine.prompts.lm_eval_continuation(*pair), limit) for pair in pairs]
    return continuation_logprobs(engine.loss_model, asked, engine.max_tokens)


def _answers(engine: EngineModel, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return the answers to prompts, each with its settings of generation."""
    groups: dict[str, list[int]] = {}
    for index, (_, settings) in enumerate(requests):
        groups.setdefault(repr(settings), []).append(index)
    answers = [""] * len(requests)
    for members in groups.values():
        settings = _settings(engine, requests[members[0]][1])
        prompts = [engine.prompts.lm_eval_ids(requests[index][0]) for index in members]
        seeds = [answer_seed(0, requests[index][0], 0) for index in members]
        batches = answer_batches(engine.model, prompts, settings, seeds=seeds, pad_id=engine.stop_ids[0], world=World())
        for batch, generated in batches:
            for place, answer in zip(batch, generated, strict=True):
                text = engine.prompts.tokenizer.decode(list(answer.ids), skip_special_tokens=True)
                ends = [text.index(stop) for stop in settings.stop_texts if stop in text]
                answers[members[place]] = text[: min(ends)] if ends else text
    return answers


def _settings(engine: EngineModel, values: Mapping[str, Any]) -> GenerationSettings:
    """Return the settings of generation of a request."""
    until = values.get("until") or []
    temperature = float(values.get("temperature") or 0) if values.get("do_sample") else 0.0
    return GenerationSettings(
        stop_ids=engine.stop_ids,
        max_new_tokens=int(values.get("max_gen_toks") or engine.max_new_tokens),
        batch_size=engine.batch_size,
        sampling=Sampling(temperature, float(values.get("top_p") or 1)) if temperature else None,
        stop_texts=tuple([until] if isinstance(until, str) else until),
        tokenizer=engine.prompts.tokenizer,
        share_prefixes=engine.loss_model.shares_prefixes,
    )
