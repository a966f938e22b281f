"""`sft chat`: talk to a run's model in the format it was trained in, or ask it one question."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.config.compose import load, with_overrides
from sft_cli.config.overrides.parse import refuse_idle, split_off
from sft_cli.config.paths import absolute
from sft_cli.config.schema.config import Config
from sft_cli.console import clear_status, say
from sft_cli.errors import SftError
from sft_cli.escape import escape_control
from sft_cli.run_dir import RunDir, open_run

OWN = ("run", "prompt", "system")
READ = ("model.path", "model.revision", "model.dtype", "model.trust_remote_code", "trainer.device", "trainer.dtype",
        "eval.max_new_tokens")  # fmt: skip
"""Keys that may differ from the run's config; anything else would have no effect."""
CLEAR = "/clear"


def chat_command(words: Sequence[str], config_dirs: Sequence[str] = ()) -> None:
    """Body of ``sft chat run=DIR [prompt=TEXT] [system=TEXT]``: one answer, or a conversation read line by line."""
    own, rest = split_off(words, OWN)
    refuse_idle("sft chat", rest, own=OWN, read=READ, not_read={}, settable=", ".join((*OWN, *READ)))
    if "run" not in own:
        raise SftError(where="sft chat", problem="no run is named", fix="sft chat run=DIR, as sft train printed it")
    run = open_run(own["run"])
    config = load(run.config)
    config = absolute(with_overrides(config, rest, config_dirs)) if rest else config
    speaker = Speaker(run, config)
    system = own.get("system", config.data.system)
    first = [{"role": "system", "content": system}] if system else []
    if "prompt" in own:
        speaker.answer([*first, {"role": "user", "content": own["prompt"]}])
        return
    messages = list(first)
    for line in _lines():
        if line == CLEAR:
            messages = list(first)
            continue
        messages.append({"role": "user", "content": line})
        messages.append({"role": "assistant", "content": speaker.answer(messages)})


def _lines() -> Iterator[str]:
    """What is typed, or piped, line by line; blank lines are left out."""
    typed = sys.stdin.isatty()
    if typed:
        say(f"chat      one line is one message; {CLEAR} starts a new conversation, Ctrl-D ends")
    while True:
        if typed:
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


class Speaker:
    """A run's model, its tokenizer as a server has it, and its stop tokens."""

    def __init__(self, run: RunDir, config: Config) -> None:
        from sft_cli.chat.template import server
        from sft_cli.config.schema.adapter import WHOLE
        from sft_cli.eval.session import load_tuned, stop_ids
        from sft_cli.model.device import choose_machine
        from sft_cli.model.load import load_config

        architecture = load_config(config.model)
        machine = choose_machine(config.trainer, architecture, whole=config.adapter.kind in WHOLE)
        self._config, self._machine, self._stops = config, machine, stop_ids(run)
        self._tokenizer = server.load_server_tokenizer(
            run.tokenizer, architecture, trust_remote_code=config.model.trust_remote_code
        )
        self._model = load_tuned(run, config, machine)
        clear_status()  # what follows is an answer, which goes to standard output as it is made

    def answer(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The most probable answer, written to standard output while it is made.

        Raises:
            SftError: The conversation fills the model's context.
        """
        from sft_cli.eval.streaming import stream

        ids = self._tokenizer.apply_chat_template(
            list(messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self._config.template.variables,
        )
        said: list[str] = []

        def tell(text: str) -> None:
            said.append(text)
            sys.stdout.write(escape_control(text))
            sys.stdout.flush()

        with self._machine.precision():
            stream(self._model, self._tokenizer, ids, self._stops, self._config.eval.max_new_tokens, tell)
        tell("\n")
        return "".join(said).removesuffix("\n")
