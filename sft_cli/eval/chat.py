"""A conversation with the model of a run, in the chat format of its training."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.config.compose import read_config, with_overrides
from sft_cli.config.overrides.parse import reject_unused
from sft_cli.config.paths import absolute
from sft_cli.config.schema.config import Config
from sft_cli.console import say
from sft_cli.escape import escape_control
from sft_cli.progress import clear_progress
from sft_cli.run_dir import RunDir

READ = ("model.path", "model.revision", "model.dtype", "model.trust_remote_code", "trainer.device", "trainer.dtype",
        "eval.max_new_tokens")  # fmt: skip
"""Keys that may differ from the run's config; anything else would have no effect."""
CLEAR_COMMAND = "/clear"


def chat_config(run: RunDir, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the run's config with the overrides of ``sft chat``.

    Raises:
        SftError: An override would have no effect on a conversation.
    """
    reject_unused("sft chat", overrides, read=READ, not_read={}, settable=", ".join(READ))
    config = read_config(run.config)
    return absolute(with_overrides(config, overrides, config_dirs)) if overrides else config


def converse(run: RunDir, config: Config, *, prompt: str | None, system: str | None) -> None:
    """Answer one prompt, or a conversation that is read line by line from standard input.

    Args:
        run: The run.
        config: Its config.
        prompt: The prompt; None reads lines from standard input.
        system: The system message, if any.
    """
    model = ChatModel(run, config)
    first = [{"role": "system", "content": system}] if system else []
    if prompt is not None:
        model.answer([*first, {"role": "user", "content": prompt}])
        return
    messages = list(first)
    for line in _read_lines():
        if line == CLEAR_COMMAND:
            messages = list(first)
            continue
        messages.append({"role": "user", "content": line})
        messages.append({"role": "assistant", "content": model.answer(messages)})


def _read_lines() -> Iterator[str]:
    """Yield the lines of standard input without blank ones."""
    interactive = sys.stdin.isatty()
    if interactive:
        say(f"chat      one line is one message; {CLEAR_COMMAND} starts a new conversation, Ctrl-D ends")
    while True:
        if interactive:
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


class ChatModel:
    """A run's model, its tokenizer as a server loads it, and its stop tokens."""

    def __init__(self, run: RunDir, config: Config) -> None:
        from sft_cli.chat.template import server
        from sft_cli.config.schema.adapter import WHOLE
        from sft_cli.eval.session import load_tuned, read_stop_ids
        from sft_cli.model.device import choose_compute_setup
        from sft_cli.model.load import load_model_config

        architecture = load_model_config(config.model)
        machine = choose_compute_setup(config.trainer, architecture, full=config.adapter.kind in WHOLE)
        self._config, self._machine, self._stops = config, machine, read_stop_ids(run)
        self._tokenizer = server.load_server_tokenizer(
            run.tokenizer, architecture, trust_remote_code=config.model.trust_remote_code
        )
        self._model = load_tuned(run, config, machine)
        clear_progress()  # from now on only answers are printed

    def answer(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Generate the greedy answer, write it to standard output while it is generated, and return it.

        Raises:
            SftError: The conversation fills the model's context.
        """
        from sft_cli.eval.streaming import stream_answer

        ids = self._tokenizer.apply_chat_template(
            list(messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self._config.template.variables,
        )
        pieces: list[str] = []

        def write(text: str) -> None:
            """Print a piece of the answer and keep it."""
            pieces.append(text)
            sys.stdout.write(escape_control(text))
            sys.stdout.flush()

        with self._machine.precision():
            stream_answer(self._model, self._tokenizer, ids, self._stops, self._config.eval.max_new_tokens, write)
        write("\n")
        return "".join(pieces).removesuffix("\n")
