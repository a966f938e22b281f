"""`sft eval eval.engine=openai` with a real server (``transformers serve``): its answers are those of the local engine,
and a killed evaluation continues.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.served import copy_quickstart, transformers_serve, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NUMBER, LONGEST = 12, 24
COUNTRIES = ["France", "Japan", "Peru", "Cuba", "Italy", "Spain", "Chile", "Norway", "Egypt", "Kenya", "India", "Laos"]


def sft_eval(options: Path, out: Path, target: str, *words: str) -> list[str]:
    chosen = ["-d", str(options), "eval=facts", "--out", str(out), *words]
    return [sys.executable, "-m", "sft_cli", "eval", target, *chosen]


def lines_of(out: Path) -> list[dict]:
    """The whole lines of the answers."""
    files = list(out.glob("eval/facts-*/answers.jsonl"))
    found = files[0].read_text().splitlines(keepends=True) if files else []
    return [json.loads(line) for line in found if line.endswith("\n")]


@pytest.fixture
def options(tmp_path):
    """Directory of options with a suite of questions."""
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"id": name}) + "\n" for name in COUNTRIES))
    folder = tmp_path / "options" / "eval"
    folder.mkdir(parents=True)
    (folder / "facts.yaml").write_text(
        f'suites:\n  facts:\n    path: {tmp_path}/items.jsonl\n    id: "{{{{ id }}}}"\n'
        f'    prompt: "What is the capital of {{{{ id }}}}?"\n    target: "{{{{ id }}}}"\n'
        f"    max_new_tokens: {LONGEST}\n"
    )
    return tmp_path / "options"


def test_a_served_model_answers_as_the_local_engine_and_a_killed_evaluation_continues(tmp_path, options):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    model = copy_quickstart(tmp_path / "model")
    here, whole, killed = (tmp_path / name for name in ("here", "whole", "killed"))
    subprocess.run(sft_eval(options, here, str(model)), check=True)
    local = {line["id"]: line for line in lines_of(here)}
    assert len(local) == len(COUNTRIES) == NUMBER
    assert len({line["answer"] for line in local.values()}) > 3
    with transformers_serve(tmp_path) as (url, log):
        words = ["eval.engine=openai", f"eval.endpoint.url={url}", f"eval.endpoint.model={model}"]
        subprocess.run(sft_eval(options, whole, str(model), *words), check=True)
        served = {line["id"]: line for line in lines_of(whole)}
        for name, line in local.items():
            assert (served[name]["answer"], served[name]["num_tokens"]) == (line["answer"], line["num_tokens"])
            # The server counts a stop token in the last place as the end by length.
            assert served[name]["stopped"] == (line["stopped"] and line["num_tokens"] < LONGEST)
            assert served[name]["input_tokens"] > 0
        asked = log.read_text().count("/v1/chat/completions")

        process = subprocess.Popen(sft_eval(options, killed, str(model), *words, "eval.endpoint.concurrency=1"))
        wait_for(lambda: len(lines_of(killed)) >= 3, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = lines_of(killed)
        assert 3 <= len(kept) < NUMBER
        subprocess.run(sft_eval(options, killed, str(model), *words), check=True)
        again = log.read_text().count("/v1/chat/completions") - asked
    assert {line["id"]: line["answer"] for line in lines_of(killed)} == {
        name: line["answer"] for name, line in served.items()
    }
    assert [line for line in lines_of(killed) if line["id"] in {one["id"] for one in kept}] == sorted(
        kept, key=lambda line: COUNTRIES.index(line["id"])
    )
    assert again <= NUMBER + 2  # at most the requests on their way were lost
