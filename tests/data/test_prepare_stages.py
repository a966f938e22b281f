"""The stages of `prepare`: what is done again after a change, and what every row's line says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sft_cli.chat.tokenizer import load_tokenizer
from sft_cli.config.data_schema import BudgetConfig, OnBadRow, Order, SourceConfig, StageConfig, Strategy
from sft_cli.config.schema import Config
from sft_cli.data import workers
from sft_cli.data.making import encoded
from sft_cli.data.prepare import explain, prepare
from sft_cli.errors import SftError

TOKENIZER = Path(__file__).resolve().parents[1] / "golden" / "masks" / "tokenizer"


def rows(name, number):
    return [
        {"instruction": f"{name} question {i}?", "output": f"The answer to {name} is {i * i}."} for i in range(number)
    ]


def write(file, values):
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Makes the config of a run over two sources, ``a`` (30 rows) and ``b`` (12 rows)."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    write(tmp_path / "a.jsonl", rows("a", 30))
    write(tmp_path / "b.jsonl", rows("b", 12))

    def config():
        made = Config(prepared_dir=str(tmp_path / "out"))
        made.model.tokenizer = str(tmp_path / "tokenizer")
        made.template.name = "chatml"
        for name in ("a", "b"):
            made.data.mix[name] = SourceConfig(path=str(tmp_path / f"{name}.jsonl"))
        return made

    return config


def made_parts(home):
    """Every part of every stage with the time it was written."""
    return {
        str(file.relative_to(home)): file.stat().st_mtime_ns
        for file in (home / "stages").rglob("*.arrow")
        if ".partial" not in str(file)
    }


def new_stages(before, after):
    """The stages in which something was made."""
    return sorted({Path(file).parts[1] for file in after if after[file] != before.get(file)})


def ledger(made):
    return [json.loads(line) for line in (made.directory / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def change_weight(config, home):
    config.data.mix["a"].weight = 2.0


def change_strategy(config, home):
    config.data.strategy = Strategy.trained_tokens


def change_fraction(config, home):
    config.data.val_fraction = 0.2


def change_template(config, home):
    config.template.name = "vicuna"


def change_length(config, home):
    config.trainer.max_length = 1024


def change_filter(config, home):
    config.clean.steps = ["leakage", "exact_duplicates", "length"]


def change_last_filter(config, home):
    config.clean.length.min_answer_words = 2


def change_rows_of_b(config, home):
    write(home.parent / "b.jsonl", rows("b", 13))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_weight, []),
        (change_strategy, []),
        (change_fraction, []),
        (change_template, ["encoded"]),
        (change_length, ["encoded"]),
        (change_filter, ["clean"]),
        (change_last_filter, ["clean"]),
        (change_rows_of_b, ["clean", "encoded", "rows"]),
    ],
)
def test_only_what_hangs_on_a_change_is_done_again(config, tmp_path, change, expected):
    first, home = config(), tmp_path / "home"
    first.clean.steps = ["leakage", "length"]
    prepare(first)
    before = made_parts(home)
    second = config()
    second.clean.steps = ["leakage", "length"]
    change(second, home)
    prepare(second)
    after = made_parts(home)
    assert new_stages(before, after) == expected
    if change is change_rows_of_b:
        untouched = {file for file in before if "rows" in file or "encoded" in file}
        assert len(untouched) > 2
        assert all(after[file] == before[file] for file in untouched), "the rows of a are read and encoded once"


def test_explain_names_what_changed_stage_by_stage(config, tmp_path):
    assert explain(config()) == ["nothing was prepared here before: every stage runs"]
    prepare(config())
    names = ["rows a", "rows b", "clean leakage", "encode", "mix"]
    assert explain(config()) == [f"{name:<24} up to date" for name in names]
    changed = config()
    changed.template.name, changed.data.mix["b"].weight = "vicuna", 3.0
    assert explain(changed) == [
        f"{'rows a':<24} up to date",
        f"{'rows b':<24} up to date",
        f"{'clean leakage':<24} up to date",
        f"{'encode':<24} runs again: template changed",
        f"{'mix':<24} runs again: data.mix.b.weight changed",
    ]
    write(tmp_path / "b.jsonl", rows("b", 13))
    assert explain(config()) == [
        f"{'rows a':<24} up to date",
        f"{'rows b':<24} runs again: b.jsonl (data.mix.b) changed",
        f"{'clean leakage':<24} runs again: it depends on rows b",
        f"{'encode':<24} runs again: it depends on rows b",
        f"{'mix':<24} runs again: it depends on rows b",
    ]


def contents(directory):
    """Every file but those that hold the fingerprint or the time."""
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name not in ("manifest.json", "report.html", "state.json", "golden.json")
    }


def test_the_number_of_processes_changes_nothing(config, tmp_path, monkeypatch):
    """Parts of 5 rows, over one and two processes, filters that rewrite rows among the steps."""
    monkeypatch.setattr(encoded, "CHUNK", 5)
    monkeypatch.setattr(workers, "SMALL", 1)
    found = []
    for number in (1, 2):
        monkeypatch.setenv("SFT_HOME", str(tmp_path / f"home{number}"))
        made_config = config()
        made_config.data.workers, made_config.prepared_dir = number, str(tmp_path / f"out{number}")
        made_config.data.val_fraction = 0.2
        made_config.clean.steps = ["exact_duplicates", "pii", "heuristics"]
        made = prepare(made_config)
        found.append((made.manifest["content"], made.manifest["fingerprint"], contents(made.directory)))
    assert found[0][:2] == found[1][:2]
    assert found[0][2].keys() == found[1][2].keys()
    assert [name for name in found[0][2] if found[0][2][name] != found[1][2][name]] == []


def test_files_in_another_order_hold_out_and_sample_the_same_rows(config, tmp_path):
    """The same rows in two files whose names change places."""
    sampled = []
    for number, (first, second) in enumerate([("x.jsonl", "y.jsonl"), ("y.jsonl", "x.jsonl")]):
        folder = tmp_path / f"folder{number}"
        folder.mkdir()
        write(folder / first, rows("p", 20))
        write(folder / second, rows("q", 20))
        made_config = config()
        made_config.prepared_dir = str(tmp_path / f"out{number}")
        made_config.data.mix = {"a": SourceConfig(path=str(folder), max_rows=25, weight=0.5)}
        made_config.data.val_fraction = 0.2
        made = prepare(made_config)
        sides = [(made.train, len(made.train)), (made.validation, len(made.validation))]
        sampled.append(
            [sorted(tuple(split.tokens(i).input_ids.tolist()) for i in range(size)) for split, size in sides]
        )
    assert len(sampled[0][0]) == 10
    assert len(sampled[0][1]) == 5
    assert sampled[0] == sampled[1]


def test_duplicates_and_branches_stay_on_one_side(config, tmp_path):
    tree = {
        "message_tree_id": "t", "tree_state": "ready_for_export",
        "prompt": {"message_id": "1", "role": "prompter", "text": "Which?", "lang": "en", "replies": [
            {"message_id": str(i), "role": "assistant", "text": f"Number {i}.", "lang": "en", "rank": i, "replies": []}
            for i in range(4)
        ]},
    }  # fmt: skip
    other = {**tree, "message_tree_id": "u", "prompt": {**tree["prompt"], "text": "What else?"}}
    write(tmp_path / "trees.jsonl", [tree, other])
    made_config = config()
    made_config.data.mix = {"trees": SourceConfig(path=str(tmp_path / "trees.jsonl"))}
    made_config.data.mix["trees"].tree.paths = "all"
    made_config.data.val_fraction = 0.4
    made = prepare(made_config)
    sides = {}
    for entry in ledger(made):
        sides.setdefault(entry["where"].split("#")[0], set()).add(entry["split"])
    assert sorted(map(sorted, sides.values())) == [["train"], ["validation"]]


def test_filters_are_accounted_for(config, tmp_path):
    write(tmp_path / "a.jsonl", [*rows("a", 8), rows("a", 1)[0], {"instruction": "Mail?", "output": "x@example.org"}])
    made_config = config()
    made_config.clean.steps = ["exact_duplicates", "pii"]
    made = prepare(made_config)
    entries = {entry["where"]: entry for entry in ledger(made)}
    twin, mail = entries["a.jsonl:9"], entries["a.jsonl:10"]
    assert (twin["fate"], twin["reason"], twin["filter"]) == ("dropped", "exact duplicate", "exact_duplicates")
    assert "a.jsonl:1" in twin["detail"]
    assert (mail["fate"], mail["scores"]) == ("used", {"pii": 1.0})
    index = [made.train.where(i) for i in range(len(made.train))].index("a.jsonl:10")
    tokenizer = load_tokenizer(str(made.tokenizer_directory))
    shown = tokenizer.decode_batch([made.train.tokens(index).input_ids.tolist()])[0]
    assert "<EMAIL>" in shown
    assert "example.org" not in shown
    assert [step["filter"] for step in made.manifest["clean"]] == ["exact_duplicates", "pii"]
    assert made.manifest["clean"][0]["dropped"] == {"exact duplicate": 1}


def test_a_row_a_filter_dropped_is_no_reason_to_stop(config, tmp_path):
    write(tmp_path / "a.jsonl", [*rows("a", 8), *rows("a", 8)])
    made_config = config()
    made_config.clean.steps = ["exact_duplicates"]
    assert prepare(made_config).manifest["dropped"] == {"exact duplicate": 8}
    made_config.data.budget = BudgetConfig(filtered=0.1)
    with pytest.raises(SftError, match=r"data\.budget\.filtered: 8 of 28 rows"):
        prepare(made_config)


def test_another_policy_for_bad_rows_reads_the_same_stages(config, tmp_path):
    """Rows that were dropped are told when they are to stop the run, out of the cache."""
    write(tmp_path / "a.jsonl", [*rows("a", 8), {"instruction": "long", "output": "x" * 900}])
    made_config = config()
    made_config.data.overflow, made_config.trainer.max_length = made_config.data.overflow.drop, 256
    made_config.data.budget = BudgetConfig()
    prepare(made_config)
    before = made_parts(tmp_path / "home")
    made_config.data.on_bad_row = OnBadRow.drop
    prepare(made_config)
    assert made_parts(tmp_path / "home") == before


def test_a_curriculum_is_written_for_the_trainer(config):
    made_config = config()
    made_config.data.stages = [
        StageConfig(name="short", share=1.0, mix={"a": 1.0}, order=Order.by_length),
        StageConfig(name="all", share=3.0),
    ]
    made = prepare(made_config)
    short, rest = made.stages
    lengths = made.train.lengths[short.entries]
    assert (short.name, rest.name) == ("short", "all")
    assert (np.diff(lengths) >= 0).all()
    assert {made.train.sources[i] for i in short.entries} == {"a"}
    assert len(short.entries) + len(rest.entries) == 42
    assert [stage["examples"] for stage in made.manifest["stages"]] == [len(short.entries), len(rest.entries)]


def test_what_is_learnt_has_a_digest_of_its_own(config):
    first = prepare(config()).manifest
    licensed = config()
    licensed.data.mix["a"].licence = "MIT"
    second = prepare(licensed).manifest
    heavier = config()
    heavier.data.mix["a"].weight = 2.0
    third = prepare(heavier).manifest
    assert first["fingerprint"] != second["fingerprint"]
    assert first["content"] == second["content"] != third["content"]
