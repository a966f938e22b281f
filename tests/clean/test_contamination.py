"""Rows that contain prompts of evaluation sets are found with their positions, and other rows are not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.clean import contamination, ngrams
from sft_cli.clean.base import Finding
from sft_cli.clean.eval_sets import eval_prompts
from sft_cli.config.schema.clean import Action, ContaminationConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message, TokenIds
from tests.clean.helpers import InMemoryRows
from tests.clean.rows_helpers import SmallBatches, chat, collect, dropped_rows, numbered_rows

TRAINS = "Two trains leave the same station at noon and travel in opposite directions, how far apart are they at six?"
SHORT = "How do I kill a Python process?"
TINY = "Who are you?"


@pytest.fixture
def against(tmp_path, monkeypatch):
    """Return a config with the evaluation set ``exam`` of three prompts."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": number, "question": text} for number, text in enumerate([TRAINS, SHORT, TINY])]
    (tmp_path / "exam.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return {"exam": "exam.jsonl"}


def test_findings_and_report(against):
    half = TRAINS.split(", how")[0]
    texts = ["Nothing of the sort", f"Solve: {TRAINS.upper()}", (f"{half} ...", "ok"), ("Go on", f"Sure. {SHORT}")]
    result, report = collect(
        contamination.find_contamination(numbered_rows(texts), ContaminationConfig(against=against))
    )
    assert result == [
        Finding(1, "holds an evaluation prompt", "100% of exam, exam.jsonl:1", 1.0),
        Finding(3, "holds an evaluation prompt", "100% of exam, exam.jsonl:2", 1.0),
    ]
    assert report == {
        "sets": {"exam": {"prompts": 3, "contaminated_prompts": 2, "rows": 2}},
        "pairs": [
            {
                "set": "exam",
                "eval_where": f"exam.jsonl:{line}",
                "eval_text": prompt,
                "where": f"rows.jsonl:{row}",
                "text": text,
                "score": 1.0,
            }
            for line, prompt, row, text in [
                (1, TRAINS, 2, f"Solve: {TRAINS.upper()}"),
                (2, SHORT, 4, f"Sure. {SHORT}"),
            ]
        ],
        "unsearched_rows": 0,
    }


def test_partial_match_is_found_from_the_threshold_on(against):
    """20 words are 11 n-grams of 10; the first 15 words contain 6 of them."""
    rows = numbered_rows([" ".join(TRAINS.split()[:15]), " ".join(TRAINS.split()[:14])])
    result, _ = collect(contamination.find_contamination(rows, ContaminationConfig(against=against)))
    assert result == [Finding(0, "holds an evaluation prompt", "55% of exam, exam.jsonl:1", 0.5455)]
    exactly = ContaminationConfig(against=against, threshold=6 / 11)
    assert dropped_rows(contamination.find_contamination(rows, exactly)) == [0]
    assert (
        dropped_rows(contamination.find_contamination(rows, ContaminationConfig(against=against, threshold=0.55))) == []
    )
    assert dropped_rows(
        contamination.find_contamination(rows, ContaminationConfig(against=against, threshold=0.4))
    ) == [0, 1]


SHORT_PROMPTS = [
    (("Tell me: how do I kill a python process", "ok"), True),
    (("How do I kill a big Python process?", "ok"), False),
    (("who are you", "I am a model."), True),
    (("So, who are you?", "A model."), False),  # under five words: matches a whole message only
    (("Hi", "Who are you?!"), True),
    (("How do I kill", "a Python process?"), False),  # never across messages
]


@pytest.mark.parametrize(("turns", "expected"), SHORT_PROMPTS)
def test_prompts_shorter_than_an_ngram(against, turns, expected):
    result = dropped_rows(
        contamination.find_contamination(numbered_rows([turns]), ContaminationConfig(against=against))
    )
    assert bool(result) is expected


def test_every_text_of_a_row_is_searched(against):
    reasoning = Message("assistant", "Yes.", extra={"reasoning_content": f"Once I read: {TRAINS}"})
    rows = InMemoryRows(
        [
            Conversation((), "a:1", "a", text=f"A page. {TRAINS} More."),
            Conversation((Message("user", "Go"), reasoning), "a:2", "a"),
            chat("Go", "ok", system=TRAINS, where="a:3"),
            Conversation((), "a:4", "a", tokens=TokenIds((1, 2), (0.0, 1.0))),
        ]
    )
    result, report = collect(contamination.find_contamination(rows, ContaminationConfig(against=against)))
    assert [one.row for one in result] == [0, 1, 2]
    assert report is not None
    assert report["unsearched_rows"] == 1


def test_held_out_rows_are_not_dropped_for_contamination(against):
    rows = numbered_rows([TRAINS, TRAINS], held_out=[0])
    assert dropped_rows(contamination.find_contamination(rows, ContaminationConfig(against=against))) == [1]


def test_action_report_drops_no_rows(against):
    config = ContaminationConfig(against=against, action=Action.report)
    result, report = collect(contamination.find_contamination(numbered_rows([TRAINS]), config))
    assert result == [Finding(0, None, "100% of exam, exam.jsonl:1", 1.0)]
    assert report is not None
    assert report["sets"]["exam"]["rows"] == 1


def test_report_is_limited_and_shows_the_match(against):
    rows = numbered_rows([f"{'before ' * 500}{TRAINS}{' after' * 500}"] * 60)
    _, report = collect(contamination.find_contamination(rows, ContaminationConfig(against=against)))
    assert report is not None
    assert report["sets"]["exam"] == {"prompts": 3, "contaminated_prompts": 1, "rows": 60}
    assert [pair["where"] for pair in report["pairs"]] == [f"rows.jsonl:{number}" for number in range(1, 51)]
    assert all(TRAINS in pair["text"] and len(pair["text"]) == 600 for pair in report["pairs"])


def test_changed_file_is_read_again(against, tmp_path):
    config = ContaminationConfig(against=against)
    assert dropped_rows(contamination.find_contamination(numbered_rows([TRAINS]), config)) == [0]
    (tmp_path / "exam.jsonl").write_text('{"question": "Nothing"}', "utf-8")
    assert dropped_rows(contamination.find_contamination(numbered_rows([TRAINS]), config)) == []


SHAPES = [
    # file, content, columns, the prompts
    ("a.jsonl", '{"prompt": "One"}\n{"prompt": "Two"}\n', {}, [("a.jsonl:1", "One"), ("a.jsonl:2", "Two")]),
    ("a.json", '[{"text": "One", "answer": "x"}]', {}, [("a.json[0]", "One")]),
    ("a.csv", "id,prompt\n1,One\n", {}, [("a.csv:2", "One")]),
    ("a.jsonl", '{"question": "One", "text": "Passage"}', {}, [("a.jsonl:1", "One")]),
    ("a.jsonl", '{"question": "One", "text": "Passage"}', {"a": "text"}, [("a.jsonl:1", "Passage")]),
    ("a.jsonl", '{"turns": ["One", "Two"]}', {"a": "turns"}, [("a.jsonl:1", "One"), ("a.jsonl:1", "Two")]),
    ("a.jsonl", '{"question": [[{"role": "system", "content": "S"}, {"role": "user", "content": "One"}]]}', {},
     [("a.jsonl:1", "One")]),
    ("a.jsonl", '{"instruction": "Sum up", "input": "A text"}', {}, [("a.jsonl:1", "Sum up\nA text")]),
    ("a.jsonl", '{"instruction": "Sum up", "input": "A text"}', {"a": "instruction"}, [("a.jsonl:1", "Sum up")]),
    ("a.jsonl", '{"instruction": "Sum up", "input": ""}', {}, [("a.jsonl:1", "Sum up")]),
]  # fmt: skip


@pytest.mark.parametrize(("file", "content", "columns", "expected"), SHAPES)
def test_shapes_of_evaluation_sets(tmp_path, monkeypatch, file, content, columns, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text(content, "utf-8")
    result = eval_prompts(ContaminationConfig(against={"a": file}, columns=columns))
    assert result == [("a", where, text) for where, text in expected]


def test_parquet(tmp_path, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    monkeypatch.chdir(tmp_path)
    parquet.write_table(pyarrow.table({"question": ["One", "Two"]}), tmp_path / "a.parquet")
    assert [prompt.text for prompt in eval_prompts(ContaminationConfig(against={"a": "a.parquet"}))] == ["One", "Two"]


MISTAKES = [
    (
        '{"query": "One", "gold": 1}', {},
        "a.jsonl:1: the row has none of the columns question, prompt, instruction, text; it has query, gold\n"
        "  fix: clean.contamination.columns.a=COLUMN names the column of the prompt",
    ),
    (
        '{"query": "One", "gold": 1}', {"a": "querry"},
        "a.jsonl:1: the row has no column 'querry'\n"
        "  fix: did you mean clean.contamination.columns.a=query? columns: query, gold",
    ),
    ('{"question": "One"}\n{"question": "  "}', {},
     "a.jsonl:2: the column question of the row holds no text\n"
     "  fix: remove the row, or set another column: clean.contamination.columns.a=COLUMN"),
    ('{"question": 7}', {},
     "a.jsonl:1: the column question of the row holds no text\n"
     "  fix: remove the row, or set another column: clean.contamination.columns.a=COLUMN"),
    ('{"question": "One"}\nnonsense', {},
     "a.jsonl:2: invalid JSON at column 1, near 'nonsense': a value is missing or misspelt\n"
     "  fix: repair this line; each line holds one JSON object"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "columns", "message"), MISTAKES)
def test_mistakes_in_an_evaluation_set(tmp_path, monkeypatch, content, columns, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(content, "utf-8")
    with pytest.raises(SftError) as caught:
        contamination.check_contamination(ContaminationConfig(against={"a": "a.jsonl"}, columns=columns))
    assert str(caught.value) == message


def test_missing_evaluation_set_is_reported(against):
    with pytest.raises(SftError) as caught:
        contamination.check_contamination(ContaminationConfig(against={"exam": "exams.jsonl"}))
    assert caught.value.where == "clean.contamination.against.exam"
    assert caught.value.problem == "'exams.jsonl' does not exist"


WORDS = st.lists(st.sampled_from(["a", "b", "c", "D"]), max_size=12).map(" ".join)


@settings(deadline=None, max_examples=200)
@given(st.lists(WORDS, max_size=6), st.lists(st.lists(WORDS, max_size=3), max_size=5), st.integers(3, 7))
def test_shares_by_brute_force(prompts, rows, length):
    result = ngrams.overlapping_prompts(ngrams.build_index(prompts, length), rows, 0.01)
    assert result == [expected(prompts, messages, length) for messages in rows]


def expected(prompts, messages, length):
    """Shares by the definition, over plain words."""
    output = [message.lower().split() for message in messages]
    shares = []
    for number, text in enumerate(prompts):
        words = text.lower().split()
        if len(words) >= length:
            wanted = runs(words, length)
            share = len(wanted & {run for message in output for run in runs(message, length)}) / len(wanted)
        elif len(words) >= 5:
            share = float(any(tuple(words) in runs(message, len(words)) for message in output))
        else:
            share = float(bool(words) and words in output)
        shares += [(number, share)] if share else []
    return tuple(shares)


def runs(words, length):
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def test_batches_and_chunks_make_no_difference(against, monkeypatch):
    texts = [TRAINS, "x", SHORT, f"{SHORT} {TRAINS}", TINY, "x y z"]
    config = ContaminationConfig(against=against)
    whole = collect(contamination.find_contamination(numbered_rows(texts), config))
    assert [one.row for one in whole[0]] == [0, 2, 3, 4]
    monkeypatch.setattr(ngrams, "WORDS_PER_CHUNK", 10)
    assert collect(contamination.find_contamination(numbered_rows(texts), config)) == whole
    assert collect(contamination.find_contamination(SmallBatches(numbered_rows(texts).conversations), config)) == whole


def test_colliding_hashes_are_distinguished(monkeypatch):
    """All word sequences get the same hash; only sequences with equal words may match."""
    monkeypatch.setattr(ngrams, "_hashes", lambda ids, length: ngrams.np.zeros(len(ids) - length + 1, "uint64"))
    index = ngrams.build_index(["a b c d e f"], 6)
    assert ngrams.overlapping_prompts(index, [["a b c d e f"], ["f e d c b a"]], 0.5) == [((0, 1.0),), ()]


@pytest.mark.material
def test_gsm8k(material_dir):
    """The train and test problems of GSM8K differ except for one pair; copies added by the test are found."""
    rows = json.loads((material_dir / "data" / "alpaca" / "gsm_8k_train.json").read_text("utf-8"))
    test = [
        json.loads(line)["question"]
        for line in (material_dir / "eval" / "gsm8k_test.jsonl").read_text("utf-8").splitlines()
    ]
    planted = {100: test[7], 200: f"Solve this:\n\n{test[11]}\n\nThink step by step.", 300: test[13].upper()}
    texts = [planted.get(number, row["instruction"]) for number, row in enumerate(rows)]
    config = ContaminationConfig(against={"gsm8k": str(material_dir / "eval" / "gsm8k_test.jsonl")})
    result, report = collect(contamination.find_contamination(numbered_rows(texts), config))
    assert {one.row: one.detail.rpartition(", ")[2] for one in result if one.score == 1} == {
        100: "gsm8k_test.jsonl:8",
        200: "gsm8k_test.jsonl:12",
        300: "gsm8k_test.jsonl:14",
    }
    assert [one.row for one in result if one.score != 1] == [1314, 5162]
    assert report is not None
    assert report["sets"] == {"gsm8k": {"prompts": 1319, "contaminated_prompts": 4, "rows": 5}}
