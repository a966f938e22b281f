"""The loss of models with experts and of models with virtual tokens."""

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, GptOssConfig, MixtralConfig, OlmoeConfig, Qwen3MoeConfig

from sft_cli.config.schema.trainer import LossConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import silence_peft_warnings
from sft_cli.model.head.chunked_loss import PrecomputedGradient
from sft_cli.model.head.logits import LogitsPath
from sft_cli.model.head.loss_model import LossModel, build_loss_model
from sft_cli.model.quant import causal_lm
from tests.model.helpers import recompute_all
from tests.model.loss_helpers import assert_same, gradients

EXPERTS = {"vocab_size": 160, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
           "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "num_experts_per_tok": 2,
           "initializer_range": 0.2, "pad_token_id": 0}  # fmt: skip

MIXTURES = {
    "mixtral": lambda **own: MixtralConfig(**EXPERTS, num_local_experts=4, **own),
    "qwen3-moe": lambda **own: Qwen3MoeConfig(**EXPERTS, num_experts=4, moe_intermediate_size=64, **own),
    "olmoe": lambda **own: OlmoeConfig(**EXPERTS, num_experts=4, **own),
    "gpt-oss": lambda **own: GptOssConfig(**EXPERTS, num_local_experts=4, **own),
}


def mixture(family, **own):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MIXTURES[family](**own)).train()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("path", [LogitsPath.chunks, LogitsPath.positions])
@pytest.mark.parametrize("family", MIXTURES)
def test_load_balancing_loss_equals_the_models_own(make_batch, family, path, checkpointing):
    """It is weighted with the micro-batch's fraction of the step, as is its gradient."""
    batch = make_batch([9])
    model = mixture(family)
    if checkpointing:
        recompute_all(model)
    own = model(input_ids=batch.documents[0][None], use_cache=False, output_router_logits=True)
    plain = cross_entropy(own.logits[0][batch.target_at], batch.targets, reduction="none") @ batch.target_weights
    expected_gradients = gradients(model, plain + 0.3 * 1.5 * own.aux_loss)
    loss_model = LossModel(model, packed=False, chunk=4, path=path, loss=LossConfig(router=0.3))
    terms = loss_model(*batch.row, batch.targets, batch.target_at, batch.target_weights)
    found = gradients(model, terms["loss"])

    assert terms["router"].item() == pytest.approx(0.3 * 1.5 * own.aux_loss.item(), rel=1e-5)
    torch.testing.assert_close(terms["loss"].detach() - terms["router"], plain.detach(), rtol=1e-5, atol=0)
    assert_same(found, expected_gradients)


@pytest.mark.parametrize(
    ("switched", "factor", "expected"),
    [(True, None, 0.02), (False, None, None), (True, 0.0, None), (False, 0.5, 0.5)],
)
def test_factor_of_the_load_balancing_loss(switched, factor, expected):
    model = mixture("mixtral", output_router_logits=switched, router_aux_loss_coef=0.02)
    router = LossModel(model, packed=False, chunk=4, loss=LossConfig(router=factor)).router
    assert (None if router is None else router.factor) == expected


def test_a_model_without_experts_has_no_router_loss(build):
    with pytest.raises(SftError) as caught:
        LossModel(build("llama"), packed=False, chunk=4, loss=LossConfig(router=0.01))
    assert str(caught.value) == (
        "loss.router: the model is a LlamaForCausalLM, which has no load-balancing loss\n"
        "  fix: remove loss.router, or model.path=DIR_OR_HUB_ID of a mixture-of-experts model"
    )
    assert LossModel(build("llama"), packed=False, chunk=4).router is None


def prompted(build, kind, family="llama"):
    """Return a model with five trained vectors before every row."""
    from peft import PrefixTuningConfig, PromptTuningConfig

    torch.manual_seed(0)
    config = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig}[kind](
        num_virtual_tokens=5, task_type="CAUSAL_LM"
    )
    with silence_peft_warnings():
        return get_peft_model(build(family), config)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_virtual_tokens_run_through_peft_unpacked(build, make_batch, kind, family):
    """Loss and gradients are those of PEFT; rows are not packed."""
    model = prompted(build, kind, family)
    loss_model, probed = build_loss_model(model, 4)
    assert (loss_model.path, loss_model.packed, probed.packed_ok) == (LogitsPath.whole, False, False)
    assert probed.reason == "its virtual tokens precede the row, not every document in it"
    for length in (9, 4):
        batch = make_batch([length])
        ids = batch.documents[0][None]
        labels = torch.full_like(ids, -100)
        labels[0, batch.target_at + 1] = batch.targets
        expected = model(input_ids=ids, labels=labels).loss * 2
        expected_gradients = gradients(model, expected)
        terms = loss_model(*batch.row, batch.targets, batch.target_at, torch.ones(2))
        found = gradients(model, terms["loss"])

        torch.testing.assert_close(terms["loss"].detach(), expected.detach(), rtol=1e-5, atol=0)
        assert_same(found, expected_gradients)
        losses = loss_model.token_losses(*batch.row, batch.targets, batch.target_at)
        torch.testing.assert_close(losses.sum(), expected.detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_kl_reference_has_no_virtual_tokens(build, make_batch, kind):
    model, batch, plain = prompted(build, kind), make_batch([9]), build("llama")
    loss_model, _ = build_loss_model(model, 4, LossConfig(kl=0.5))
    terms = loss_model(*batch.row, batch.targets, batch.target_at, torch.ones(2))
    ids = batch.documents[0][None]
    with torch.no_grad():
        ours = model(input_ids=ids).logits[0][-9:][batch.target_at].log_softmax(-1)
        base = plain(input_ids=ids).logits[0][batch.target_at].log_softmax(-1)

    assert terms["kl"].item() == pytest.approx(
        0.5 * kl_div(ours, base, log_target=True, reduction="sum").item(), rel=1e-4
    )
    assert terms["kl"] > 1e-3


def test_precomputed_gradient_is_scaled():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = PrecomputedGradient.apply(torch.tensor(5.0), [torch.tensor([3.0, 4.0])], value)
    (2 * loss).backward()
    assert loss.item() == 5.0
    assert value.grad.tolist() == [6.0, 8.0]


def test_causal_lm_of_a_prompted_model_is_the_model_itself(build):
    assert type(causal_lm(prompted(build, "prompt"))).__name__ == "LlamaForCausalLM"
