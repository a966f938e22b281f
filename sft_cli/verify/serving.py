"""Golden conversations through a server that is started for them: prompt ids by their number, and greedy answers."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.chat.masks.parity import GoldenPrompt
from sft_cli.config.compose import read_config
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.serve.engine import Engine
from sft_cli.serve.serve import served
from sft_cli.serve.server import RunningServer
from sft_cli.utils.ports import free_port
from sft_cli.verify.artefact import Artefact
from sft_cli.verify.encodings import dated_prompts
from sft_cli.verify.finding import VerifyFinding

MAX_PROMPTS = 16
MAX_NEW_TOKENS = 32
CHECK = "served"


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply: the number of prompt tokens, and the answer."""

    prompt_tokens: int
    answer: str


def check_serving(artefact: Artefact, engine: Engine, timeout: float) -> Iterator[VerifyFinding]:
    """Yield whether a server encodes golden conversations as in training and answers as the saved model does.

    The adapter in a run directory is merged in a temporary directory first.
    """
    if artefact.kind == "gguf":
        yield VerifyFinding(CHECK, "skipped", f"{engine} serves no GGUF file here", artefact.merge_fix)
        return
    prompts = [] if artefact.run is None else dated_prompts(artefact)[:MAX_PROMPTS]
    if artefact.run is None or not prompts:
        text = "the run is unknown: add --run RUN" if artefact.run is None else "the run has no golden conversations"
        yield VerifyFinding(CHECK, "skipped", f"there is nothing to ask: {text}")
        return
    source = _source(artefact)
    if source is None:
        text = "an adapter is served by its run, which merges it"
        yield VerifyFinding(CHECK, "skipped", text, f"sft verify {artefact.run.path} --serve")
        return
    remote_code = read_config(artefact.run.config).model.trust_remote_code
    try:
        with served(source, free_port(), engine, timeout) as server:
            replies = [ask(server, prompt) for prompt in prompts]
            expected = model_answers(server.log.parent / server.model, prompts, trust_remote_code=remote_code)
    except SftError as error:
        yield VerifyFinding(CHECK, "failed", f"{error.where}: {error.problem}", error.fix)
        return
    yield compare_counts(prompts, replies)
    yield compare_replies(prompts, replies, expected)


def _source(artefact: Artefact) -> RunDir | Path | None:
    """Return what to serve for an artefact: its directory, or the run that merges its adapter; None for a copy of it.

    A copy of an adapter may have been changed, so the run's own would not show how it behaves.
    """
    if artefact.kind == "model":
        return artefact.directory
    run = artefact.run
    return run if run is not None and artefact.directory.resolve() == run.adapter.resolve() else None


def ask(server: RunningServer, prompt: GoldenPrompt) -> Reply:
    """Return the greedy answer of a server to a golden conversation.

    Raises:
        SftError: The server refuses the conversation.
    """
    body: dict[str, Any] = {
        "model": server.model,
        "messages": prompt.messages,
        "temperature": 0,
        "max_tokens": MAX_NEW_TOKENS,
    }
    body |= {"tools": prompt.tools} if prompt.tools else {}
    body |= {"chat_template_kwargs": dict(prompt.variables)} if prompt.variables else {}
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=600) as reply:
            data = json.load(reply)
    except (urllib.error.URLError, OSError) as error:
        reason = error.read().decode(errors="replace")[:300] if isinstance(error, urllib.error.HTTPError) else error
        raise SftError(
            where=prompt.where, problem=f"the server does not answer: {reason}", fix="sft serve RUN shows the server"
        ) from error
    return Reply(data["usage"]["prompt_tokens"], data["choices"][0]["message"].get("content") or "")


def model_answers(directory: Path, prompts: Sequence[GoldenPrompt], *, trust_remote_code: bool) -> list[str]:
    """Return the greedy answers of a saved model to the ids that it was trained on."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    remote = {"trust_remote_code": trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(directory, **remote)
    loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", **remote)
    model = loaded.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt.input_ids], device=model.device)
        mask = torch.ones_like(ids)
        made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        answers.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return answers


def compare_counts(prompts: Sequence[GoldenPrompt], replies: Sequence[Reply]) -> VerifyFinding:
    """Return whether the server's numbers of prompt tokens are those of training."""
    check = f"{CHECK} prompts"
    pairs = list(zip(prompts, replies, strict=True))
    wrong = [(prompt, reply) for prompt, reply in pairs if reply.prompt_tokens != len(prompt.input_ids)]
    if not wrong:
        return VerifyFinding(check, "ok", f"{len(prompts)} have as many tokens as in training")
    prompt, reply = wrong[0]
    text = f"{len(wrong)} of {len(prompts)} have other numbers of tokens than in training; {prompt.where}:"
    return VerifyFinding(
        check, "failed", f"{text} {reply.prompt_tokens} instead of {len(prompt.input_ids)}", "export it again"
    )


def compare_replies(
    prompts: Sequence[GoldenPrompt], replies: Sequence[Reply], expected: Sequence[str]
) -> VerifyFinding:
    """Return whether the server's greedy answers are those of the saved model.

    Servers cut the white space at either end of an answer, which is not compared.
    """
    check = f"{CHECK} answers"
    triples = list(zip(prompts, replies, expected, strict=True))
    wrong = [(prompt, reply, text) for prompt, reply, text in triples if reply.answer.strip() != text.strip()]
    if not wrong:
        return VerifyFinding(check, "ok", f"{len(prompts)} greedy answers are those of the saved model")
    prompt, reply, text = wrong[0]
    return VerifyFinding(
        check,
        "failed",
        f"{len(wrong)} of {len(prompts)} greedy answers differ; {prompt.where}: {reply.answer[:60]!r} instead of"
        f" {text[:60]!r}",
        "look at the template and the generation_config.json of the directory, or export it again",
    )
