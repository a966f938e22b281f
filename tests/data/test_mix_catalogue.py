"""The data sets this package names, and the mixes it ships: found on the disk, composed, complete."""

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
    """Paths for the sources a recipe leaves to the user."""
    return [f"data.mix.{name}.path={name}.jsonl" for name in names]


@pytest.mark.parametrize("file", CATALOGUE, ids=lambda file: file.stem)
def test_an_entry_names_hub_id_revision_format_licence_and_rows(file):
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
def test_the_columns_of_an_entry_are_its_formats(file):
    (source,) = compose([f"data={file.stem}"]).data.mix.values()
    assert isinstance(source.format, str)
    assert set(source.columns) <= set(FORMATS[source.format].reads)


def test_the_catalogue_is_there():
    requested = "alpaca alpaca_cleaned dolly oasst1 oasst2 sharegpt openorca slimorca tulu3 no_robots lima gsm8k"
    assert {*requested.split(), "wizardlm_evol", "self_instruct", "glaive_tools", "aya"} <= {f.stem for f in CATALOGUE}


def test_the_flan_mix_counts_a_task_as_3000_rows_of_at_most_30000():
    names = ("inference", "question_answering", "summarization")
    mix = compose(["recipe=flan_mix", *given(*names)]).data.mix
    assert {name: (source.cap, source.max_rows) for name, source in mix.items()} == dict.fromkeys(names, (3000, 30000))


def test_an_epoch_of_the_flan_mix_sees_the_largest_task_whole_and_repeats_the_small_ones():
    """Rates of 1,000, 3,000 and 3,000: 70,000 rows until 30,000 are seen."""
    names = ("inference", "question_answering", "summarization")
    data = compose(["recipe=flan_mix", *given(*names)]).data
    rows = draw_epoch(data, pools(data, dict(zip(names, ([1] * 1000, [1] * 4000, [1] * 30000), strict=True))), 0)
    assert [int(rows.copies(i).sum()) for i in range(3)] == [10000, 30000, 30000]


def test_the_t0_mix_counts_a_data_set_of_ten_prompts_as_50000_rows():
    names = ("question_answering", "sentiment", "paraphrase")
    mix = compose(["recipe=t0_mix", *given(*names)]).data.mix
    assert {name: source.cap for name, source in mix.items()} == dict.fromkeys(names, 50000)


def test_the_tulu_mix_lays_samples_end_to_end():
    mix = compose(["recipe=tulu_mix", *given("flan", "chain_of_thought", "code")]).data.mix
    limits = {"flan": 50000, "chain_of_thought": 50000, "wizardlm_evol": 30000, "openorca": 30000}
    assert {name: source.max_rows for name, source in mix.items() if source.max_rows} == limits
    assert {source.weight for source in mix.values()} == {1.0}
    assert {"oasst1", "sharegpt", "lima", "code"} <= set(mix)
