"""Real tokenizers encode in llama.cpp as they do in training."""

import json
import shutil

import pytest
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from sft_cli.errors import SftError
from sft_cli.export.gguf_file import write_gguf
from sft_cli.export.gguf_vocab import pre_tokenizer_name
from sft_cli.export.references import STRESS, TextCase
from tests.export.families import save_family


@pytest.mark.material
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2", "llama3", "mistral_v3", "qwen2_5", "qwen3"])
def test_real_tokenizers_have_the_same_ids(tmp_path, material_dir, name):
    pytest.importorskip("llama_cpp")
    from sft_cli.export.llama_cpp import GgufVocabulary

    model = tmp_path / "model"
    tokenizer = Tokenizer.from_file(str(material_dir / "tokenizers" / name / "tokenizer.json"))
    size = tokenizer.get_vocab_size(with_added_tokens=True) + 8
    config = LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(model)
    shutil.copytree(material_dir / "tokenizers" / name, model, dirs_exist_ok=True)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))

    write_gguf(model, tmp_path / "model.gguf", "f16", "")

    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    texts = [*STRESS, f"{special[1]}user\nHi there{special[2]}\n", "def f(x):\n    return x  # 12,345\n"]
    cases = [TextCase(text[:9], text, tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    opened = GgufVocabulary(tmp_path / "model.gguf")
    assert opened.wrong_ids(cases) == []
    opened.close()


def test_an_unknown_split_is_refused_before_anything_is_written(tmp_path):
    save_family(tmp_path / "model", "llama")
    file = tmp_path / "model" / "tokenizer.json"
    data = json.loads(file.read_text())
    assert pre_tokenizer_name(data, "") == "gpt-2"
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, data["pre_tokenizer"]]}
    file.write_text(json.dumps(data))

    with pytest.raises(SftError, match=r"splits texts by Whitespace and ByteLevel in a way that llama.cpp has no name"):
        write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f16", "--to merged")

    assert not (tmp_path / "model.gguf").exists()
