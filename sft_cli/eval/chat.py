"""A conversation with the model of a run, in the chat format of its training."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sft_cli.config.compose import read_config, with_overrides
from sft_cli.config.overrides.parse import reject_unused
from sft_cli.config.paths import absolute
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.errors import SftError
from sft_cli.escape import escape_control
from sft_cli.progress import clear_progress
from sft_cli.run_dir import RunDir

Messages = list[dict[str, Any]]

READ = ("model.path", "model.revision", "model.dtype", "model.trust_remote_code", "trainer.device", "trainer.dtype",
        "eval.max_new_tokens")  # fmt: skip
"""Keys that may differ from the run's config; anything else would have no effect."""
CHAT_COMMANDS = {
    "/clear": "start a new conversation",
    "/help": "list these commands",
    "/exit": "end, like Ctrl-D",
}
"""Lines that are not messages, and what they do."""
PROMPT = "> "


def is_plain_model(directory: Path) -> bool:
    """Return whether a directory holds a whole model and no run, such as one that ``sft merge`` wrote."""
    inside = any((folder / "config.yaml").is_file() for folder in (directory, *directory.parents))
    return not inside and (directory / "config.json").is_file()


def chat_config(run: RunDir, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the config of a run, or of a plain model, with the overrides of ``sft chat``.

    Raises:
        SftError: An override would have no effect on a conversation.
    """
    reject_unused("sft chat", overrides, read=READ, not_read={}, settable=", ".join(READ))
    plain = Config(model=ModelConfig(path=str(run.path)))
    config = plain if is_plain_model(run.path) else read_config(run.config)
    return absolute(with_overrides(config, overrides, config_dirs)) if overrides else config


def converse(run: RunDir, config: Config, *, prompt: str | None, system: str | None) -> None:
    """Answer one prompt, or a conversation that is read line by line from standard input.

    Args:
        run: The run, or the directory of a plain model.
        config: Its config.
        prompt: The prompt; None reads lines from standard input.
        system: The system message, if any.
    """
    model = ChatModel(run, config)
    first = [{"role": "system", "content": system}] if system else []
    if prompt is not None:
        model.answer([*first, {"role": "user", "content": prompt}])
        return
    messages, is_typed = list(first), sys.stdin.isatty()
    for line in _typed_lines() if is_typed else sys.stdin:
        line = line.strip()
        if line == "/exit":
            return
        if line == "/clear":
            messages = list(first)
        elif line == "/help":
            _note("\n".join(f"{name:<10}{meaning}" for name, meaning in CHAT_COMMANDS.items()))
        elif line:
            messages = _continue(model, messages, line, is_typed=is_typed)


def _continue(model: "ChatModel", messages: Messages, line: str, *, is_typed: bool) -> Messages:
    """Answer a message; return the conversation with both, or as it was if a typed message does not fit."""
    asked = [*messages, {"role": "user", "content": line}]
    try:
        return [*asked, {"role": "assistant", "content": model.answer(asked, stop_on_ctrl_c=is_typed)}]
    except SftError as error:
        if not is_typed:
            raise
        _note(f"error: {error}")
        return messages


def _typed_lines() -> Iterator[str]:
    """Yield the lines that a person types; the prompt does not go to standard output unless it is a terminal."""
    _note("chat      one line is one message; Ctrl-C stops an answer, Ctrl-D ends, /help lists the commands")
    on_screen = sys.stdout.isatty()
    if on_screen:
        import readline  # noqa: F401  # lets input() edit lines and recall earlier ones
    while True:
        if not on_screen:
            print(PROMPT, end="", file=sys.stderr, flush=True)
        try:
            yield input(PROMPT if on_screen else "")
        except EOFError:
            _note("")
            return


def _note(text: str) -> None:
    """Print a text that is no answer, on standard error."""
    clear_progress()
    print(escape_control(text), file=sys.stderr, flush=True)


class ChatModel:
    """The model of a run, or a plain model, its tokenizer as a server loads it, and its stop tokens."""

    def __init__(self, run: RunDir, config: Config) -> None:
        from sft_cli.chat.template import server
        from sft_cli.config.schema.adapter import WHOLE
        from sft_cli.eval.evaluated import evaluated_run, read_stop_ids
        from sft_cli.eval.session import load_evaluated, load_plain
        from sft_cli.model.device import choose_compute_setup
        from sft_cli.model.load import load_model_config

        architecture = load_model_config(config.model)
        machine = choose_compute_setup(config.trainer, architecture, full=config.adapter.kind in WHOLE)
        plain = is_plain_model(run.path)
        self._config, self._machine = config, machine
        model = None if plain else evaluated_run(run, config)
        self._stops = read_stop_ids(run.path) if model is None else list(model.stop_ids)
        self._tokenizer = server.load_server_tokenizer(
            run.path if plain else run.tokenizer, architecture, trust_remote_code=config.model.trust_remote_code
        )
        self._model = load_plain(config, machine) if model is None else load_evaluated(model, config, machine)
        clear_progress()  # from now on only answers are printed

    def answer(self, messages: Messages, *, stop_on_ctrl_c: bool = False) -> str:
        """Generate the greedy answer, write it to standard output while it is generated, and return it.

        Args:
            messages: The conversation.
            stop_on_ctrl_c: Whether Ctrl-C ends the answer rather than the command.

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

        limit, cut = self._config.eval.max_new_tokens, False
        try:
            with self._machine.precision():
                cut = stream_answer(self._model, self._tokenizer, ids, self._stops, limit, write)
        except KeyboardInterrupt:
            if not stop_on_ctrl_c:
                raise
        write("\n")
        if cut:
            _note(f"warning: the answer was cut after eval.max_new_tokens={limit}")
        return "".join(pieces).removesuffix("\n")
