"""`prepare` end to end on small files: what is written, counted, refused, and when it is done anew."""

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sft_cli.chat.masks import parity
from sft_cli.chat.template.conversation_features import ConversationFeatures
from sft_cli.chat.template.template_check import TemplateCheck
from sft_cli.config.compose import dump_config
from sft_cli.config.paths import absolute
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import OnBadRow, Overflow, SourceConfig
from sft_cli.data.row_errors import RowError
from sft_cli.errors import Mistakes, SftError
from sft_cli.prepare import source_preview
from sft_cli.prepare.model_template import load_tokenizer_and_template
from sft_cli.prepare.pipeline import _refuse
from sft_cli.prepare.prepare import prepare_data

SMALL = Path(__file__).resolve().parents[1] / "golden" / "masks" / "tokenizer"
ROWS = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(20)]
CHATML_STOP = "<|im_end|>"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, so that nothing is shared between tests."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def config(home):
    """Makes the config of a run over rows of one source, ``mine``."""

    def config(rows=ROWS, name="rows.jsonl", format="auto", **source):
        write(home / name, rows)
        shutil.copytree(SMALL, home / "tokenizer", dirs_exist_ok=True)
        made = Config(prepared_dir=str(home / "out"))
        made.model.tokenizer = str(home / "tokenizer")
        made.template.name = "chatml"
        made.data.mix["mine"] = SourceConfig(path=str(home / name), format=format, **source)
        return made

    return config


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def ledger(made):
    return [json.loads(line) for line in (made.directory / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def messages(*turns):
    """A row of messages ``(role, content, weight)``."""
    names = ("role", "content", "weight")
    return {"messages": [dict(zip(names, turn, strict=False)) for turn in turns]}


def test_datasets_opens_the_directory_and_the_mask_is_right(config, home):
    from datasets import load_from_disk

    made = prepare_data(config())
    opened = load_from_disk(str(home / "out"))
    assert sorted(opened) == ["train", "validation"]
    assert opened["train"].column_names == ["input_ids", "labels", "where", "source"]
    assert (len(opened["train"]), len(opened["validation"])) == (20, 0)
    tokenizer = json.loads((made.tokenizer_directory / "tokenizer.json").read_text(encoding="utf-8"))
    stop = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == CHATML_STOP)
    for number, row in enumerate(opened["train"], 1):
        assert (row["where"], row["source"]) == (f"rows.jsonl:{number}", "mine")
        assert len(row["input_ids"]) == len(row["labels"])
        assert all(label in (-100, id) for id, label in zip(row["input_ids"], row["labels"], strict=True))
        assert row["labels"][-1] == stop
        assert row["labels"].count(stop) == 1


def test_manifest_and_ledger_account_for_every_row(config, capsys):
    rows = [*ROWS[:8], {"instruction": "", "output": "?"}, {"instruction": "long", "output": "x" * 500}]
    made_config = config(rows, max_rows=9)
    made_config.data.on_bad_row, made_config.data.overflow, made_config.data.budget.dropped = (
        OnBadRow.drop,
        Overflow.drop,
        0.5,
    )
    made_config.trainer.max_length = 200
    made = prepare_data(made_config)
    entries = ledger(made)
    assert [entry["where"].rpartition(":")[2] for entry in entries] == [str(i) for i in range(1, 11)]
    fates = [entry["fate"] for entry in entries]
    counts = made.manifest["sources"]["mine"]
    assert {fate: fates.count(fate) for fate in ("used", "dropped", "not_sampled")} == {
        fate: counts[fate] for fate in ("used", "dropped", "not_sampled")
    }
    assert counts["rows"] == 10
    assert counts["not_sampled"] == 1
    split = made.manifest["splits"]["train"]
    used = [entry for entry in entries if entry["fate"] == "used"]
    assert split["tokens"] == sum(entry["tokens"] for entry in used) == int(made.train.lengths.sum())
    assert split["trained_tokens"] == sum(entry["trained_tokens"] for entry in used)
    assert split["trained_share"] == round(split["trained_tokens"] / split["tokens"], 4)
    assert split["length_quantiles"]["p100"] == int(made.train.lengths.max())
    assert made.manifest["stop_tokens"] == [CHATML_STOP]
    assert sum(made.manifest["dropped"].values()) == counts["dropped"]
    assert "rows/s" in capsys.readouterr().out


def test_a_second_run_is_up_to_date(config, capsys):
    made = prepare_data(config())
    before = sorted((file, file.stat().st_mtime_ns) for file in made.directory.rglob("*"))
    capsys.readouterr()
    again = prepare_data(config())
    assert sorted((file, file.stat().st_mtime_ns) for file in made.directory.rglob("*")) == before
    assert again.manifest == made.manifest
    fingerprint = made.manifest["fingerprint"][:16]
    assert capsys.readouterr().out == f"data      {made.directory} is up to date (fingerprint {fingerprint})\n"


def change_bytes(config, home):
    write(home / "rows.jsonl", [*ROWS[:-1], {"instruction": "Other?", "output": "Yes."}])


def change_template(config, home):
    config.template.name = "vicuna"


def change_tokenizer(config, home):
    file = home / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def change_tokenizer_class(config, home):
    values = {"tokenizer_class": "TokenizersBackend", "bos_token": "<s>", "eos_token": "</s>"}
    (home / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def change_length(config, home):
    config.trainer.max_length = 512


def change_rule(config, home):
    config.data.sanitize = False


def change_weight(config, home):
    config.data.mix["mine"].weight = 2.0


def change_seed(config, home):
    config.trainer.seed = 7


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (change_bytes, "rows.jsonl (data.mix.mine)"),
        (change_template, "template"),
        (change_tokenizer, "tokenizer.tokenizer.json"),
        (change_tokenizer_class, "tokenizer.tokenizer_config.json"),
        (change_length, "trainer.max_length"),
        (change_rule, "data.sanitize"),
        (change_weight, "data.mix.mine.weight"),
        (change_seed, "trainer.seed"),
    ],
)
def test_a_changed_input_is_named_and_the_data_prepared_anew(config, home, capsys, change, what):
    first = prepare_data(config()).manifest["fingerprint"]
    capsys.readouterr()
    changed = config()
    change(changed, home)
    made = prepare_data(changed)
    assert made.manifest["fingerprint"] != first
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith(f"data      {home / 'out'} is prepared again: {what}")
    assert said.endswith(" changed")
    assert prepare_data(changed).manifest == made.manifest


def test_without_prepared_dir_the_directory_is_named_after_the_fingerprint(config, home):
    made_config = config()
    made_config.prepared_dir = None
    made = prepare_data(made_config)
    assert made.directory == home / "home" / "prepared" / made.manifest["fingerprint"][:16]


def test_bad_rows_are_told_first_and_nothing_is_left_behind(config, home):
    bad = [{"instruction": "", "output": "A"}] * 7 + [{"instruction": "Q", "output": number} for number in range(6)]
    with pytest.raises(Mistakes) as caught:
        prepare_data(config([*ROWS[:2], *bad]))
    assert [error.where.rpartition(":")[2] for error in caught.value.errors] == ["3", "10"]
    assert caught.value.errors[0].problem.endswith("expected non-empty text (and 6 more rows)")
    assert caught.value.errors[1].problem == "field 'output' is 0 (a number); expected text (and 5 more rows)"
    assert sorted(file.name for file in home.iterdir()) == ["home", "rows.jsonl", "tokenizer"]


def test_errors_that_differ_in_what_they_quote_and_count_are_one():
    """Of more kinds than are shown, the rest is counted."""
    problems = [
        RowError(where=f"a:{row}", reason=f"kind {row % 7}", problem=f"kind {'abcdefg'[row % 7]} is '{row}'", fix="f")
        for row in range(70)
    ]
    with pytest.raises(Mistakes) as caught:
        _refuse(problems)
    assert [(error.where, error.problem) for error in caught.value.errors] == [
        ("a:0", "kind a is '0' (and 9 more rows)"),
        ("a:1", "kind b is '1' (and 9 more rows)"),
        ("a:2", "kind c is '2' (and 9 more rows)"),
        ("a:3", "kind d is '3' (and 9 more rows)"),
        ("a:4", "kind e is '4' (and 9 more rows) (and 20 other rows)"),
    ]


def test_a_mask_that_cannot_be_proven_names_its_row(config, home):
    """Two messages that make a special token together, where the template puts nothing between them."""
    made_config = config([{"prompt": "hi <|im_", "completion": "end|>"}])
    made_config.template.name = "plain"
    with pytest.raises(SftError) as caught:
        prepare_data(made_config)
    assert str(caught.value) == (
        "rows.jsonl:1: its mask cannot be proven with template plain: its control tokens are not exactly those"
        " the template wrote\n  fix: correct the row, choose template=alpaca, chatml, llama2, vicuna, or leave such"
        " rows out with data.on_bad_row=drop"
    )


def test_the_budget_stops_a_run_that_drops_too_much(config, home):
    made_config = config([*ROWS, {"instruction": "", "output": "A"}])
    made_config.data.on_bad_row = OnBadRow.drop
    with pytest.raises(SftError) as caught:
        prepare_data(made_config)
    assert str(caught.value) == (
        "data.budget.dropped: 1 of 21 rows (4.76%) were dropped, more than 1.00%:"
        " 1 empty instruction (rows.jsonl:21; data.on_bad_row=drop)\n"
        "  fix: repair the rows, or set data.budget.dropped=0.048"
    )
    assert not (home / "out").exists()


def test_a_failed_run_leaves_the_old_data_in_place(config, home):
    made = prepare_data(config())
    with pytest.raises(SftError):
        prepare_data(config([{"instruction": "", "output": "A"}]))
    assert json.loads((home / "out" / "manifest.json").read_text(encoding="utf-8")) == made.manifest
    assert sorted(file.name for file in home.iterdir()) == ["home", "out", "rows.jsonl", "tokenizer"]


def test_overflow_error_is_fatal_whatever_on_bad_row_says(config):
    made_config = config([{"instruction": "Q", "output": "x" * 100}])
    made_config.data.on_bad_row, made_config.trainer.max_length = OnBadRow.drop, 60
    with pytest.raises(SftError, match=r"longer than trainer\.max_length=60"):
        prepare_data(made_config)


def test_oldest_turns_that_were_dropped_are_in_the_ledger(config):
    turns = [("user", "a" * 30), ("assistant", "b" * 30), ("user", "c"), ("assistant", "d")]
    made_config = config([messages(*turns)])
    made_config.data.overflow, made_config.trainer.max_length = Overflow.drop_oldest_turns, 80
    made = prepare_data(made_config)
    (entry,) = ledger(made)
    assert (entry["fate"], entry["truncated_messages"], entry["trained_tokens"]) == ("used", 2, 2)
    assert made.manifest["sources"]["mine"]["truncated"] == 1


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("notes.txt", "mine", "the directory is not empty and was not written by sft prepare"),
        ("manifest.json", '{"name": "an app"}', "the directory is not empty and was not written by sft prepare"),
        ("manifest.json", "not JSON", "the directory is not empty and was not written by sft prepare"),
    ],
)
def test_a_directory_of_something_else_is_never_replaced(config, home, name, content, problem):
    (home / "out").mkdir()
    (home / "out" / name).write_text(content)
    with pytest.raises(SftError) as caught:
        prepare_data(config())
    assert str(caught.value) == (
        f"prepared_dir={home / 'out'}: {problem}\n  fix: name another directory, or leave prepared_dir out"
    )
    assert (home / "out" / name).read_text() == content


def test_a_file_in_the_place_of_the_directory(config, home):
    (home / "out").write_text("mine")
    with pytest.raises(SftError, match="it is a file"):
        prepare_data(config())


def test_a_file_above_the_place_of_the_directory(config, home):
    (home / "out").write_text("mine")
    made = config()
    made.prepared_dir = str(home / "out" / "below")
    with pytest.raises(SftError) as caught:
        prepare_data(made)
    assert str(caught.value) == (
        f"prepared_dir={home / 'out' / 'below'}: {home / 'out'} is a file\n"
        "  fix: name another directory, or leave prepared_dir out"
    )


def test_files_added_to_a_prepared_directory_are_never_lost(config, home):
    prepare_data(config())
    (home / "out" / "notes.txt").write_text("mine")
    prepare_data(config())  # nothing has changed, nothing is replaced
    with pytest.raises(SftError) as caught:
        prepare_data(config(ROWS[:3]))
    assert caught.value.problem == "data have changed, and the directory to replace also holds notes.txt"
    assert (home / "out" / "notes.txt").read_text() == "mine"


def test_weights_of_messages_come_with_a_column_of_their_own(config):
    from datasets import load_from_disk

    turns = [("user", "a"), ("assistant", "bb", 0.5), ("user", "c"), ("assistant", "d", 2)]
    made = prepare_data(config([messages(*turns), messages(*turns[:1], ("assistant", "plain"))]))
    rows = load_from_disk(str(made.directory))["train"]
    assert rows.column_names == ["input_ids", "labels", "where", "source", "loss_weights"]
    assert [weight for weight in rows[0]["loss_weights"] if weight] == [0.5] * 3 + [2.0] * 2
    tokens = made.train.tokens(0)
    assert tokens.weights.tolist() == rows[0]["loss_weights"]
    assert ((tokens.weights > 0) == [label != -100 for label in rows[0]["labels"]]).all()
    assert set(made.train.tokens(1).weights.tolist()) == {0.0, 1.0}


def test_a_share_is_held_out(config):
    made_config = config()
    made_config.data.val_fraction = 0.25
    made = prepare_data(made_config)
    assert (len(made.train), len(made.validation)) == (15, 5)
    held_out = {made.validation.where(i) for i in range(5)}
    assert not held_out & {made.train.where(i) for i in range(15)}
    assert {entry["where"] for entry in ledger(made) if entry["split"] == "validation"} == held_out


def test_a_share_of_the_rows_that_are_used_is_held_out(config):
    made_config = config(max_rows=10, weight=1.5)
    made_config.data.val_fraction = 0.2
    made = prepare_data(made_config)
    assert (len(made.train), len(made.validation)) == (8, 2)
    assert [len(stage.entries) for stage in made.stages] == [12]
    entries = ledger(made)
    assert sorted(e["copies"] for e in entries if e["split"] == "validation") == [1, 1]
    assert sorted(e["copies"] for e in entries if e["split"] == "train") == [0] * 10 + [1] * 4 + [2] * 4
    assert sum(e["fate"] == "not_sampled" for e in entries) == 10


def test_where_the_files_lie_changes_nothing(config, home, monkeypatch, capsys):
    """Prepared from a relative path, found again by an absolute one and after a move."""
    write(home / "held.jsonl", ROWS[:3])
    made_config = config(validation_path="held.jsonl")
    made_config.prepared_dir, made_config.data.mix["mine"].path = None, "rows.jsonl"
    monkeypatch.chdir(home)
    made = prepare_data(made_config)
    capsys.readouterr()
    assert prepare_data(absolute(made_config)).directory == made.directory
    (home / "moved").mkdir()
    for name in ("rows.jsonl", "held.jsonl"):
        (home / name).rename(home / "moved" / name)
    monkeypatch.chdir(home / "moved")
    assert prepare_data(made_config).directory == made.directory
    assert capsys.readouterr().out.count("is up to date") == 2


def test_two_processes_prepare_the_same_at_once(config, home):
    made_config = config()
    file = home / "config.yaml"
    file.write_text(dump_config(made_config), encoding="utf-8")
    code = (
        "import sys; from sft_cli.config.compose import read_config; from sft_cli.prepare.prepare import prepare_data;"
        " config = read_config(sys.argv[1]); print('ready', flush=True); input(); prepare_data(config)"
    )
    command = [sys.executable, "-c", code, str(file)]
    both = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(file.name for file in home.iterdir()) == ["config.yaml", "home", "out", "rows.jsonl", "tokenizer"]
    assert len(prepare_data(made_config).train) == 20


def test_a_source_may_bring_its_own_held_out_rows(config, home):
    write(home / "held.jsonl", ROWS[:3])
    made_config = config(ROWS[5:], validation_path=str(home / "held.jsonl"))
    made_config.data.val_fraction = 0.5
    made = prepare_data(made_config)
    assert (len(made.train), len(made.validation)) == (15, 3)
    assert made.validation.where(0) == "held.jsonl:1"
    assert len(ledger(made)) == 18


def test_a_weight_repeats_rows(config):
    made = prepare_data(config(ROWS[:4], weight=2.0))
    (stage,) = made.stages
    assert sorted(made.train.where(i).rpartition(":")[2] for i in stage.entries) == sorted("12341234")
    assert len(made.train) == made.manifest["splits"]["train"]["rows"] == 4
    assert made.manifest["splits"]["train"]["examples"] == 8


def test_nothing_to_prepare(config):
    made_config = config()
    made_config.data.mix.clear()
    with pytest.raises(SftError, match="there is no data"):
        prepare_data(made_config)


def test_golden_rows_of_every_kind_are_kept(config, tmp_path):
    """However late in the file a kind begins, and not more than four of each."""
    plain = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]} for i in range(9)
    ]
    system = {"messages": [{"role": "system", "content": "s"}, *plain[0]["messages"]]}
    turns = {"messages": [*plain[0]["messages"], *plain[1]["messages"]]}
    file = tmp_path / "kinds.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (*plain, system, turns)))
    made_config = config()
    made_config.data.mix = {"kinds": SourceConfig(path=str(file))}
    made_config.data.val_fraction = 0.0
    made = prepare_data(made_config)

    goldens = parity.load_golden_prompts(made.directory / "golden.json")
    assert [one.where.rpartition(":")[2] for one in goldens] == ["1", "2", "3", "4", "10", "11"]
    rows = {made.train.where(index): made.train.tokens(index).input_ids.tolist() for index in range(len(made.train))}
    assert {one.where: one.row_ids for one in goldens} == {one.where: rows[one.where] for one in goldens}


def test_transformers_makes_the_same_prompts(config):
    """And would notice if it did not."""
    made = prepare_data(config())
    goldens = parity.load_golden_prompts(made.directory / "golden.json")
    assert parity.check_parity(made.tokenizer_directory, goldens) == 4
    goldens[2].input_ids[1] += 1
    with pytest.raises(SftError) as caught:
        parity.check_parity(made.tokenizer_directory, goldens)
    assert caught.value.where.startswith(goldens[2].where)
    assert "a server would send ids that differ from the trained ones: from id 1 on" in caught.value.problem


def test_the_golden_prompt_is_that_of_the_last_trained_turn(config):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d", 0)]
    made = prepare_data(config([messages(*turns)]))
    (golden,) = parity.load_golden_prompts(made.directory / "golden.json")
    assert [message["content"] for message in golden.messages] == ["a"]
    assert parity.check_parity(made.tokenizer_directory, [golden]) == 1


def test_the_saved_tokenizer_carries_the_template(config):
    made_config = config()
    made_config.template.name = "vicuna"
    made = prepare_data(made_config)
    assert "USER: " in (made.tokenizer_directory / "chat_template.jinja").read_text(encoding="utf-8")


def test_torch_is_never_imported(config, home):
    config()
    script = f"""
import sys
from sft_cli.config.schema.data import SourceConfig
from sft_cli.config.schema.config import Config
from sft_cli.prepare.prepare import prepare_data
from sft_cli.prepare.model_template import load_tokenizer_and_template
config = Config(prepared_dir={str(home / "out")!r})
config.model.tokenizer, config.template.name = {str(home / "tokenizer")!r}, "chatml"
config.data.mix["mine"] = SourceConfig(path={str(home / "rows.jsonl")!r})
prepare_data(config)
print("torch" in sys.modules, "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.material
@pytest.mark.parametrize(
    ("tokenizer", "file"),
    [
        ("qwen2_5", "alpaca/alpaca_tiny.json"),
        ("qwen3", "sharegpt/dummy_conversation.json"),
        ("llama3", "messages/v1_sft_demo.jsonl"),
        ("qwen2_5", "sharegpt/glaive_toolcall_en_demo.json"),
        ("mistral_v3", "sharegpt/glaive_toolcall_en_demo.json"),
        ("llama2", "alpaca/identity.json"),
    ],
)
def test_real_data_is_served_as_it_was_trained(config, material_dir, tokenizer, file):
    made_config = config()
    made_config.model.tokenizer, made_config.template.name = str(material_dir / "tokenizers" / tokenizer), "auto"
    names = {"name": "Ada", "author": "us"}
    made_config.data.mix["mine"] = SourceConfig(path=str(material_dir / "data" / file), variables=names)
    made_config.data.on_bad_row, made_config.data.budget.dropped = OnBadRow.drop, 1.0
    made_config.trainer.max_length = 16384
    made = prepare_data(made_config)
    counts = made.manifest["sources"]["mine"]
    assert counts["used"] + counts["dropped"] == counts["rows"] == len(ledger(made))
    assert counts["used"] > 0.4 * counts["rows"]
    assert parity.check_parity(made.tokenizer_directory, parity.load_golden_prompts(made.directory / "golden.json")) > 0


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        pytest.param(
            {"messages": TALK, "tools": [TOOL]},
            "name a template that shows what the rows hold (tools): template.path=FILE.jinja",
            id="tools",
        ),
        pytest.param(
            {"messages": [TALK[0], {"role": "tool", "content": "x"}, TALK[1]]},
            "choose one that fits this tokenizer and the rows: template=chatml, plain",
            id="results",
        ),
    ],
)
def test_the_templates_that_are_offered_show_what_the_rows_hold(config, home, row, fix):
    made = config([row])
    tokenizer, template = load_tokenizer_and_template(made)
    check = TemplateCheck(tokenizer, replace(template, source=""), made.data)
    assert check.suggestion(source_preview.first_row_features(made)) == fix


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=6)))
def test_the_example_of_what_rows_hold_holds_the_same(flags):
    assert ConversationFeatures.from_conversation(ConversationFeatures(*flags).example()) == ConversationFeatures(
        *flags
    )
