"""What a newcomer from another tool types, and what he is told."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.elsewhere import ELSEWHERE, NEEDLESS
from sft_cli.config.names import KEYS, advice
from sft_cli.errors import SftError


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("neftune_noise_alpha=5", "here it is called loss.neftune"),
        ("trainer.label_smoothing_factor=0.1", "here it is called loss.label_smoothing"),
        ("router_aux_loss_coef=0.01", "here it is called loss.router"),
        ("use_rslora=true", "here it is called adapter=rslora"),
        ("adapter.use_dora=true", "here it is called adapter=dora"),
        ("init_lora_weights=pissa", "here it is called adapter.init"),
        ("loraplus_lr_ratio=16", "here it is called adapter.lr_ratio"),
        ("lora_plus=true", "here it is called adapter=loraplus"),
        ("gradient_checkpointing=true", "did you mean trainer.gradient_checkpointing?"),
        ("use_liger_kernel=true", "here it is called trainer.kernels"),
        ("use_ema=true", "here it is called trainer.average=ema"),
        ("group_by_length=true", "leave it out: nothing is padded here, so that lengths need not be alike"),
        (
            "padding_free=true",
            "leave it out: examples always lie end to end without padding, none sees another, and"
            " trainer.tokens_per_micro_batch says how many tokens are computed at once",
        ),
        (
            "torch_compile=true",
            "leave it out: what a compiler joins is joined here already, without minutes of compiling",
        ),
        ("retention.stop=true", "did you mean trainer.retention.stop?"),
        ("trainer.retention.math.path=a.jsonl", "did you mean trainer.retention.probes.<name>.path?"),
        ("trainer.probes.math.metric=loss", "did you mean trainer.retention.probes.<name>.metric?"),
    ],
)
def test_a_key_of_another_tool_is_answered_with_ours(word, fix):
    with pytest.raises(SftError) as refused:
        compose([word])

    assert refused.value.problem == f"there is no key {word.partition('=')[0]}"
    assert refused.value.fix == fix


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trainer.gradient_checkpointing=true", "auto or full"),
        ("trainer.gradient_checkpointing=false", "none"),
        ("trainer.optimizer=adamw_torch", "adamw"),
        ("trainer.schedule=constant_with_warmup", "constant"),
        ("trainer.kernels=true", "auto or always"),
        ("trainer.average=true", "ema"),
        ("trainer.average=swa", "last"),
    ],
)
def test_a_value_of_another_tool_is_answered_with_ours(word, meant):
    with pytest.raises(SftError) as refused:
        compose([word])

    assert refused.value.fix.startswith(f"did you mean {meant}? choose one of ")


def test_what_nobody_needs_to_ask_for_is_no_key_and_says_why():
    own = {key.rpartition(".")[2] for key in KEYS}
    assert not NEEDLESS.keys() & (ELSEWHERE.keys() | own)
    for name, why in NEEDLESS.items():
        assert why.startswith("leave it out: ")
        assert advice(name) == advice(f"trainer.{name}") == why
