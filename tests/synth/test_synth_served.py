"""``sft synth`` with a teacher that a real OpenAI-compatible server serves."""

import json

import pytest

from sft_cli.cli.program import execute
from tests.served import copy_quickstart, transformers_serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_served_teacher_answers_prompts(tmp_path, capsys):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    model, out = copy_quickstart(tmp_path / "teacher"), tmp_path / "made"
    with transformers_serve(tmp_path) as (url, _):
        words = [
            "synth",
            "synth.prompts.path=builtin:quickstart/train.jsonl",
            "synth.prompts.prompt={{ instruction }} {{ input }}",
            "synth.prompts.limit=6",
            "synth.systems=[explain,none]",
            "synth.teacher.engine=openai",
            f"synth.teacher.endpoint.url={url}",
            f"synth.teacher.endpoint.model={model}",
            "synth.teacher.endpoint.concurrency=2",
            "synth.teacher.endpoint.price_output=1",
            "synth.teacher.max_new_tokens=6",
        ]
        execute([*words, "--out", str(out), "--preview", "2"])
        assert "about 6 requests" in capsys.readouterr().out
        execute([*words, "--out", str(out)])
    replies = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(replies) == manifest["requests"] == 6
    assert manifest["input_tokens"] == sum(reply["input_tokens"] for reply in replies) > 0
    assert manifest["cost"] == pytest.approx(manifest["output_tokens"] / 1e6)
    # The base model has not learned to stop, so that most answers are cut.
    assert sum(manifest["counts"].values()) == 6
    assert "terms" in manifest["terms"]
    assert "explain" in manifest["prompts"]
