"""Models of every family answer in llama.cpp as in transformers."""

from pathlib import Path

import pytest
import torch

from sft_cli.errors import SftError
from sft_cli.export.gguf_family import FAMILIES as WRITTEN
from sft_cli.export.gguf_file import write_gguf
from sft_cli.export.llama_cpp import GgufVocabulary, compare_answers, summarize
from sft_cli.export.references import stress_cases
from tests.export.families import FAMILIES, save_family

pytest.importorskip("llama_cpp")


def prompts(lengths=(3, 9, 20, 45)) -> list[list[int]]:
    """Return random prompts; some are longer than the sliding windows."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, 320, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.every_change("llama")
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_are_those_of_transformers(tmp_path, name):
    model = save_family(tmp_path / "model", name)

    vocabulary = write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32", "")

    gaps = compare_answers(tmp_path / "model.gguf", model, prompts(), [0, 1])
    report = summarize(gaps, "f32")
    assert (report.equal, report.total) == (4, 4), gaps
    assert vocabulary.pre == "gpt-2"


@pytest.mark.every_change("f16")
@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_smaller_dtypes_differ_by_rounding_alone(tmp_path, dtype):
    model = save_family(tmp_path / "model", "llama")

    write_gguf(tmp_path / "model", tmp_path / "model.gguf", dtype, "")

    report = summarize(compare_answers(tmp_path / "model.gguf", model, prompts(), [0, 1]), dtype)
    assert report.equal + report.rounding == report.total
    sizes = {"f16": 0.5, "bf16": 0.5, "q8_0": 0.27}
    whole = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert (tmp_path / "model.gguf").stat().st_size < whole * sizes[dtype] + 40_000


def test_every_family_has_a_model():
    assert {kind.model_type for kind, _ in FAMILIES.values()} == set(WRITTEN)


def test_ids_and_stops_are_those_of_the_tokenizer(tmp_path):
    save_family(tmp_path / "model", "llama")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f16", "")

    opened = GgufVocabulary(tmp_path / "model.gguf")

    assert opened.wrong_ids(stress_cases(tmp_path / "model")) == []
    assert [opened.is_end(id) for id in (0, 1, 2)] == [True, True, False]
    opened.close()


def test_a_damaged_file_is_an_error(tmp_path: Path, capfd):
    (tmp_path / "model.gguf").write_bytes(b"GGUF not a model")

    with pytest.raises(SftError, match=r"llama.cpp cannot open the file: .+"):
        GgufVocabulary(tmp_path / "model.gguf")
    assert capfd.readouterr().err == ""
