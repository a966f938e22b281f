"""Suggestions for ``trainer.max_length`` come from measured lengths and work when pasted."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.config.model_files.context_window import read_context_length
from sft_cli.config.schema.data import BudgetConfig, OnBadRow, Overflow
from sft_cli.data.lengths import RowLengths
from sft_cli.errors import Mistakes, SftError
from sft_cli.prepare.prepare import prepare_data


def lengths(tokens, max_length=100, others=0, context=None, least=None):
    """Return the lengths of rows; ``least`` has the shortest length at which truncation keeps part of a row."""
    least = tokens if least is None else least
    first = next((f"a:{row}" for row, number in enumerate(tokens) if number > max_length), None)
    place = f"a:{int(np.argmax(tokens))}"
    return RowLengths(np.array(tokens), np.array(least), others, max_length, context, first, place)


@pytest.mark.parametrize(
    ("found", "overflow", "advice"),
    [
        (
            lengths([50] * 98 + [150, 900]), Overflow.error,
            "trainer.max_length=960  # keeps all rows\n"
            "trainer.max_length=192 data.overflow=drop  # keeps 99%\n"
            "data.overflow=drop data.budget.dropped=0.02  # keeps 98%",
        ),
        (
            lengths([50] * 98 + [150, 900]), Overflow.drop,
            "trainer.max_length=960  # keeps all rows\ntrainer.max_length=192  # keeps 99%",
        ),
        (
            lengths([50, 300, 900], context=512), Overflow.error,
            "trainer.max_length=512 data.overflow=drop data.budget.dropped=0.34  # keeps 66.6%\n"
            "data.overflow=drop data.budget.dropped=0.67  # keeps 33.3%",
        ),
        (lengths([480, 500], context=500), Overflow.error, "trainer.max_length=500  # keeps all rows"),
        (lengths([200, 300]), Overflow.error, "trainer.max_length=320  # keeps all rows"),
        (lengths([200, 300], context=100), Overflow.drop, "shorten the rows: the model takes at most 100 tokens"),
        (
            lengths([50] * 90 + [300] * 10, others=10), Overflow.drop,
            "trainer.max_length=320 data.budget.dropped=0.091  # keeps all rows",
        ),
        (
            lengths([50] * 98 + [150, 900], least=[50] * 98 + [20, 30]), Overflow.error,
            "trainer.max_length=960  # keeps all rows\n"
            "trainer.max_length=192 data.overflow=drop  # keeps 99%\n"
            "data.overflow=drop data.budget.dropped=0.02  # keeps 98%\n"
            "data.overflow=truncate  # keeps all rows, 2 of them cut",
        ),
        (
            lengths([50, 300, 900], least=[50, 20, 700], context=512), Overflow.error,
            "trainer.max_length=512 data.overflow=drop data.budget.dropped=0.34  # keeps 66.6%\n"
            "data.overflow=drop data.budget.dropped=0.67  # keeps 33.3%\n"
            "data.overflow=truncate data.budget.dropped=0.34  # keeps 66.6%, 1 of them cut",
        ),
        (
            lengths([50] * 98 + [150, 900], least=[50] * 98 + [20, 700]), Overflow.truncate,
            "trainer.max_length=960  # keeps all rows\ntrainer.max_length=704  # keeps all rows, 1 of them cut",
        ),
        (
            lengths([800, 900], least=[20, 30], max_length=600, context=512), Overflow.error,
            "trainer.max_length=512 data.overflow=truncate  # keeps all rows, 2 of them cut",
        ),
    ],
)  # fmt: skip
def test_length_advice(found, overflow, advice):
    assert found.advice(BudgetConfig(dropped=0.01), overflow) == advice


def test_truncate_option_raises_its_budget():
    result = lengths([50] * 7 + [150] * 3, least=[50] * 7 + [20, 20, 120])
    assert result.advice(BudgetConfig(dropped=0.5, truncated=0.05), Overflow.error).split("\n")[-1] == (
        "data.overflow=truncate data.budget.truncated=0.23  # keeps 90%, 2 of them cut"
    )


TAILED = lengths([50] * 90 + [150] * 6 + [900] * 4, least=[20] * 100)


@pytest.mark.parametrize(
    ("found", "limit", "advice"),
    [
        (TAILED, 0.05, "trainer.max_length=192  # cuts 4 of 100 rows"),
        (TAILED, 0.0, "trainer.max_length=960  # cuts no row"),
        (lengths([50] * 9 + [900], least=[20] * 10, context=512), 0.05, ""),
        (
            lengths([50] * 8 + [300, 900], least=[20] * 10, context=512), 0.1,
            "trainer.max_length=320  # cuts 1 of 10 rows",
        ),
        (lengths([50] * 8 + [900], least=[20] * 8 + [800], context=512), 0.0, "trainer.max_length=512  # cuts no row"),
    ],
)  # fmt: skip
def test_uncut_advice_cuts_few_enough_rows(found, limit, advice):
    assert found.uncut_advice(limit) == advice


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=300), st.integers(8, 2000), st.integers(0, 5),
    st.none() | st.integers(64, 4000), st.sampled_from([*Overflow]), st.randoms(use_true_random=False),
    st.none() | st.just(0.05),
)  # fmt: skip
def test_length_advice_keeps_the_stated_share(tokens, max_length, others, context, overflow, choice, limit):
    least = [number if number <= max_length else choice.randint(1, number) for number in tokens]
    result = lengths(tokens, max_length, others, context, least)
    for option in result.advice(BudgetConfig(dropped=0.01, truncated=limit), overflow).split("\n"):
        words = dict(word.split("=") for word in shlex.split(option) if "=" in word)
        if not words:
            assert option.startswith("shorten the rows")
            continue
        length = int(words.get("trainer.max_length", max_length))
        assert length % 64 == 0 or length in (context, max_length)
        truncating = words.get("data.overflow", overflow.value) == "truncate"
        kept = sum(number <= length for number in (least if truncating else tokens))
        if "data.overflow=truncate" in option:
            cut = sum(first <= length < number for first, number in zip(least, tokens, strict=True))
            assert option.endswith(f", {cut:,} of them cut")
            assert cut / kept <= float(words.get("data.budget.truncated", limit or 1)) + 1e-9
            assert context is None or length <= context
        output = re.search(r"keeps (all rows|[\d.]+%)", option)
        assert output is not None
        assert (output[1] == "all rows") == (kept == len(tokens))
        if output[1] != "all rows":
            assert overflow is not Overflow.error or words["data.overflow"] in ("drop", "truncate")
            assert 0 <= kept / len(tokens) - float(output[1][:-1]) / 100 < 0.0011
        if "trainer.max_length" in words and context is not None:
            assert length <= max(context, max_length)
        lost = (len(tokens) - kept + others) / (len(tokens) + others)
        assert lost <= float(words.get("data.budget.dropped", 0.01)) + 1e-9


def write(file, sizes):
    rows = [{"instruction": f"{i}? " + "word " * size, "output": "Yes."} for i, size in enumerate(sizes)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def long_rows(config, tmp_path):
    """Return the config of a run over 40 rows of source ``a``, of which 12 are longer than 120 tokens."""
    made_config = config()
    write(tmp_path / "a.jsonl", [1] * 28 + [40] * 11 + [90])
    del made_config.data.mix["b"]
    made_config.trainer.max_length = 120
    return made_config


def pasted(made_config, option):
    """Return the config with the settings of one option of an advice."""
    for word in shlex.split(option):
        key, _, value = word.partition("=")
        if key == "trainer.max_length":
            made_config = replace(made_config, trainer=replace(made_config.trainer, max_length=int(value)))
        elif key == "data.overflow":
            made_config = replace(made_config, data=replace(made_config.data, overflow=Overflow(value)))
        elif key.startswith("data.budget."):
            budget = replace(made_config.data.budget, **{key.rpartition(".")[2]: float(value)})
            made_config = replace(made_config, data=replace(made_config.data, budget=budget))
    return made_config


def test_long_rows_are_one_error_with_working_advice(long_rows):
    with pytest.raises(SftError) as caught:
        prepare_data(long_rows)
    error = caught.value
    assert type(error) is SftError
    assert error.where == "a.jsonl:29"
    assert re.fullmatch(
        r"12 of 40 rows are longer than trainer\.max_length=120; the longest has \d+ tokens \(a\.jsonl:40\)",
        error.problem,
    )
    options = error.fix.split("\n")
    assert [re.sub(r"\d+", "N", option, count=1) for option in options] == [
        "trainer.max_length=N  # keeps all rows",
        "data.overflow=drop data.budget.dropped=N.3  # keeps 70%",
    ]
    used = [prepare_data(pasted(long_rows, option)).manifest["sources"]["a"]["used"] for option in options]
    assert used == [40, 28]


@pytest.fixture
def long_answers(long_rows, tmp_path):
    """Return the config of a run over 40 rows: 11 answers and one question end after token 120."""
    rows = [{"instruction": f"{i}?", "output": "Yes. " * (1 if i < 28 else 40)} for i in range(39)]
    rows.append({"instruction": "word " * 90, "output": "Yes."})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return long_rows


def test_truncation_is_the_last_option_and_passes(long_answers):
    with pytest.raises(SftError) as caught:
        prepare_data(long_answers)
    option = caught.value.fix.split("\n")[-1]
    assert option == "data.overflow=truncate data.budget.dropped=0.025  # keeps 97.5%, 11 of them cut"
    result = prepare_data(pasted(long_answers, option)).manifest["sources"]["a"]
    assert (result["used"], result["truncated"]) == (39, 11)


def test_truncation_budget_advises_a_sufficient_length(long_answers):
    long_answers.data.overflow, long_answers.data.budget.truncated = Overflow.truncate, 0.2
    with pytest.raises(Mistakes) as caught:
        prepare_data(long_answers)
    dropped, truncated = caught.value.errors
    assert dropped.problem == (
        "1 of 40 rows (2.50%) were dropped, more than 1.00%: "
        "1 too long, no trained token left by truncation (a.jsonl:40; data.overflow=truncate)"
    )
    cut = re.fullmatch(
        r"11 of 39 rows \(28\.21%\) were truncated, more than 20\.00%: "
        r"11 longer than trainer\.max_length, ([\d,]+) tokens cut \(a\.jsonl:29\)",
        truncated.problem,
    )
    assert cut is not None
    longer, _, budgets = zip(*(error.fix.partition("\n") for error in caught.value.errors), strict=True)
    result = prepare_data(pasted(long_answers, " ".join(budgets))).manifest["sources"]["a"]
    assert (result["used"], result["truncated"], result["truncated_tokens"]) == (39, 11, int(cut[1].replace(",", "")))
    result = prepare_data(pasted(pasted(long_answers, longer[1]), longer[0])).manifest["sources"]["a"]
    assert (result["used"], result["truncated"], result["truncated_tokens"]) == (40, 0, 0)


def test_budget_error_names_the_cause_and_its_advice_works(long_rows, tmp_path):
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("{}\n")
    long_rows.data.overflow, long_rows.data.on_bad_row = Overflow.drop, OnBadRow.drop
    with pytest.raises(SftError) as caught:
        prepare_data(long_rows)
    assert caught.value.problem == (
        "13 of 41 rows (31.71%) were dropped, more than 1.00%: 12 too long (a.jsonl:29; data.overflow=drop), "
        "1 missing field instruction (a.jsonl:41; data.on_bad_row=drop)"
    )
    first, _, second = caught.value.fix.partition("\n")
    assert prepare_data(pasted(long_rows, first)).manifest["sources"]["a"]["used"] == 40
    assert prepare_data(pasted(long_rows, second)).manifest["sources"]["a"]["used"] == 28


def test_budget_advice_for_a_source_without_rows_left(long_rows):
    long_rows.data.overflow, long_rows.trainer.max_length = Overflow.drop, 10
    with pytest.raises(SftError, match=r"data\.mix\.a: no row is left, 40 were dropped: 40 too long") as caught:
        prepare_data(long_rows)
    assert prepare_data(pasted(long_rows, caught.value.fix)).manifest["sources"]["a"]["used"] == 40


def test_missing_held_out_rows_give_a_reason(long_rows, capsys):
    long_rows.data.overflow, long_rows.data.budget.dropped, long_rows.data.val_rows = Overflow.drop, 0.4, 20
    result = prepare_data(long_rows)
    lost = result.manifest["held_out_dropped"]["too long"]
    held = result.manifest["splits"]["validation"]["examples"]
    assert lost > 0
    assert held + lost == 20
    assert f"held out  {held} examples ({lost} more dropped: too long)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config_json", "context"),
    [
        ('{"max_position_embeddings": 512}', 512), ('{"n_positions": 1024}', 1024),
        ('{"text_config": {"max_position_embeddings": 2048}}', 2048), ("{}", None), ("[]", None), ("{", None),
    ],
)  # fmt: skip
def test_context_length_of_a_model(tmp_path, config_json, context):
    (tmp_path / "config.json").write_text(config_json)
    assert read_context_length(str(tmp_path)) == context
    assert read_context_length(str(tmp_path / "none")) is None
    assert read_context_length(None) is None
