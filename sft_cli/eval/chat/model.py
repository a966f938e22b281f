"""The model of a conversation: prompts as served, streamed answers, the base for comparison, proposed questions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sft_cli.chat.template import server
from sft_cli.config.schema.data import TrainOn
from sft_cli.distributed.process_group import World
from sft_cli.errors import SftError
from sft_cli.eval.chat.target import ChatTarget
from sft_cli.eval.engine.sampling import Sampling, answer_seed
from sft_cli.eval.generate import GenerationSettings, answer_batches
from sft_cli.eval.session import load_base, load_evaluated
from sft_cli.eval.streaming import StreamedAnswer, stream_answer
from sft_cli.model.device import choose_compute_setup
from sft_cli.model.load import load_model_config
from sft_cli.model.quant import causal_lm

Messages = list[dict[str, Any]]
MARK = "sft question"
"""A text in place of the next question, to find what the template writes before and after it."""
QUESTION_TEMPERATURE = 0.8
"""Temperature of proposed questions if the answers are greedy."""


@dataclass(frozen=True, slots=True)
class ChatSampling:
    """How tokens are chosen: ``sampling`` None takes the most probable ones."""

    sampling: Sampling | None
    seed: int


class ChatModel:
    """A loaded model with its tokenizer as a server loads it, and its stop tokens.

    Attributes:
        stop_ids: Tokens that end an answer.
    """

    def __init__(self, target: ChatTarget, drawing: ChatSampling, tools: Sequence[dict[str, Any]]) -> None:
        config, evaluated = target.config, target.evaluated()
        architecture = load_model_config(evaluated.architecture)
        machine = choose_compute_setup(config.trainer, architecture, full=evaluated.full)
        self._target, self._config, self._machine, self._drawing = target, config, machine, drawing
        self._evaluated, self._tools, self._base = evaluated, list(tools), None
        trust = config.model.trust_remote_code
        self._tokenizer = server.load_server_tokenizer(evaluated.tokenizer, architecture, trust_remote_code=trust)
        self.stop_ids = list(evaluated.stop_ids)
        if self._tools and self._render([{"role": "user", "content": MARK}], tools=None) == self._render(
            [{"role": "user", "content": MARK}]
        ):
            problem = "the chat template of the model does not show tools"
            raise SftError(where="--tools", problem=problem, fix="remove --tools")
        self._model: nn.Module = load_evaluated(evaluated, config, machine)

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

    def check_proposals(self) -> None:
        """Refuse to propose questions by a run that was not trained on user turns."""
        if self._target.is_run and self._config.data.train_on not in (TrainOn.all, TrainOn.contents):
            trained = self._config.data.train_on.value
            problem = f"the model was not trained to write user turns (data.train_on={trained})"
            raise SftError(where="--suggest", problem=problem, fix="train with data.train_on=all")

    def propose(self, messages: Messages, count: int, number: int) -> list[str]:
        """Return ``count`` sampled questions that could follow; equal and empty ones are removed.

        Args:
            messages: The conversation so far.
            count: Number of samples.
            number: Number of the proposals in this session, for their seed.

        Raises:
            SftError: The model was not trained on user turns, or the template cannot show an open one.
        """
        self.check_proposals()
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
            if self._base is None:
                self._base = load_base(self._evaluated, self._config, self._machine)
            yield self._base


def _first_special(tokenizer: Any, text: str) -> list[int]:
    """Return the first id of a text if it is a special token."""
    ids = tokenizer.encode(text, add_special_tokens=False)[:1] if text else []
    return [id for id in ids if id in tokenizer.all_special_ids]
