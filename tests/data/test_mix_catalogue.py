"""The data sets and mixes of this package: read from disk, composed, complete."""

import re
from pathlib import Path

import pytest
from mix_pools import pools

from sft_cli.config.compose import compose
from sft_cli.data.formats.row_converter import FORMATS
from sft_cli.data.mixing.epoch_draw import draw_epoch

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = [
    file for file in sorted((ROOT / "configs/data").glob("*.yaml")) if file.stem not in ("local", "quickstart")
]


def given(*names: str) -> list[str]:
    """Return paths for the sources that a recipe leaves to the user."""
    return [f"data.mix.{name}.path={name}.jsonl" for name in names]


@pytest.mark.parametrize("file", CATALOGUE, ids=lambda file: file.stem)
def test_entries_have_hub_id_revision_format_license_and_rows(file):
    (source,) = compose([f"data={file.stem}"]).data.mix.values()
    assert source.path
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.path)
    assert source.format in FORMATS
    assert source.licence
    text = file.read_text(encoding="utf-8")
    assert re.search(r"^ +revision: ", text, flags=re.MULTILINE), "the place to pin a commit"
    header = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert re.search(r"\d[\d,]*\d(k|M)? |about \d", header), "the number of rows is stated"


@pytest.mark.parametrize("file", CATALOGUE, ids=lambda file: file.stem)
def test_columns_of_an_entry_match_its_format(file):
    (source,) = compose([f"data={file.stem}"]).data.mix.values()
    assert isinstance(source.format, str)
    assert set(source.columns) <= set(FORMATS[source.format].reads)


def test_catalogue_is_complete():
    requested = "alpaca alpaca_cleaned dolly oasst1 oasst2 sharegpt openorca slimorca tulu3 no_robots lima gsm8k"
    assert {*requested.split(), "wizardlm_evol", "self_instruct", "glaive_tools", "aya"} <= {f.stem for f in CATALOGUE}


def test_flan_mix_caps_tasks():
    names = ("inference", "question_answering", "summarization")
    mix = compose(["recipe=flan_mix", *given(*names)]).data.mix
    assert {name: (source.cap, source.max_rows) for name, source in mix.items()} == dict.fromkeys(names, (3000, 30000))


def test_flan_epoch_uses_the_largest_task_fully_and_repeats_small_ones():
    """With rates of 1,000, 3,000 and 3,000, an epoch has 70,000 rows, until 30,000 of the largest task are used."""
    names = ("inference", "question_answering", "summarization")
    data = compose(["recipe=flan_mix", *given(*names)]).data
    rows = draw_epoch(data, pools(data, dict(zip(names, ([1] * 1000, [1] * 4000, [1] * 30000), strict=True))), 0)
    assert [int(rows.copies(i).sum()) for i in range(3)] == [10000, 30000, 30000]


def test_t0_mix_caps_data_sets_of_ten_prompts():
    names = ("question_answering", "sentiment", "paraphrase")
    mix = compose(["recipe=t0_mix", *given(*names)]).data.mix
    assert {name: source.cap for name, source in mix.items()} == dict.fromkeys(names, 50000)


def test_tulu_mix_concatenates_samples():
    mix = compose(["recipe=tulu_mix", *given("flan", "chain_of_thought", "code")]).data.mix
    limits = {"flan": 50000, "chain_of_thought": 50000, "wizardlm_evol": 30000, "openorca": 30000}
    assert {name: source.max_rows for name, source in mix.items() if source.max_rows} == limits
    assert {source.weight for source in mix.values()} == {1.0}
    assert {"oasst1", "sharegpt", "lima", "code"} <= set(mix)
