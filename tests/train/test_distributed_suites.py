"""Suites during training in two processes, with whole and with sharded models: the figures of one process."""

import json

import pytest

from tests.train.distributed_helpers import TrainingProcesses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def training_answers(run):
    """Return the answers and the likelihoods of choices by step and suite."""
    files = sorted(run.glob("eval/training/step-*/*/answers.jsonl"))
    return {
        (file.parents[1].name, file.parent.name.split("-")[0]): [
            (line["id"], line["answer"], [choice["logprob"] for choice in line.get("choices", [])])
            for line in map(json.loads, file.read_text().splitlines())
        ]
        for file in files
    }


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_give_the_answers_of_one(runs, tmp_path, kind):
    rows = [{"question": f"question {n}", "options": ["yes", "no no", "b"], "gold": n % 3} for n in range(6)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"{key}={value}" for name in ("few", "pick") for key, value in {
        f"eval.suites.{name}.path": tmp_path / "items.jsonl", f"eval.suites.{name}.prompt": "{{ question }}",
    }.items()]  # fmt: skip
    words += [
        "eval.suites.few.target=yes", "eval.suites.few.max_new_tokens=6", "eval.suites.pick.kind=choices",
        "eval.suites.pick.choices={{ options }}", "eval.suites.pick.gold={{ gold }}",
        "trainer.eval_suites=[few,pick]", "trainer.best=few.exact_match + pick.acc", "trainer.dtype=float32",
        "trainer.max_steps=2", "trainer.eval_every=1", "adapter=none", "trainer.lr=1e-3",
    ]  # fmt: skip
    found = {}
    for size in (1, 2):
        own = [f"distributed={kind}"] if size > 1 else []
        home = str(tmp_path / "home")
        processes = TrainingProcesses(
            [*runs.words(f"run-{size}"), *words, *own], size, tmp_path / f"logs-{size}", SFT_HOME=home
        )
        assert processes.wait() == [0] * size, processes.output()
        found[size] = training_answers(tmp_path / f"run-{size}")
    assert list(found[1]) == [("step-1", "few"), ("step-1", "pick"), ("step-2", "few"), ("step-2", "pick")]
    assert found[1].keys() == found[2].keys()
    for key, lines in found[1].items():
        assert len(lines) == 6
        for (id, answer, values), (other_id, other_answer, others) in zip(lines, found[2][key], strict=True):
            assert (id, answer) == (other_id, other_answer)
            assert values == pytest.approx(others, abs=1e-4)
