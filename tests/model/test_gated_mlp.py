"""Gated feed-forward blocks that save only gate and up, against plain transformers and PEFT."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.autograd.graph import saved_tensors_hooks

from sft_cli.model.speed.fused_lora import fuse_lora, unfuse_lora
from sft_cli.model.speed.gated_mlp import GatedForward

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")

IDS = torch.randint(3, 160, (2, 11), generator=torch.Generator().manual_seed(3))


def adapted(base, targets="all-linear"):
    torch.manual_seed(1)
    conv = base.config.model_type == "gpt2"
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False, fan_in_fan_out=conv
    )
    return get_peft_model(base, lora).train()


def blocks(model):
    return sum(isinstance(vars(module).get("forward"), GatedForward) for module in model.modules())


def trained(model):
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("family", "number"),
    [("llama", 2), ("qwen2", 2), ("mistral-window", 2), ("gemma2", 2), ("cohere", 2), ("gpt2", 0)],
)
def test_gated_mlp_keeps_loss_and_gradients(build, family, number, checkpointed):
    model = adapted(build(family))
    loss, gradients = trained(model)
    if checkpointed:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    fuse_lora(model)
    assert blocks(model) == number
    found, own = trained(model)
    assert abs(found - loss) <= 1e-5
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (own[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    unfuse_lora(model)
    assert blocks(model) == 0
    assert trained(model)[0] == loss


def test_gated_mlp_saves_two_of_four_wide_tensors(build):
    model = adapted(build("llama"))
    wide = model.config.intermediate_size

    def number():
        kept = set()
        with saved_tensors_hooks(lambda one: (kept.add(one.data_ptr()) if one.shape[-1] == wide else None, one)[1], id):
            model(input_ids=IDS, use_cache=False)
        return len(kept - {one.data_ptr() for one in model.parameters()})

    fuse_lora(model)
    fewer = number()
    for module in model.modules():
        if isinstance(vars(module).get("forward"), GatedForward):
            del module.forward
    assert number() - fewer == 2 * model.config.num_hidden_layers


def changed(kind):
    """Return a feed-forward block that is similar to a gated one, but not gated."""

    def forward(self, x):
        if kind == "input in place":
            x.mul_(0.5)
        gate, up = self.gate_proj(x), self.up_proj(x)
        if kind == "in place":
            gate.mul_(0.5)
        if kind == "other input":
            up = self.up_proj(2 * x)
        if kind == "twice":
            gate = gate + self.gate_proj(x)
        product = self.act_fn(gate) * up
        if kind == "product in place":
            product.mul_(0.5)
        if kind == "clipped":
            product = product.clamp(max=1.0)
        result = self.down_proj(product)
        return result + x if kind == "residual" else result

    return forward


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("as it is", 2), ("input in place", 0), ("in place", 0), ("other input", 0), ("twice", 0),
        ("product in place", 0), ("clipped", 0), ("residual", 0),
    ],
)  # fmt: skip
def test_find_gated_blocks_skips_other_blocks(build, monkeypatch, kind, number):
    model = adapted(build("llama"))
    monkeypatch.setattr(type(model.get_base_model().model.layers[0].mlp), "forward", changed(kind))
    loss, gradients = trained(model)
    fuse_lora(model)
    assert blocks(model) == number
    found, own = trained(model)
    assert abs(found - loss) <= 1e-5
    for name, gradient in gradients.items():
        assert (own[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("targets", [["down_proj"], ["q_proj"], ["gate_proj", "up_proj"]])
def test_only_some_layers_have_an_adapter(build, targets):
    model = adapted(build("llama"), targets)
    loss, gradients = trained(model)
    fuse_lora(model)
    found, own = trained(model)
    assert abs(found - loss) <= 1e-5
    for name, gradient in gradients.items():
        assert (own[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_gated_mlp_with_disabled_adapter_or_hooks(build):
    model = adapted(build("llama"))
    with model.disable_adapter():
        before = model(input_ids=IDS, use_cache=False).logits
    fuse_lora(model)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=IDS, use_cache=False).logits, before)
    seen = []
    down = model.get_base_model().model.layers[0].mlp.down_proj
    down.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    trained(model)
    assert seen == [(2, 11, model.config.intermediate_size)]
