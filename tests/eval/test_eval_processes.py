"""Two processes share the items of an evaluation; the results are those of one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.distributed.process_group import World
from sft_cli.distributed.rank_env import RankInfo
from sft_cli.eval.engine.run import places, shared_items
from sft_cli.suites.items import LoadedSuite, load_suite
from sft_cli.suites.results import SuiteResults
from tests.eval.conftest import QUESTIONS

FILES = ("answers.jsonl", "verdicts.jsonl", "scores.json", "suite.json")


@pytest.fixture
def options(tmp_path):
    """Directory of options with a suite of two turns, and one of choices."""
    rows = [{"name": name, "city": city, "others": sorted(QUESTIONS.values()), "n": number}
            for number, (name, city) in enumerate(QUESTIONS.items())]  # fmt: skip
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "options" / "eval"
    folder.mkdir(parents=True)
    common = f'path: {tmp_path}/items.jsonl\n    prompt: "What is the capital of {{{{ name }}}}?"'
    (folder / "cities.yaml").write_text(
        f'suites:\n  cities:\n    {common}\n    target: "{{{{ city }}}}"\n    max_new_tokens: 12\n'
        "    second_prompt: Are you sure?\n    samples: 2\n    temperature: 0.7\n"
    )
    (folder / "pick.yaml").write_text(
        f"suites:\n  pick:\n    kind: choices\n    {common}\n"
        '    choices: "{{ others }}"\n    gold: "{{ city }}"\n'
    )
    return tmp_path / "options"


def sft_eval(run: Path, options: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sft_cli", "eval", str(run), "-d", str(options), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def results(run: Path) -> dict[str, dict[str, str]]:
    """The content of the files of each suite; log-likelihoods without their last digits."""
    found = {}
    for path in sorted(run.glob("eval/*/suite.json")):
        texts = {name: (path.parent / name).read_text() for name in FILES}
        lines = [json.loads(line) for line in texts["answers.jsonl"].splitlines()]
        for choice in (choice for line in lines for choice in line.get("choices", ())):
            choice["logprob"] = round(choice["logprob"], 4)
        found[path.parent.name] = texts | {"answers.jsonl": json.dumps(lines)}
    return found


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(run_of, options):
    words = ["eval=[heldout,cities,pick]", "--compare", "base"]
    one = run_of("lora")
    two = one.with_name("lora-2")

    shutil.copytree(one, two)
    alone = sft_eval(one, options, *words)
    assert alone.returncode == 0
    done = sft_eval(two, options, *words, "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exact_match") == alone.stdout.count("exact_match")
    assert len(results(one)) == 4
    assert results(two) == results(one)
    assert not list(two.glob("eval/*/*.part.jsonl"))
    reports = [json.loads((run / "eval/heldout.json").read_text()) for run in (one, two)]
    for report in reports:
        report.pop("model")
        for model in ("metrics", "base"):
            for scores in (report[model], *report[model].pop("sources").values()):
                scores["loss"], scores["perplexity"] = round(scores["loss"], 5), round(scores["perplexity"], 2)
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_a_limit_stops_all_processes_and_a_mistake_is_reported_once(run_of, options):
    run = run_of("lora")
    stopped = sft_eval(run, options, "eval=cities", "eval.max_tokens=1", "eval.batch_size=1", "--processes", "2")
    assert stopped.returncode == 0, stopped.stderr
    assert "eval.max_tokens=1 is reached" in stopped.stdout
    (file,) = run.glob("eval/cities-*/answers.jsonl")
    kept = file.read_text().splitlines()
    assert len(kept) == 2  # one of each process
    assert sft_eval(run, options, "eval=cities", "--processes", "2").returncode == 0
    assert set(kept) < set(file.read_text().splitlines())
    wrong = sft_eval(run, options, "eval=cities", "eval.suites.cities.scorers=[exact_mach]", "--processes", "2")
    assert wrong.returncode == 2
    assert wrong.stderr.count("unknown metric") == 1


def suite(tmp_path, samples: int = 3) -> LoadedSuite:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "{n}"}}\n' for n in range(5)))
    config = SuiteConfig(path=str(tmp_path / "rows.jsonl"), samples=samples, temperature=1.0)
    return load_suite("s", config)


def test_the_shares_of_processes_hold_each_item_once_with_all_its_samples(tmp_path):
    loaded = suite(tmp_path)
    entries = {entry.item.id: entry for entry in loaded.items}
    pending = [(entries[id], sample) for id, sample in places(loaded)]
    shares = [shared_items(pending, World(RankInfo(rank, 2))) for rank in (0, 1)]
    ids = [{entry.item.id for entry, _ in share} for share in shares]
    assert not ids[0] & ids[1]
    assert [len(share) for share in shares] == [9, 6]
    assert shared_items(pending, World()) == pending


def test_answers_of_processes_are_read_together_and_sorted_into_one_file(tmp_path):
    results = SuiteResults(tmp_path)
    results.append_answers([{"id": "b", "sample": 0}], 1)
    results.append_answers([{"id": "a", "sample": 0}])
    with (tmp_path / "answers-1.part.jsonl").open("a") as stream:
        stream.write('{"id": "c", "sam')
    assert [record["id"] for record in results.read_answers()] == ["a", "b"]
    assert [record["id"] for record in results.sort_answers([("b", 0), ("a", 0)])] == ["b", "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]
