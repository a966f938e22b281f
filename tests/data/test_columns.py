"""Every column of every row is read, ignored by request, reported as not read, or refused with a fix."""

import json
import shlex

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sft_cli.config.overrides.grammar import parse_value
from sft_cli.config.overrides.parse import parse_overrides
from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.schema.data import OnBadRow, Role, SourceConfig
from sft_cli.data.formats.column_meanings import column_meaning, is_metadata
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.formats.unread_columns import UnreadColumns
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from sft_cli.prepare.prepare import prepare_data
from sft_cli.types import Row

TALK = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def account(values, **config):
    """Return the unread and the ignored columns of a row; raise if a column is refused."""
    source, result = SourceConfig(**config), UnreadColumns()
    made = make_converter(source, "mine", "\n\n", values)
    row = Row(values, "rows.jsonl:1", "mine")
    made.note_columns(row, result)
    made.refuse_unread(result)
    made.convert(row)
    made.check_ignored(result, values)
    return result.named()


@pytest.mark.parametrize(
    ("values", "config", "not_read"),
    [
        ({"messages": TALK}, {}, []),
        ({"messages": TALK, "id": 3, "source": "web"}, {}, ["id", "source"]),
        ({"messages": TALK, "images": [], "cot": None, "is_label": ""}, {}, ["images", "cot", "is_label"]),
        ({"messages": TALK, "has_image": False, "num_images": 0}, {}, ["has_image", "num_images"]),
        ({"messages": TALK, "answer_id": 3, "response_model": "x"}, {}, ["answer_id", "response_model"]),
        ({"messages": TALK, "parallel_tool_calls": False}, {}, ["parallel_tool_calls"]),
        ({"messages": TALK, "cot": "x"}, {"format": "messages"}, ["cot"]),
        ({"messages": TALK, "task": "x"}, {"tags": {"kind": "task"}}, []),
        ({"messages": TALK, "stars": "4"}, {"scores": {"quality": "stars"}}, []),
        ({"prompt": "Q", "completion": "A", "Unnamed: 0": "7"}, {}, ["Unnamed: 0"]),
        ({"text": "T", "meta": {}, "token_count": 3}, {}, ["meta", "token_count"]),
        ({"text": "T", "__index_level_0__": 0, "id": 7}, {}, ["__index_level_0__", "id"]),
        ({"text": "T", "category": "news"}, {"format": "text"}, ["category"]),
        ({"text": "T", "category": "news"}, {"role": Role.replay}, ["category"]),
        ({"q": "Q", "a": "A", "b": 1}, {"format": {"prompt": "{{ q }}", "completion": "{{ a }}"}}, ["b"]),
        ({"q": "Q", "a": "A", "b": 1}, {"format": {"prompt": "{{ row.q }}", "completion": "{{ row['a'] }}"}}, ["b"]),
        ({"q": "Q", "a": "A", "b": 1}, {"format": {"prompt": "{{ q }}", "completion": "{{ row | tojson }}"}}, []),
        ({"Prompt": "Q", " COMPLETION ": "A"}, {}, []),
        ({"prompt": "Q", "Prompt": "P", "completion": "A"}, {}, ["Prompt"]),
    ],
)  # fmt: skip
def test_unread_columns_are_noted(values, config, not_read):
    assert account(values, **config) == {"not_read": not_read, "ignored": []}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image", "cat.jpg"), ("images", ["cat.jpg"]), ("imagePath", "x"), ("image_url", "x"), ("audio", {"path": "x"}),
        ("video_frames", [1]), ("text_rejected", "x"), ("labels", [1]), ("is_label", False), ("cot", "x"),
        ("Reasoning", "x"), ("model_reasoning", "x"), ("chain_of_thought", "x"), ("rationale", "x"),
        ("explanation", "x"), ("thought", "x"), ("scratchpad", "x"), ("channel", "x"), ("summary", "x"),
        ("output", "x"), ("target_text", "x"),
        ("context", "x"), ("history", [["a", "b"]]), ("choices", ["a"]), ("loss_mask", [1]), ("train", False),
    ],
)  # fmt: skip
def test_meaningful_columns_of_a_detected_format_are_refused(column, value):
    values = {"messages": TALK, column: value}
    with pytest.raises(SftError) as caught:
        account(values)
    assert not isinstance(caught.value, RowError)  # data.on_bad_row=drop does not drop it
    assert caught.value.where == "rows.jsonl:1"
    assert caught.value.problem.startswith(
        f"the format messages, detected from the columns, does not read {column!r} ("
    )
    pasted = format_override("data.mix.mine.ignore", [column])
    assert caught.value.fix.startswith(f"{pasted} leaves it out on purpose")
    (typed,) = shlex.split(pasted)
    ignored = parse_overrides([typed], parse_value).values["data.mix.mine.ignore"]
    assert account(values, ignore=ignored) == {"not_read": [], "ignored": [column]}


@pytest.mark.parametrize("column", ["images", "audio", "rejected", "label"])
def test_pictures_and_labels_are_refused_under_a_named_format_too(column):
    with pytest.raises(SftError, match=f"the format messages does not read '{column}'"):
        account({"messages": TALK, column: "x"}, format="messages")


def test_all_refused_columns_are_reported_with_ignored_ones_kept():
    with pytest.raises(SftError) as caught:
        account({"messages": TALK, "old": 1, "images": ["x"], "cot": "y"}, ignore=["old"])
    assert str(caught.value) == (
        "rows.jsonl:1: the format messages, detected from the columns, does not read "
        "'images' (images, sound or video), 'cot' (reasoning)\n"
        "  fix: 'data.mix.mine.ignore=[old, images, cot]' leaves them out on purpose; to train it, write rows as"
        " messages, with it as reasoning_content of the answers"
    )


def test_text_with_an_answer_column_is_not_a_document():
    with pytest.raises(SftError) as caught:
        account({"text": "A dull film.", "mood": "bad"})
    assert str(caught.value) == (
        "rows.jsonl:1: the format text, detected from the columns, does not read 'mood' (it may belong to the text)\n"
        "  fix: 'data.mix.mine.ignore=[mood]' trains only the text; "
        "'data.mix.mine.columns={prompt: text, completion: mood}' trains mood as the answer to the text"
    )
    assert account({"text": "A dull film.", "mood": "bad"}, columns={"prompt": "text", "completion": "mood"})


def test_fix_maps_an_alias_of_an_optional_column():
    with pytest.raises(SftError) as caught:
        account({"prompt": "Q", "completion": "A", "sys_prompt": "S"})
    assert caught.value.fix == (
        "'data.mix.mine.columns={system: sys_prompt}' reads it as system; "
        "'data.mix.mine.ignore=[sys_prompt]' leaves it out"
    )
    assert account({"prompt": "Q", "completion": "A", "sys_prompt": "S"}, columns={"system": "sys_prompt"})


@pytest.mark.parametrize(
    ("ignore", "fix"),
    [
        (["image"], "did you mean 'data.mix.mine.ignore=[images]'?"),
        (["images", "zzz"], "write 'data.mix.mine.ignore=[images]'"),
    ],
)
def test_ignore_of_a_missing_column(ignore, fix):
    with pytest.raises(SftError) as caught:
        account({"messages": TALK, "images": []}, ignore=ignore)
    name = ignore[-1]
    assert str(caught.value).startswith(
        f"data.mix.mine.ignore: no row has a column {name!r}; the columns are messages, images"
    )
    assert caught.value.fix == fix


def test_ignored_columns_do_not_affect_detection():
    """Detection ignores them, and they do not count as required columns."""
    values = {"question": "Q", "answer": "A", "context": "C"}
    assert account(values, ignore=["context"])["ignored"] == ["context"]
    with pytest.raises(RowError, match="there is no field 'answer'"):
        account(values, format="question_answer", ignore=["answer"])


names = st.text(alphabet=st.sampled_from("abcxyz_ A?é"), min_size=1, max_size=6)
cells = st.sampled_from([None, "", "x", 0, 3, False, [], ["y"], {"k": 1}])


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(names, cells, max_size=5), st.booleans(), st.data())
def test_every_column_is_read_ignored_named_or_refused(extra, named, data):
    """This holds for any columns; an empty column never causes a refusal."""
    extra = {name: value for name, value in extra.items() if name not in ("prompt", "completion")}
    ignore = data.draw(st.lists(st.sampled_from(sorted(extra)), unique=True)) if extra else []
    tags = {name: name for name in extra if name not in ignore and isinstance(extra[name], str)} if named else {}
    values = {"prompt": "Q", **extra, "completion": "A"}
    config = {"ignore": ignore, "tags": tags, "format": "prompt_completion" if named else "auto"}
    result = account(values, **config)
    assert set(result["ignored"]) == set(ignore)
    assert {*result["not_read"], *result["ignored"], *tags, "prompt", "completion"} == set(values)
    assert not set(result["not_read"]) & {*ignore, *tags}


@given(names)
def test_column_meaning_accepts_any_name(name):
    assert column_meaning(name) is None or column_meaning(name).description
    assert is_metadata(name) in (True, False)


def rows(number, **more):
    return [{"instruction": f"question {i}?", "output": f"It is {i}.", **more} for i in range(number)]


def test_unread_columns_are_in_console_manifest_and_report(config, tmp_path, capsys):
    made_config = config()
    values = rows(20)
    values[3]["id"], values[7]["note"], values[9]["junk"] = 3, "n", 1
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    made_config.data.mix["a"].ignore = ["junk"]
    result = prepare_data(made_config)
    assert result.manifest["sources"]["a"]["not_read"] == ["id", "note"]
    assert result.manifest["sources"]["a"]["ignored"] == ["junk"]
    assert result.manifest["sources"]["b"]["not_read"] == []
    output = capsys.readouterr().out
    assert "not read  a: id, note\nignored   a: junk\n" in output
    page = (result.directory / "report.html").read_text(encoding="utf-8")
    assert "not read: id, note<br>ignored on purpose: junk</dd>" in page


def test_refused_column_in_a_late_row_stops_every_run(config, tmp_path):
    """This includes runs with cached parts, and any value of on_bad_row."""
    made_config = config()
    values = [*rows(40), *rows(1, image="x.png")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    made_config.data.on_bad_row = OnBadRow.drop
    for _ in range(2):
        with pytest.raises(SftError, match=r"a\.jsonl:41: the format alpaca, .* does not read 'image'"):
            prepare_data(made_config)
    made_config.data.mix["a"].ignore = ["image"]
    assert prepare_data(made_config).manifest["sources"]["a"]["used"] == 41


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
@example(['"'])
@example(["\\]"])
def test_advised_override_parses_to_the_same_value(columns):
    """For any column names, the shell and the grammar of overrides leave the advised value unchanged."""
    columns = [column for column in columns if column.isprintable() and column.strip() == column] or ["a"]
    for value in (columns, {"prompt": columns[0]}):
        (word,) = shlex.split(format_override("data.mix.mine.columns", value))
        result = parse_overrides([word], parse_value)
        assert not result.mistakes
        assert result.values["data.mix.mine.columns"] == value


def refused_row(config, tmp_path, row):
    """Return the config of a run over one row, and the error that refuses it."""
    made_config = config()
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SftError) as refused:
        prepare_data(made_config)
    return made_config, refused.value


def test_detect_refuses_a_conflicting_column(config, tmp_path):
    made_config, error = refused_row(
        config, tmp_path, {"prompt": "What is it?", "completion": "It is.", "context": "Of something."}
    )
    assert error.problem == (
        "the columns fit the format prompt_completion, which does not read context: the answers may need it"
    )
    assert error.fix.startswith("'data.mix.a.ignore=[context]' leaves it out on purpose")
    made_config.data.mix["a"].ignore = ["context"]
    assert prepare_data(made_config).manifest["sources"]["a"]["format"] == "prompt_completion"


def test_either_of_two_answer_columns_can_be_trained(config, tmp_path):
    """Applying the suggested settings trains the other answer."""
    made_config, error = refused_row(
        config, tmp_path, {"question": "What is it?", "answer": "One.", "response": "Two."}
    )
    both = "'data.mix.a.columns={response: answer}' 'data.mix.a.ignore=[response]'"
    assert error.fix == f"'data.mix.a.ignore=[answer]' leaves it out on purpose; {both} trains answer instead"
    values = parse_overrides(shlex.split(both), parse_value).values
    made_config.data.mix["a"].columns = values["data.mix.a.columns"]
    made_config.data.mix["a"].ignore = values["data.mix.a.ignore"]
    assert prepare_data(made_config).manifest["sources"]["a"]["ignored"] == ["response"]


@pytest.mark.parametrize(
    ("question", "images", "remarked"),
    [
        ("<image>\nWhat is this?", ["a.png"], True),
        ("What is <|image_pad|>?", ["a.png"], True),
        ("What is this?", ["a.png"], False),
        ("What does <image> do in HTML?", [], False),
    ],
)
def test_placeholder_of_ignored_images_gets_a_remark(question, images, remarked):
    """The model reads the placeholder as plain text; a row without images may contain it."""
    row = Row({"question": question, "answer": "A cat.", "images": images}, "a.jsonl:1", "a")
    config = SourceConfig(path="a.jsonl", ignore=["images"], columns={"prompt": "question", "completion": "answer"})
    (conversation,) = make_converter(config, "a", "\n", row.values).convert(row)
    assert ("media_placeholder" in conversation.remarks) is remarked
