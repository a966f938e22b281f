"""The model of a conversation: prompts as served, streamed answers, the base for comparison, proposed questions."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from sft_cli.chat.template import server
from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.data import TrainOn
from sft_cli.distributed.process_group import World
from sft_cli.errors import SftError
from sft_cli.eval.chat.target import ChatTarget
from sft_cli.eval.engine.sampling import Sampling, answer_seed
from sft_cli.eval.evaluated import evaluated_run, read_stop_ids
from sft_cli.eval.generate import GenerationSettings, answer_batches
from sft_cli.eval.session import load_base, load_evaluated, load_plain
from sft_cli.eval.streaming import StreamedAnswer, stream_answer
from sft_cli.model.adapter.add import load_adapter
from sft_cli.model.device import choose_compute_setup
from sft_cli.model.load import load_model_config
from sft_cli.model.quant import causal_lm

Messages = list[dict[str, Any]]
MARK = "sft question"
"""A text in place of the next question, to find what the template writes before and after it."""
QUESTION_TEMPERATURE = 0.8
"""Temperature of proposed questions if the answers are greedy."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens are chosen: ``sampling`` None takes the most probable ones."""

    sampling: Sampling | None
    seed: int


class ChatModel:
    """A loaded model with its tokenizer as a server loads it, and its stop tokens.

    Attributes:
        stop_ids: Tokens that end an answer.
    """

    def __init__(self, target: ChatTarget, drawing: Drawing, tools: Sequence[dict[str, Any]]) -> None:
        config = target.config
        architecture = load_model_config(config.model)
        machine = choose_compute_setup(config.trainer, architecture, full=config.adapter.kind in WHOLE)
        self._target, self._config, self._machine, self._drawing = target, config, machine, drawing
        self._tools, self._base = list(tools), None
        self._tokenizer = _load_tokenizer(target, architecture)
        self.stop_ids = _stop_ids(target, self._tokenizer)
        if self._tokenizer.chat_template is None:
            problem = "the model's tokenizer has no chat template, so it takes no messages"
            raise SftError(where=target.name, problem=problem, fix="sft chat RUN, or a model that was trained to chat")
        if self._tools and self._render([{"role": "user", "content": MARK}], tools=None) == self._render(
            [{"role": "user", "content": MARK}]
        ):
            problem = "the chat template of the model does not show tools"
            raise SftError(where="--tools", problem=problem, fix="remove --tools")
        if target.run is not None:
            self._model: nn.Module = load_evaluated(evaluated_run(target.run, config), config, machine)
        elif target.adapter is not None:
            self._model = load_adapter(load_plain(config, machine), target.adapter, machine.device)
        else:
            self._model = load_plain(config, machine)

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Return the ids that a server makes of a conversation."""
        return self._tokenizer.apply_chat_template(
            messages,
            tools=self._tools or None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self._config.template.variables,
        )

    def answer(
        self,
        messages: Messages,
        write: Callable[[str], None],
        *,
        number: int,
        base: bool = False,
        temperature: float | None = None,
    ) -> StreamedAnswer:
        """Generate an answer and write it piece by piece.

        Args:
            messages: The conversation.
            write: Called with each piece of text.
            number: Number of the answer in this session, for its seed.
            base: Whether the base model answers.
            temperature: Temperature of this answer instead of the chosen one.

        Raises:
            SftError: The conversation fills the model's context.
        """
        sampling = self._drawing.sampling
        if temperature is not None:
            sampling = replace(sampling, temperature=temperature) if sampling else Sampling(temperature)
        settings = GenerationSettings(tuple(self.stop_ids), self._config.eval.max_new_tokens, 1, sampling)
        seed = answer_seed(self._drawing.seed, "chat", number)
        with self._machine.precision(), self._as_base(base) as model:
            return stream_answer(model, self._tokenizer, self.prompt_ids(messages), settings, write, seed)

    def propose(self, messages: Messages, count: int, number: int) -> list[str]:
        """Return ``count`` sampled questions that could follow; equal and empty ones are removed.

        Args:
            messages: The conversation so far.
            count: Number of samples.
            number: Number of the proposals in this session, for their seed.

        Raises:
            SftError: The model was not trained on user turns, or the template cannot show an open one.
        """
        if self._target.run is not None and self._config.data.train_on not in (TrainOn.all, TrainOn.contents):
            trained = self._config.data.train_on.value
            problem = f"the model was not trained to write user turns (data.train_on={trained})"
            raise SftError(where="--suggest", problem=problem, fix="train with data.train_on=all")
        before, found, after = self._render([*messages, {"role": "user", "content": MARK}], open=False).partition(MARK)
        if not found:
            problem = "the template changes the text of a question"
            raise SftError(where="--suggest", problem=problem, fix="remove --suggest")
        prompt, end = self._tokenizer.encode(before, add_special_tokens=False), after.strip()
        sampling = self._drawing.sampling or Sampling(QUESTION_TEMPERATURE)
        settings = GenerationSettings(
            (*self.stop_ids, *_first_special(self._tokenizer, end)),
            self._config.eval.max_new_tokens,
            count,
            sampling,
            (end,) if end else (),
            self._tokenizer,
        )
        seeds = [answer_seed(self._drawing.seed, f"question {number}", sample) for sample in range(count)]
        with self._machine.precision():
            batches = answer_batches(
                self._model, [prompt] * count, settings, seeds=seeds, pad_id=self.stop_ids[0], world=World()
            )
            answers = {index: answer for batch, found in batches for index, answer in zip(batch, found, strict=True)}
        texts = [self._tokenizer.decode(answers[i].ids, skip_special_tokens=True) for i in sorted(answers)]
        questions = [(text.partition(end)[0] if end else text).strip() for text in texts]
        return list(dict.fromkeys(question for question in questions if question))

    def _render(self, messages: Messages, *, open: bool = True, **changed: Any) -> str:
        """Return the text of a conversation, with the beginning of an answer if ``open``."""
        options = {"tools": self._tools or None, **self._config.template.variables, **changed}
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=open, tokenize=False, **options)

    @contextmanager
    def _as_base(self, base: bool) -> Iterator[nn.Module]:
        """Yield the model, or its base: without the adapter, or loaded once."""
        from peft import PeftModel  # imported after sft_cli.model, which silences a warning

        if not base:
            yield self._model
        elif isinstance(self._model, PeftModel):
            with self._model.disable_adapter():
                yield causal_lm(self._model)  # the wrapper would still count the vectors of prompt tuning
        else:
            assert self._target.run is not None
            if self._base is None:
                self._base = load_base(evaluated_run(self._target.run, self._config), self._config, self._machine)
            yield self._base


def _load_tokenizer(target: ChatTarget, architecture: Any) -> Any:
    """Return the tokenizer as a server loads it."""
    trust = target.config.model.trust_remote_code
    directory = target.directory if target.run is None else target.run.tokenizer
    if directory is not None:
        return server.load_server_tokenizer(directory, architecture, trust_remote_code=trust)
    from transformers import AutoTokenizer

    model = target.config.model
    return AutoTokenizer.from_pretrained(model.path, revision=model.revision, trust_remote_code=trust)


def _stop_ids(target: ChatTarget, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer; for a foreign model without a list of them, the tokenizer's own.

    Raises:
        SftError: There is none.
    """
    if target.run is not None:
        return read_stop_ids(target.run.result)
    directory, ids = target.directory, None
    if directory is not None and (file := directory / "generation_config.json").is_file():
        ids = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    elif directory is None:
        from transformers import GenerationConfig

        model = target.config.model
        try:
            ids = GenerationConfig.from_pretrained(str(model.path), revision=model.revision or "main").eos_token_id
        except OSError:
            ids = None
    ids = [ids] if isinstance(ids, int) else ids or [tokenizer.eos_token_id]
    if ids == [None]:
        return read_stop_ids(directory or Path(target.name))
    return list(ids)


def _first_special(tokenizer: Any, text: str) -> list[int]:
    """Return the first id of a text if it is a special token."""
    ids = tokenizer.encode(text, add_special_tokens=False)[:1] if text else []
    return [id for id in ids if id in tokenizer.all_special_ids]
