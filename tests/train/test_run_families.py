"""``sft train`` and ``sft merge`` from end to end on a tiny random model of every family."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, BartConfig, RobertaConfig, T5Config, ViTConfig

from sft_cli.batching.step_plan import make_step_plan
from sft_cli.cli import execute
from sft_cli.data.prepared import open_prepared
from sft_cli.errors import SftError

SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.1, "max_position_embeddings": 512,
}  # fmt: skip
WINDOW = {"sliding_window": 32}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 4, "head_dim": 8, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
MAMBA = {"mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "shared_expert_intermediate_size": 32,
}  # fmt: skip
STILL = {"dropout": 0.0, "attention_dropout": 0.0}


@dataclass(frozen=True)
class Family:
    """A family and the expected messages of a run on a tiny model."""

    kind: str
    special: dict
    packs: bool
    fused: str


FAMILIES = {
    "llama": Family("llama", {}, True, "14 LoRA layers in 8 groups"),
    "qwen2": Family("qwen2", {}, True, "14 LoRA layers in 8 groups"),
    "qwen3": Family("qwen3", {}, True, "14 LoRA layers in 8 groups"),
    "mistral": Family("mistral", WINDOW, True, "14 LoRA layers in 8 groups"),
    "gemma2": Family("gemma2", {**WINDOW, "attn_logit_softcapping": 5.0}, True, "14 LoRA layers in 8 groups"),
    "gemma3": Family("gemma3_text", MIXED, True, "14 LoRA layers in 8 groups"),
    "gemma3n": Family(
        "gemma3n_text",
        {**MIXED, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8,
         "activation_sparsity_pattern": [0.0, 0.0], "laurel_rank": 8, "intermediate_size": [64, 64]},
        True, "35 LoRA layers in 27 groups",
    ),
    "phi3": Family("phi3", {"sliding_window": None}, True, "8 LoRA layers in 8 groups"),
    "olmo2": Family("olmo2", {}, True, "14 LoRA layers in 8 groups"),
    "granite": Family("granite", {"logits_scaling": 2.0}, True, "14 LoRA layers in 8 groups"),
    "smollm3": Family("smollm3", {"no_rope_layers": [1, 0]}, True, "14 LoRA layers in 8 groups"),
    "gpt2": Family(
        "gpt2",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "attn_pdrop": 0, "embd_pdrop": 0,
         "resid_pdrop": 0},
        True, "8 LoRA layers in 8 groups",
    ),
    "gpt-oss": Family("gpt_oss", {**MIXED, **LOCAL_EXPERTS}, True, "8 LoRA layers in 4 groups"),
    "qwen3-moe": Family("qwen3_moe", EXPERTS, True, "8 LoRA layers in 4 groups"),
    "qwen2-moe": Family(
        "qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 32}, True, "8 LoRA layers in 4 groups"
    ),
    "mixtral": Family("mixtral", LOCAL_EXPERTS, True, "8 LoRA layers in 4 groups"),
    "deepseek-v3": Family("deepseek_v3", LATENT, True, "10 LoRA layers in 8 groups"),
    "opt": Family("opt", {**STILL, "ffn_dim": 64, "word_embed_proj_dim": 64}, True, "12 LoRA layers in 8 groups"),
    "bloom": Family("bloom", {"n_layer": 2, "n_head": 4}, False, "8 LoRA layers in 8 groups"),
    "falcon": Family(
        "falcon", {"head_dim": None, "multi_query": False}, False,
        "no LoRA layer; 8 keep PEFT's forward: their base is a FalconLinear",
    ),
    "falcon-h1": Family(
        "falcon_h1", {**MAMBA, "mamba_d_ssm": 64, "mamba_n_heads": 4}, False, "16 LoRA layers in 10 groups"
    ),
    "bamba": Family("bamba", {**MAMBA, "mamba_n_heads": 8, "attn_layer_indices": [1]}, False,
                    "11 LoRA layers in 7 groups"),
    "mamba2": Family(
        "mamba2", {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 8}, False,
        "2 LoRA layers in 2 groups",
    ),
    "qwen3-next": Family("qwen3_next", {**EXPERTS, **LINEAR}, False, "7 LoRA layers in 4 groups"),
}  # fmt: skip

WORDS = ("trainer.max_steps=4", "trainer.dtype=float32", "speed.tokens_per_micro_batch=400", "speed.threads=1")


@pytest.fixture(scope="module")
def similar_rows(tmp_path_factory):
    """24 rows with a common prefix, longer than the windows."""
    file = tmp_path_factory.mktemp("alike") / "rows.jsonl"
    answers = ["yes", "a long answer " * 4, "no no", "b" * 40]
    begin = "you are the very helpful assistant of somebody. question "
    lines = [{"prompt": f"{begin}{i}" + " more" * (i % 5), "completion": answers[i % 4] + str(i)} for i in range(24)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def model(base, tmp_path):
    """Write a tiny model of a family with the tokenizer of ``base``; norms and biases are randomized."""

    def write(kind, special):
        directory = tmp_path / "base"
        directory.mkdir()
        for file in base.glob("tokenizer*"):
            shutil.copy(file, directory)
        torch.manual_seed(0)
        sizes = {name: value for name, value in {**SIZES, **special}.items() if name != "head_dim" or value}
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        made.save_pretrained(directory)
        return directory

    return write


def plain_loss(done, base):
    """Return the mean loss of the first step's rows by plain transformers, one row at a time."""
    prepared = open_prepared(Path(done.read_json(done.data)["prepared_dir"]))
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    total, count = 0.0, 0
    for index in make_step_plan(prepared.stages, 5, 1, 4, 42).examples(0):
        row = prepared.train.tokens(index)
        ids, trained = torch.tensor(row.input_ids).long(), torch.tensor(row.weights)[1:]
        with torch.no_grad():
            logits = lm(input_ids=ids[None], use_cache=False).logits[0].float()
        total += (cross_entropy(logits[:-1], ids[1:], reduction="none") * trained).sum().item()
        count += trained.sum().item()
    return total / count


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_evaluates_and_merges(runs, metrics, model, similar_rows, capsys, name):
    family = FAMILIES[name]
    base = model(family.kind, family.special)

    done = runs.start(
        "r",
        *WORDS,
        f"model.path={base}",
        f"data.mix.local.path={similar_rows}",
        "eval.samples=1",
        "eval.max_new_tokens=3",
    )
    execute(["merge", str(done.path)])

    output, steps = capsys.readouterr().out, metrics(done)
    assert steps[0]["loss"] == pytest.approx(plain_loss(done, base), abs=1e-5)
    assert min(step["loss"] for step in steps) < steps[0]["loss"]
    assert ("packing   verified" in output, "packing   off" in output) == (family.packs, not family.packs)
    assert "prefixes  not shared" not in output
    assert f"fused     {family.fused}\n" in output
    assert len(metrics(done, eval=True)) == 1
    AutoModelForCausalLM.from_pretrained(done.path / "merged")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "gpt-oss", "falcon-h1"])
def test_full_fine_tuning_of_a_family(runs, metrics, model, similar_rows, name):
    base = model(FAMILIES[name].kind, FAMILIES[name].special)

    done = runs.start("r", *WORDS, f"model.path={base}", f"data.mix.local.path={similar_rows}", "adapter=none")

    steps = metrics(done)
    assert steps[0]["loss"] == pytest.approx(plain_loss(done, base), abs=1e-5)
    assert min(step["loss"] for step in steps) < steps[0]["loss"]
    AutoModelForCausalLM.from_pretrained(done.model)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (
            T5Config(),
            ("model type t5 is not a causal language model", "name a model that AutoModelForCausalLM can load"),
        ),
        (
            ViTConfig(),
            ("model type vit is not a causal language model", "name a model that AutoModelForCausalLM can load"),
        ),
        (
            BartConfig(),
            (
                "model type bart has an encoder, but a causal language model has only a decoder",
                "name a decoder-only model",
            ),
        ),
        (
            RobertaConfig(),
            (
                "model type roberta is an encoder: each token attends to later ones, also to those it should predict",
                'name a causal language model; if this one was trained as such, add "is_decoder": true to its'
                " config.json",
            ),
        ),
    ],
    ids=["encoder-decoder", "images", "decoder-taken-apart", "encoder"],
)
def test_a_model_that_is_not_a_causal_lm_is_refused(runs, tmp_path, base, config, error):
    directory = tmp_path / "other"
    shutil.copytree(base, directory)
    config.save_pretrained(directory)

    with pytest.raises(SftError) as refused:
        runs.start("r", f"model.path={directory}")

    assert str(refused.value) == f"model.path={directory}: {error[0]}\n  fix: {error[1]}"
    assert not (tmp_path / "r").exists()
