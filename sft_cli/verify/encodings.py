"""Ids of golden conversations through the saved tokenizer, as a program without this package reads it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sft_cli.chat.masks.parity import GoldenPrompt, load_golden_prompts
from sft_cli.chat.template.server import first_difference
from sft_cli.export.references import TextCase, plain_tokenizer, run_cases
from sft_cli.verify.artefact import Artefact
from sft_cli.verify.finding import VerifyFinding

CLEAN_PROCESS = """
import json, sys
from transformers import AutoTokenizer
job = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(job["directory"], trust_remote_code=job["trust_remote_code"])
prompts = [
    tokenizer.apply_chat_template(one["messages"], tools=one["tools"], add_generation_prompt=True, tokenize=True,
                                  return_dict=True, **one["variables"])["input_ids"]
    for one in job["prompts"]
]
texts = [tokenizer.encode(text, add_special_tokens=False) for text in job["texts"]]
json.dump({"prompts": prompts, "texts": texts}, sys.stdout)
"""
"""A program that imports transformers alone."""


def check_encodings(artefact: Artefact, *, trust_remote_code: bool = False) -> Iterator[VerifyFinding]:
    """Yield whether AutoTokenizer in a clean process, and tokenizers alone, give the ids of training."""
    run = artefact.run
    if run is None or not run.tokenizer.is_dir():
        yield VerifyFinding("ids", "skipped", "the run is unknown, so there are no golden conversations: add --run RUN")
        return
    cases, golden = run_cases(run), dated_prompts(artefact)
    yield compare_cases("tokenizers", cases, _plain_ids(artefact, cases))
    try:
        answer = ask_clean_process(artefact, golden, [case.text for case in cases], trust_remote_code)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no output").splitlines()[-1]
        yield VerifyFinding(
            "AutoTokenizer", "failed", f"transformers cannot load the tokenizer: {last}", "export it again"
        )
        return
    prompts = [TextCase(prompt.where, "", prompt.input_ids) for prompt in golden]
    yield compare_cases("chat template", prompts, answer["prompts"])
    yield compare_cases("AutoTokenizer", cases, answer["texts"])


def dated_prompts(artefact: Artefact) -> list[GoldenPrompt]:
    """Return the golden prompts of the run; none of them if the template writes a date and the day has changed."""
    assert artefact.run is not None
    golden = load_golden_prompts(artefact.run.golden) if artefact.run.golden.is_file() else []
    if "strftime_now" not in (artefact.template() or ""):
        return golden
    today = datetime.now().date()
    return [prompt for prompt in golden if datetime.fromisoformat(prompt.now).date() == today]


def _plain_ids(artefact: Artefact, cases: Sequence[TextCase]) -> list[list[int]]:
    """Return the ids of texts through tokenizer.json alone; none if there is no such file."""
    if not (artefact.directory / "tokenizer.json").is_file():
        return []
    tokenizer = plain_tokenizer(artefact.directory)
    return [tokenizer.encode(case.text, add_special_tokens=False).ids for case in cases]


def ask_clean_process(
    artefact: Artefact, golden: Sequence[GoldenPrompt], texts: Sequence[str], trust_remote_code: bool
) -> dict[str, Any]:
    """Return the ids of prompts and texts from a new Python process, which reads nothing from the network.

    Raises:
        subprocess.CalledProcessError: transformers could not load the tokenizer or render a prompt.
    """
    prompts = [{"messages": one.messages, "tools": one.tools, "variables": dict(one.variables)} for one in golden]
    job = {
        "directory": str(artefact.directory.absolute()),
        "prompts": prompts,
        "texts": list(texts),
        "trust_remote_code": trust_remote_code,
    }
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    words = [sys.executable, "-I", "-c", CLEAN_PROCESS]
    done = subprocess.run(words, input=json.dumps(job), capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def compare_cases(check: str, cases: Sequence[TextCase], ids: Sequence[Sequence[int]]) -> VerifyFinding:
    """Return whether ids are those of training, or the first difference."""
    if not cases:
        return VerifyFinding(check, "skipped", "the run has no golden conversations that can be compared today")
    if len(ids) != len(cases):
        return VerifyFinding(check, "failed", "tokenizer.json is missing", "export it again")
    wrong = [(case, found) for case, found in zip(cases, ids, strict=True) if list(found) != case.ids]
    if wrong:
        case, found = wrong[0]
        text = f"{len(wrong)} of {len(cases)} have other ids than in training; {case.where}: "
        return VerifyFinding(check, "failed", text + first_difference(found, case.ids), "export it again")
    return VerifyFinding(check, "ok", f"{len(cases)} have the ids of training")
