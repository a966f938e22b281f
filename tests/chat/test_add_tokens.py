"""Added tokens in the tokenizer: ids, text, files, the ids of transformers, and errors."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sft_cli.chat.tokens.added_tokens import add_tokens, added_ids
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.compose import compose
from sft_cli.errors import SftError
from sft_cli.prepare.model_template import load_tokenizer_and_template

MATERIAL = Path(__file__).parents[2].parent / "shared" / "material" / "tokenizers"
TOKENS = ["<x>", "<|call|>", "föö bar"]
TEXT = "hi <x>there <|call|> a föö bar.\n<x><x>"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))


def test_added_tokens_follow_the_tokenizers_own_in_order(tokenizer):
    size = tokenizer.backend.get_vocab_size()
    added = add_tokens(tokenizer, TOKENS)
    assert added_ids(added, TOKENS) == [size, size + 1, size + 2]
    assert added_ids(add_tokens(tokenizer, TOKENS[::-1]), TOKENS) == [size + 2, size + 1, size]
    assert tokenizer.backend.get_vocab_size() == size  # the original tokenizer is unchanged in memory and on disk
    assert load_tokenizer(str(tokenizer.directory)).backend.get_vocab_size() == size


def test_each_added_token_is_a_single_id_in_every_text(tokenizer):
    added = add_tokens(tokenizer, ["<x>"])
    (new,) = added_ids(added, ["<x>"])
    first, second = (tokenizer.encode_batch([part])[0] for part in ("ab", "c"))
    (ids,) = added.encode_batch(["ab<x>c<x>"])
    assert ids == [*first, new, *second, new]
    assert added.decode_batch([ids]) == ["ab<x>c<x>"]
    assert added.backend.decode(ids, skip_special_tokens=True) == "ab<x>c<x>"


def test_token_written_like_a_control_token_is_a_control_token(tokenizer):
    added = add_tokens(tokenizer, ["<x>", "<|end|>"])
    assert "<|end|>" in added.control_tokens
    assert "<x>" not in added.control_tokens
    ids = added.encode_batch(["a<|end|><x>"])[0]
    assert added.backend.decode(ids, skip_special_tokens=True) == "a<x>"


def test_no_tokens_to_add(tokenizer):
    assert add_tokens(tokenizer, []) is tokenizer


def test_the_fingerprint_includes_added_tokens(tokenizer, tmp_path):
    added = add_tokens(tokenizer, ["<x>"])
    assert added.digests() != tokenizer.digests()
    assert added.digests() != add_tokens(tokenizer, ["<y>"]).digests()
    assert add_tokens(tokenizer, ["<x>"]).digests() == added.digests()
    added.with_template("{{ messages }}").save(tmp_path / "saved")
    assert load_tokenizer(str(tmp_path / "saved")).digests() == added.digests()


def test_files_of_older_libraries_are_updated(tokenizer):
    for name, values in (("added_tokens.json", {"<pad>": 0}), ("tokenizer_config.json", None)):
        file = tokenizer.directory / name
        values = {**json.loads(file.read_text()), "added_tokens_decoder": {}} if values is None else values
        file.write_text(json.dumps(values))
    added = add_tokens(load_tokenizer(str(tokenizer.directory)), ["<x>"])
    (new,) = added_ids(added, ["<x>"])
    assert json.loads((added.directory / "added_tokens.json").read_text()) == {"<pad>": 0, "<x>": new}
    decoder = json.loads((added.directory / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert decoder[str(new)] == {
        "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False,
    }  # fmt: skip


def test_known_tokens_are_rejected_all_at_once(tokenizer):
    ids = [tokenizer.backend.token_to_id(text) for text in ("<s>", "a")]
    with pytest.raises(SftError) as caught:
        add_tokens(tokenizer, ["<s>", "<x>", "a"])
    fix = "fix: remove it: it can be used and trained without being added"
    assert f"model.add_tokens: '<s>' is already in the tokenizer, as token {ids[0]}\n  {fix}" in str(caught.value)
    assert f"model.add_tokens: 'a' is already in the tokenizer, as token {ids[1]}\n  {fix}" in str(caught.value)
    assert "<x>" not in str(caught.value)


def test_preparation_adds_the_tokens(tokenizer):
    words = [f"model.tokenizer={tokenizer.directory}", "template=chatml", "data=local", "data.mix.local.path=x.jsonl"]
    found, _ = load_tokenizer_and_template(compose([*words, "model.add_tokens=[<x>]"]))
    assert added_ids(found, ["<x>"]) == [tokenizer.backend.get_vocab_size()]


@pytest.mark.slow
@pytest.mark.material
@pytest.mark.parametrize("name", ["llama2", "llama3", "mistral_v3", "qwen2_5", "qwen3"])
def test_transformers_makes_the_same_ids(name):
    if not (MATERIAL / name).is_dir():
        pytest.skip("no material here")
    added = add_tokens(load_tokenizer(str(MATERIAL / name)), TOKENS)
    server = AutoTokenizer.from_pretrained(added.directory)
    ids = server.encode(TEXT, add_special_tokens=False)
    assert ids == added.encode_batch([TEXT])[0]
    assert [ids.count(id) for id in added_ids(added, TOKENS)] == [3, 1, 1]
    assert server.convert_tokens_to_ids(TOKENS) == added_ids(added, TOKENS)
    shown = server.decode(ids, skip_special_tokens=True)
    assert "<x>" in shown
    assert "<|call|>" not in shown
    assert len(server) == max(added_ids(added, TOKENS)) + 1
