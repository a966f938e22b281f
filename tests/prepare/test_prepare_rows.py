"""Rows in `prepare`: their split, filters and the mix, and messages about them."""

import itertools
import json
import re
import time

import numpy as np
import pytest

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.clean import Action
from sft_cli.config.schema.data import BudgetConfig, Order, Overflow, Role, SourceConfig, StageConfig
from sft_cli.errors import Mistakes, SftError
from sft_cli.prepare import write_stage
from sft_cli.prepare.prepare import prepare_data
from tests.prepare.helpers import make_rows, read_ledger, write_jsonl


def test_split_and_sample_do_not_depend_on_file_order(config, tmp_path):
    """The same rows in two files whose names are swapped."""
    sampled = []
    for number, (first, second) in enumerate([("x.jsonl", "y.jsonl"), ("y.jsonl", "x.jsonl")]):
        folder = tmp_path / f"folder{number}"
        folder.mkdir()
        write_jsonl(folder / first, make_rows("p", 20))
        write_jsonl(folder / second, make_rows("q", 20))
        made_config = config()
        made_config.prepared_dir = str(tmp_path / f"out{number}")
        made_config.data.mix = {"a": SourceConfig(path=str(folder), max_rows=25, weight=0.5)}
        made_config.data.val_fraction = 0.2
        result = prepare_data(made_config)
        sides = [(result.train, len(result.train)), (result.validation, len(result.validation))]
        sampled.append(
            [sorted(tuple(split.tokens(i).input_ids.tolist()) for i in range(size)) for split, size in sides]
        )
    assert len(sampled[0][0]) == 10
    assert len(sampled[0][1]) == 5
    assert sampled[0] == sampled[1]


def node(role, text, *replies):
    """Return a message of a tree; the first answer has the best rank."""
    ranked = [{**node, "rank": rank} for rank, node in enumerate(replies)]
    return {"message_id": text, "role": role, "text": text, "lang": "en", "replies": ranked}


def test_branches_of_a_tree_are_in_one_split(config, tmp_path):
    """Their prompts differ from the second answer on; only their tree keeps them together."""
    trees = []
    for name in ("t", "u", "v"):
        branches = [
            node("assistant", f"{name}{i}!", node("prompter", f"{name}{i}, why?", node("assistant", f"{name}{i}, so.")))
            for i in range(4)
        ]
        root = node("prompter", f"{name}?", *branches)
        trees.append({"message_tree_id": name, "tree_state": "ready_for_export", "prompt": root})
    write_jsonl(tmp_path / "trees.jsonl", trees)
    made_config = config()
    made_config.data.mix = {"trees": SourceConfig(path=str(tmp_path / "trees.jsonl"))}
    made_config.data.mix["trees"].tree.paths = "all"
    made_config.data.val_fraction = 0.34
    sides = {}
    for entry in read_ledger(prepare_data(made_config)):
        sides.setdefault(entry["where"].split("#")[0], set()).add(entry["split"])
    assert sorted(map(sorted, sides.values())) == [["train"], ["train"], ["validation"]]


@pytest.mark.parametrize("chunk", [3, 5000])
def test_filtered_rows_are_in_the_ledger(config, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(write_stage, "CHUNK", chunk)
    write_jsonl(
        tmp_path / "a.jsonl",
        [*make_rows("a", 8), make_rows("a", 1)[0], {"instruction": "Mail?", "output": "x@example.org"}],
    )
    made_config = config()
    made_config.clean.steps = ["exact_duplicates", "pii"]
    result = prepare_data(made_config)
    entries = {entry["where"]: entry for entry in read_ledger(result)}
    twin, mail = entries["a.jsonl:9"], entries["a.jsonl:10"]
    assert (twin["fate"], twin["reason"], twin["filter"]) == ("dropped", "exact duplicate", "exact_duplicates")
    assert "a.jsonl:1" in twin["detail"]
    assert (mail["fate"], mail["scores"]) == ("used", {"pii": 1.0})
    index = [result.train.where(i) for i in range(len(result.train))].index("a.jsonl:10")
    tokenizer = load_tokenizer(str(result.tokenizer_directory))
    shown = tokenizer.decode_batch([result.train.tokens(index).input_ids.tolist()])[0]
    assert "<EMAIL>" in shown
    assert "example.org" not in shown
    assert [step["filter"] for step in result.manifest["clean"]] == ["exact_duplicates", "pii"]
    assert result.manifest["clean"][0]["dropped"] == {"exact duplicate": 1}


def test_ledger_score_has_the_configured_name(config, tmp_path):
    """This includes a score that a filter with another name measured before it dropped the row."""
    write_jsonl(tmp_path / "a.jsonl", [{**row, "stars": i % 5} for i, row in enumerate(make_rows("a", 10))])
    made_config = config()
    made_config.data.mix = {"a": SourceConfig(path=str(tmp_path / "a.jsonl"), scores={"judge": "stars"})}
    made_config.clean.steps = ["quality"]
    made_config.clean.quality.score, made_config.clean.quality.min_score = "judge", 2.0
    entries = read_ledger(prepare_data(made_config))
    assert [entry["fate"] for entry in entries[:5]] == ["dropped", "dropped", "used", "used", "used"]
    assert [entry["scores"] for entry in entries[:5]] == [{"judge": float(i)} for i in range(5)]


@pytest.mark.slow
def test_model_scores_filter_and_sort_rows(config, tmp_path):
    made_config = config()
    made_config.data.mix = {"a": made_config.data.mix["a"]}
    made_config.clean.steps = ["perplexity"]
    made_config.clean.perplexity.model = "builtin:quickstart/model"
    made_config.data.stages = [StageConfig(order=Order.by_difficulty, difficulty="ifd")]
    free = {entry["where"]: entry["scores"] for entry in read_ledger(prepare_data(made_config))}
    assert all(set(scores) == {"perplexity", "ifd"} and scores["perplexity"] >= 1 for scores in free.values())
    middle = float(np.median([scores["ifd"] for scores in free.values()]))
    made_config.clean.perplexity.max_score = middle
    result = prepare_data(made_config)
    entries = read_ledger(result)
    assert {entry["fate"] for entry in entries if entry["scores"]["ifd"] > middle} == {"dropped"}
    order = [free[result.train.where(i)]["ifd"] for i in result.stages[0].entries]
    assert len(order) == 15
    assert order == sorted(order)
    assert [entry["scores"] for entry in entries if entry["fate"] == "dropped"] == [
        {"ifd": free[entry["where"]]["ifd"]} for entry in entries if entry["fate"] == "dropped"
    ]


def test_filtered_row_does_not_stop_a_run(config, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [*make_rows("a", 8), *make_rows("a", 8)])
    made_config = config()
    made_config.clean.steps = ["exact_duplicates"]
    assert prepare_data(made_config).manifest["dropped"] == {"exact duplicate": 8}
    made_config.data.budget = BudgetConfig(filtered=0.1)
    with pytest.raises(SftError, match=r"data\.budget\.filtered: 8 of 28 rows"):
        prepare_data(made_config)


def test_curriculum_is_written_for_the_trainer(config):
    made_config = config()
    made_config.data.val_fraction = 0.0
    made_config.data.stages = [
        StageConfig(name="short", share=1.0, mix={"a": 1.0}, order=Order.by_length),
        StageConfig(name="all", share=3.0),
    ]
    result = prepare_data(made_config)
    short, rest = result.stages
    lengths = result.train.lengths[short.entries]
    assert (short.name, rest.name) == ("short", "all")
    assert (np.diff(lengths) >= 0).all()
    assert {result.train.sources[i] for i in short.entries} == {"a"}
    assert len(short.entries) + len(rest.entries) == 42
    assert [stage["examples"] for stage in result.manifest["stages"]] == [len(short.entries), len(rest.entries)]


def test_excluded_rows_do_not_count_for_max_rows(config, tmp_path):
    def tree(number, language):
        answer = {"message_id": "2", "role": "assistant", "text": f"{number}.", "lang": language, "rank": 0}
        requested = {"message_id": "1", "role": "prompter", "text": f"Which {number}?", "lang": language}
        return {"message_tree_id": str(number), "tree_state": "ready_for_export",
                "prompt": {**requested, "replies": [{**answer, "replies": []}]}}  # fmt: skip

    write_jsonl(tmp_path / "trees.jsonl", [tree(number, "en" if number % 4 else "de") for number in range(40)])
    made_config = config()
    made_config.data.mix = {"trees": SourceConfig(path=str(tmp_path / "trees.jsonl"), max_rows=8)}
    made_config.data.mix["trees"].tree.languages = ["de"]
    counts = prepare_data(made_config).manifest["sources"]["trees"]
    assert [counts[name] for name in ("rows", "used", "dropped", "not_sampled")] == [40, 8, 30, 2]


@pytest.mark.parametrize("action", list(Action))
def test_near_duplicates_are_in_one_split(config, tmp_path, action):
    """A filter finds questions that differ in one word; each remaining group is in one split."""
    words = [f"word{number}of" for number in range(20)]
    requested = [" ".join([f"kind{kind}", *(f"{word}{kind}" for word in words)]) for kind in range(10)]
    twins = [{"instruction": f"{text} {i}", "output": f"Answer {i}."} for i in range(3) for text in requested]
    write_jsonl(tmp_path / "a.jsonl", twins)
    made_config = config()
    del made_config.data.mix["b"]
    made_config.clean.steps, made_config.clean.near_duplicates.action = ["near_duplicates"], action
    made_config.data.val_fraction = 0.3
    made = prepare_data(made_config)
    sides = {}
    for entry in read_ledger(made):
        if entry["fate"] == "used":
            sides.setdefault((int(entry["where"].split(":")[1]) - 1) % 10, []).append(entry["split"])
    assert {len(result) for result in sides.values()} == {3 if action is Action.report else 1}
    assert sorted(result[0] for result in sides.values() if len(set(result)) == 1) == ["train"] * 7 + ["validation"] * 3


def test_used_empty_answers_are_counted(config, tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": f"Question {i}?", "completion": ""} for i in range(6)])
    made_config = config()
    made_config.data.mix["a"].weight = 0.5
    result = prepare_data(made_config)
    first = next(line["where"] for line in read_ledger(result) if line["source"] == "a" and line["fate"] == "used")
    assert result.manifest["sources"]["a"]["used"] == 3
    assert result.manifest["remarks"] == {"empty_answer": {"rows": 3, "first": first}}
    warning = "warning: 3 rows: an answer is empty: it teaches the model to stop at once"
    assert warning in capsys.readouterr().out
    prepare_data(made_config)
    assert re.search(rf"is up to date .*\n{warning}", capsys.readouterr().out)


def test_errors_of_all_sources_are_raised_together(config, tmp_path):
    made_config = config()
    for name in ("a", "b"):
        made_config.data.mix[name].path = str(tmp_path / f"no-{name}.jsonl")
    with pytest.raises(Mistakes) as caught:
        prepare_data(made_config)
    assert [error.where for error in caught.value.errors] == ["data.mix.a.path", "data.mix.b.path"]


def test_summary_prints_notes(config, tmp_path, capsys):
    write_jsonl(tmp_path / "b.jsonl", [{"text": "word " * 300}])
    made_config = config()
    made_config.trainer.max_length = 256
    made_config.data.mix["b"].role = Role.replay
    made_config.data.mix["a"].weight = 5.0
    result = prepare_data(made_config)
    output = capsys.readouterr().out
    assert (result.manifest["unrolled_rows"], result.manifest["cut_documents"]) == (0, 1)
    assert "cut       1 document longer than trainer.max_length became several examples\n" in output
    assert "repeated  a is seen 5 times in an epoch: more than 4 bring little\n" in output


@pytest.mark.parametrize("trees", [True, False], ids=["trees", "rows"])
def test_every_stage_shows_progress(config, tmp_path, monkeypatch, capsys, trees):
    """On the fake clock of this test, every step takes half a minute."""
    made_config = config()
    if trees:
        write_jsonl(
            tmp_path / "trees.jsonl",
            [
                {"prompt": node("prompter", f"{i}?", node("assistant", "Yes.")), "message_tree_id": f"{i}"}
                for i in range(9)
            ],
        )
        made_config.data.mix = {"a": SourceConfig(path=str(tmp_path / "trees.jsonl"))}
    made_config.clean.steps = ["heuristics"]
    ticks = itertools.count(0, 31)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    prepare_data(made_config)
    lines = capsys.readouterr().err.splitlines()
    for stage in ("rows      a", "clean     heuristics", "encode    a", "ledger   ", "write    "):
        (line,) = [line for line in lines if line.startswith(stage)][:1]
        assert re.fullmatch(
            stage + r" \[=+ *\] [0-9,]+( of [0-9,]+)? rows, [0-9]+ rows/s, [0-9.]+ (s|min|h) left", line
        )


def test_rows_without_stop_tokens_use_that_of_the_tokenizer(config, tmp_path):
    """Training, evaluation and merge need a token that ends a generation."""
    made_config = config()
    ids = [{"input_ids": [40, 41, 42, 43 + i], "labels": [-100, -100, 42, 43 + i]} for i in range(12)]
    write_jsonl(tmp_path / "a.jsonl", ids)
    del made_config.data.mix["b"]
    assert prepare_data(made_config).manifest["stop_tokens"] == ["</s>"]
    names = tmp_path / "tokenizer" / "tokenizer_config.json"
    values = json.loads(names.read_text())
    values.pop("eos_token")
    names.write_text(json.dumps(values))
    with pytest.raises(SftError, match="no example ends in a special token, and the tokenizer names no eos_token"):
        prepare_data(made_config)


def test_summary_prints_remarks(config, tmp_path, capsys):
    def row(number):
        turns = [("user", f"Question {number}?"), ("assistant", "An answer.<s>"), ("user", "And more?")]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    write_jsonl(tmp_path / "a.jsonl", [row(number) for number in range(4)])
    made_config = config()
    del made_config.data.mix["b"]
    first = {"rows": 4, "first": "a.jsonl:1"}
    assert prepare_data(made_config).manifest["remarks"] == {
        "sanitized": first,
        "special_end": first,
        "unanswered": first,
    }
    output = capsys.readouterr().out
    assert "note      4 rows: messages after the last answer are left out" in output
    assert "held out  0 examples (there are fewer than 40 rows)\n" in output


def test_rows_with_dropped_oldest_turns_are_printed(config, tmp_path, capsys):
    turns = [{"role": "user", "content": "Which? " * 8}, {"role": "assistant", "content": "This. " * 8}] * 4
    write_jsonl(tmp_path / "a.jsonl", [{"messages": turns}] * 3)
    made_config = config()
    del made_config.data.mix["b"]
    made_config.trainer.max_length = 256
    made_config.data.overflow = Overflow.drop_oldest_turns
    prepare_data(made_config)
    assert "shortened 3 rows to trainer.max_length=256: oldest turns dropped\n" in capsys.readouterr().out
