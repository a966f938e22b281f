"""Output of `--explain`: the stages that run again, and their changed inputs."""

from dataclasses import fields

import pytest

from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.prepare import encode_stage, manifest
from sft_cli.prepare import rows_stage as making_rows
from sft_cli.prepare.prepare import explain_stages, prepare_data
from tests.prepare.helpers import make_rows, write_jsonl
from tests.prepare.stage_helpers import change_priority


def test_explain_lists_changes_by_stage(config, tmp_path):
    assert explain_stages(config()) == ["there is no earlier preparation here: every stage runs"]
    prepare_data(config())
    names = ["rows a", "rows b", "clean leakage", "encode", "mix"]
    assert explain_stages(config()) == [f"{name:<24} up to date" for name in names]
    changed = config()
    changed.template.name, changed.data.mix["b"].weight = "vicuna", 3.0
    assert explain_stages(changed) == [
        f"{'rows a':<24} up to date",
        f"{'rows b':<24} up to date",
        f"{'clean leakage':<24} up to date",
        f"{'encode':<24} runs again: template changed",
        f"{'mix':<24} runs again: data.mix.b.weight changed",
    ]
    write_jsonl(tmp_path / "b.jsonl", make_rows("b", 13))
    assert explain_stages(config()) == [
        f"{'rows a':<24} up to date",
        f"{'rows b':<24} runs again: b.jsonl (data.mix.b) changed",
        f"{'clean leakage':<24} runs again: it depends on rows b",
        f"{'encode':<24} runs again: it depends on rows b",
        f"{'mix':<24} runs again: it depends on rows b",
    ]


def change_max_rows(config):
    config.data.mix["a"].max_rows = 5


def change_loss_weight(config):
    config.data.mix["a"].loss_weight = 0.5


def change_order(config):
    config.data.mix = dict(reversed(config.data.mix.items()))


def take_out(config):
    del config.data.mix["a"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_max_rows, {"encode": "data.mix.a.max_rows changed", "mix": "data.mix.a.max_rows changed"}),
        (change_loss_weight, {"encode": "data.mix.a.loss_weight changed", "mix": "data.mix.a.loss_weight changed"}),
        (change_priority, {
            "clean leakage": "data.mix.b.priority changed", "encode": "it depends on clean leakage",
            "mix": "data.mix.b.priority changed",
        }),
        (change_order, {
            "clean leakage": "the order of data.mix changed", "encode": "it depends on clean leakage",
            "mix": "the order of data.mix changed",
        }),
        (take_out, {
            "clean leakage": "data.mix.a was removed", "encode": "data.mix.a was removed",
            "mix": "the order of data.mix, data.mix.a changed",
        }),
    ],
)  # fmt: skip
def test_explain_lists_stages_that_read_a_key_of_a_source(config, change, expected):
    prepare_data(config())
    changed = config()
    change(changed)
    lines = dict(line.split(None, 1) if line[:5] not in ("rows ", "clean") else (line[:24].rstrip(), line[24:].strip())
                 for line in explain_stages(changed))  # fmt: skip
    again = {stage: why.removeprefix("runs again: ") for stage, why in lines.items() if why != "up to date"}
    assert again == expected


PLACES = {"path", "name", "revision", "split", "validation_path", "validation_split"}
"""Keys with the paths of a source's rows; the content of the files is the input instead."""


def test_every_key_of_a_source_is_an_input_of_some_stage():
    """If a key were missing, changing it would reuse old rows."""
    known = {*making_rows.RULES, *manifest.SOURCE_RULES, *PLACES, "shuffle_buffer"}
    assert {field.name for field in fields(SourceConfig)} == known


def test_every_key_of_the_data_is_an_input_of_some_stage():
    """The number of processes is no input, since it changes no row; content tokens are an input of the tokenizer."""
    known = {*encode_stage.RULES, *manifest.MIX_RULES, "mix", "workers", "content_tokens"}
    assert {field.name for field in fields(DataConfig)} == known
