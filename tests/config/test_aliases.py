# ruff: noqa: E501
"""Suggestions for keys and values of other tools."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.keys.aliases import KEY_ALIASES
from sft_cli.config.keys.unsupported import UNSUPPORTED
from sft_cli.config.keys.valid_keys import KEYS, suggest_key
from sft_cli.errors import SftError

KEYS_ELSEWHERE = [
    ("neftune_noise_alpha=5", "here it is called loss.neftune: write loss.neftune=5"),
    ("trainer.label_smoothing_factor=0.1", "here it is called loss.label_smoothing: write loss.label_smoothing=0.1"),
    ("router_aux_loss_coef=0.01", "here it is called loss.router: write loss.router=0.01"),
    ("use_rslora=true", "here it is called adapter=rslora"),
    ("use_rslora=false", "remove it; set to true, it is called adapter=rslora here"),
    ("adapter.use_dora=true", "here it is called adapter=dora"),
    ("init_lora_weights=pissa", "here it is called adapter.init: write adapter.init=pissa"),
    ("loraplus_lr_ratio=16", "here it is called adapter.lr_ratio: write adapter.lr_ratio=16"),
    ("lora_plus=true", "here it is called adapter=loraplus"),
    ("report_to=wandb", "here it is called tracking.report_to: write tracking.report_to=[wandb]"),
    ("report_to=none", "here it is called tracking.report_to: write tracking.report_to=[]"),
    ("lora_target=all", "here it is called adapter.target_modules: write adapter.target_modules=[all-linear]"),
    ("lora_target=q_proj,v_proj", "here it is called adapter.target_modules: write adapter.target_modules=[q_proj,v_proj]"),
    ("gradient_checkpointing=true", "did you mean speed.gradient_checkpointing=auto or speed.gradient_checkpointing=full?"),
    ("optim=adamw_torch_fused", "here it is called trainer.optimizer: write trainer.optimizer=adamw"),
    ("lr_scheduler_type=constant_with_warmup", "here it is called trainer.schedule: write trainer.schedule=constant"),
    ("num_train_epochs=3.0", "here it is called trainer.epochs: write trainer.epochs=3"),
    ("max_steps=-1", "did you mean trainer.max_steps=null?"),
    ("use_liger_kernel=true", "here it is called speed.kernels: write speed.kernels=auto or speed.kernels=always"),
    ("use_ema=true", "here it is called trainer.average=ema"),
    ("excess_length_strategy=truncate", "here it is called data.overflow: write data.overflow=truncate"),
    ("excess_length_strategy=raise", "here it is called data.overflow: write data.overflow=error"),
    ("truncation_strategy=delete", "here it is called data.overflow: write data.overflow=drop"),
    ("truncation_mode=keep_end", "here it is called data.overflow: write data.overflow=drop_oldest_turns"),
    ("truncation=true", "here it is called data.overflow: write data.overflow=truncate"),
    ("truncation=false", "here it is called data.overflow: write data.overflow=error"),
    ("cutoff_len=2048",
     "here it is called trainer.max_length: write trainer.max_length=2048, with data.overflow=truncate to cut longer"
     " rows as there (left out, they are an error)"),
    ("max_seq_length=512",
     "here it is called trainer.max_length: write trainer.max_length=512, with data.overflow=truncate to cut longer"
     " rows as there (left out, they are an error)"),
    ("ddp_timeout=1800",
     "here it is called distributed.timeout_minutes, in minutes: write distributed.timeout_minutes=30"),
    ("adam_beta2=0.95", "here both are one key: write trainer.betas=[0.9,0.95]"),
    ("val_set_size=500", "here a number of rows is called data.val_rows: write data.val_rows=500"),
    ("val_set_size=0.05", "here it is called data.val_fraction: write data.val_fraction=0.05"),
    ("finetuning_type=full", "here it is a choice: write adapter=none"),
    ("quantization_bit=4", "here it is called quant.kind: write quant.kind=nf4"),
    ("deepspeed=zero3.json", "here it is a choice: write distributed=fsdp"),
    ("datasets=[{path: a.jsonl, type: alpaca}]",
     "here it is called data.mix.<name>.path: write data.mix.local.path=a.jsonl"),
    ("group_by_length=true", "remove it: nothing is padded here, so lengths may differ"),
    ("padding_free=true",
     "remove it: examples are always packed without padding, none attends to another, and"
     " speed.tokens_per_micro_batch sets how many tokens are computed at once"),
    ("torch_compile=true", "remove it: the operations that a compiler fuses are fused here already, without minutes of compiling"),
    ("resume_from_checkpoint=runs/a/checkpoints/step-50", "resume a run by its directory: sft train --resume runs/a"),
    ("retention.stop=true", "did you mean trainer.retention.stop=true?"),
    ("trainer.retention.math.path=a.jsonl", "did you mean trainer.retention.probes.<name>.path?"),
    ("trainer.probes.math.metric=loss", "did you mean trainer.retention.probes.<name>.metric?"),
]  # fmt: skip


def refusal(*words: str) -> SftError:
    with pytest.raises(SftError) as refused:
        compose(list(words))
    return refused.value


@pytest.mark.parametrize(("word", "fix"), KEYS_ELSEWHERE, ids=[word for word, _ in KEYS_ELSEWHERE])
def test_key_of_another_tool_suggests_ours_with_the_value(word, fix):
    error = refusal(word)

    assert error.problem.startswith(f"there is no key {word.partition('=')[0]}")
    assert error.fix == fix


@pytest.mark.parametrize(
    ("words", "arithmetic", "examples"),
    [
        (["gradient_accumulation_steps=4", "micro_batch_size=2"], "4 x 2 x GPUs", 8),
        (["per_device_train_batch_size=8", "gradient_accumulation_steps=2"], "2 x 8 x GPUs", 16),
        (["gradient_accumulation_steps=4"], "4 x examples per device x GPUs", 4),
        (["micro_batch_size=2"], "accumulation steps x 2 x GPUs", 2),
    ],
)
def test_batch_keys_share_one_fix_with_the_product(words, arithmetic, examples):
    error = refusal(*words)

    assert error.problem.count("no key") == len(words)
    assert f"over all GPUs: {arithmetic};" in error.fix
    assert f"write trainer.examples_per_step={examples} and remove" in error.fix


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("speed.gradient_checkpointing=true", "=auto or speed.gradient_checkpointing=full"),
        ("speed.gradient_checkpointing=false", "=none"),
        ("trainer.optimizer=adamw_torch", "=adamw"),
        ("trainer.schedule=constant_with_warmup", "=constant"),
        ("trainer.schedule=Cosine", "=cosine"),
        ("trainer.schedule=cosine-with-min-lr", "=cosine_with_min_lr"),
        ("speed.kernels=true", "=auto or speed.kernels=always"),
        ("trainer.average=true", "=ema"),
        ("trainer.average=swa", "=last"),
    ],
)
def test_value_of_another_tool_suggests_ours(word, meant):
    assert refusal(word).fix.startswith(f"did you mean {word.partition('=')[0]}{meant}? choose one of ")


@pytest.mark.parametrize(
    ("word", "never"),
    [
        ("plot_loss=true", "z_loss"),
        ("overwrite_cache=true", "override_system"),
        ("strict=false", "metric"),
        ("stage=sft", "write data.stages"),
        ("special_tokens={pad_token: x}", "virtual"),
        ("evals_per_epoch=2", "examples_per_step"),
        ("temperature=0.7", "write data.temperature"),
        ("loss_type=nll", "loss."),
        ("save_only_model=true", "model."),
        ("ignore_data_skip=true", "data."),
        ("seed_worker=1", "data.workers"),
    ],
)
def test_key_with_another_meaning_is_not_suggested(word, never):
    error = refusal(word)

    assert never not in error.fix
    assert error.fix.startswith("remove it")


def test_unsupported_keys_give_the_reason():
    own = {key.rpartition(".")[2] for key in KEYS} - {"temperature", "top_p"}  # of the mix, and of suites
    assert not UNSUPPORTED.keys() & (KEY_ALIASES.keys() | own)
    for name, why in UNSUPPORTED.items():
        assert why.startswith("remove it")
        assert suggest_key(name) == why
