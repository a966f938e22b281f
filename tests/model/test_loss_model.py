"""The loss of a whole model: adapters, the KL reference, replay, noise, and rows without targets."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.adapter import AdapterConfig, TrainStopToken
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.adapter.add import add_adapter, silence_peft_warnings
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.kl_reference import make_kl_reference
from sft_cli.model.head.loss_model import LossModel
from tests.model.loss_helpers import EVERY, LENGTHS, SETTINGS, assert_same, by_autograd, documents_loss, gradients


def each_alone(model, batch, loss, base=None):
    """Return the objective of each document alone by plain transformers; ``base`` returns the base's logits of ids."""
    total = torch.zeros(())
    for ids in batch.documents:
        logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
        at, targets = [0, len(ids) - 2], ids[[1, len(ids) - 1]]
        theirs = None if base is None else base(ids)[at]
        total = total + (by_autograd(logits[at], targets, loss, theirs) * torch.tensor([1.0, 0.5])).sum()
    return total


def halve_weights(model):
    """Halve the weights, so that float32 noise in plain transformers is below the compared differences."""
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.mul_(0.5)
    return model


def randomize_adapter(model):
    """Randomize the adapter, so that it has an effect."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if value.requires_grad and ("lora_B" in name or "delta" in name or "modules_to_save" in name):
            value.data = value.data + torch.randn(value.shape, generator=generator) * 0.1
    return model


def adapted(build, family, kind):
    """Return a model with LoRA whose head has nothing (``inner``), ``rows``, LoRA (``head``) or a copy (``saved``)."""
    base = halve_weights(build(family))
    if kind in ("inner", "rows"):
        choice = TrainStopToken.always if kind == "rows" else TrainStopToken.never
        return randomize_adapter(
            add_adapter(base, AdapterConfig(rank=4, train_stop_token=choice), [2, 7], seed=0).model
        )
    targets = ["q_proj", "lm_head"] if kind == "head" else ["q_proj"]
    saved = ["lm_head"] if kind == "saved" else None
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=targets, modules_to_save=saved, task_type="CAUSAL_LM")
    with silence_peft_warnings():
        return randomize_adapter(get_peft_model(base, config))


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "inner"), ("llama", "rows"), ("llama", "head"), ("llama", "saved"), ("gemma2", "inner"),
     ("gemma2", "rows"), ("granite", "head"), ("granite", "saved")],
)  # fmt: skip
@pytest.mark.parametrize("setting", ["plain", "every"])
def test_adapters_on_the_head_and_elsewhere(build, make_batch, family, kind, setting):
    """The reference is plain transformers, with a second, unchanged model as base of KL."""
    loss, batch = SETTINGS[setting], make_batch(LENGTHS)
    model, plain = adapted(build, family, kind), halve_weights(build(family)).eval()

    def base(ids):
        with torch.no_grad():
            return plain(input_ids=ids[None]).logits[0]

    expected = each_alone(model, batch, loss, base if loss.kl else None)
    expected_gradients = gradients(model, expected)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    terms = documents_loss(model, batch, loss)
    found = gradients(model, terms["loss"])

    torch.testing.assert_close(terms["loss"].detach(), expected.detach(), rtol=1e-5, atol=0)
    assert_same(found, expected_gradients)
    assert found.keys() == {name for name, value in model.named_parameters() if value.requires_grad} == trained


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_kl_of_full_tuning_has_a_frozen_copy(build, make_batch, family):
    """At first KL and its derivative are zero; after a step it is the divergence from the initial model."""
    loss, batch, model = LossConfig(kl=0.5), make_batch(LENGTHS), build(family)
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4, loss=loss)
    row = (*batch.row, batch.targets, batch.target_at, batch.target_weights)
    first = loss_model(*row)
    assert first["kl"].abs() < 1e-6
    assert first["loss"].item() == pytest.approx(first["nll"].item(), rel=1e-6)
    first["loss"].backward()
    with torch.no_grad():
        for value in model.parameters():
            value -= 0.05 * value.grad.sign() * value.abs().mean()
    plain = build(family)
    terms = loss_model(*row)
    found = gradients(model, terms["loss"])

    def base(ids):
        with torch.no_grad():
            return plain(input_ids=ids[None]).logits[0]

    copy = build(family)
    copy.load_state_dict(model.state_dict())
    expected = each_alone(copy, batch, loss, base)

    assert terms["kl"] > 0.01
    assert loss_model.reference.describe().startswith("a frozen copy of the ")
    assert not any("copies" in name for name, _ in loss_model.named_parameters())
    torch.testing.assert_close(terms["loss"].detach(), expected.detach(), rtol=1e-5, atol=0)
    assert_same(found, gradients(copy, expected))


def test_kl_under_autocast_has_a_gradient(build, make_batch):
    """Autocast caches converted weights by parameter: that of the base would be used for the model, without a graph."""
    batch, model = make_batch(LENGTHS), build("llama")
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4, loss=LossConfig(kl=0.5))
    with torch.no_grad():
        for value in model.parameters():
            value *= 1.1
    row = (*batch.row, batch.targets, batch.target_at, batch.target_weights)
    exact = loss_model(*row)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss_model(*row)
    rough["loss"].backward()

    assert rough["kl"].item() == pytest.approx(exact["kl"].item(), rel=0.1)
    assert rough["nll"].item() == pytest.approx(exact["nll"].item(), rel=0.05)
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize("trained_head", [False, True])
def test_terms_are_float32_under_autocast(build, make_batch, trained_head):
    """Terms of a step are sums of float32 terms of its tokens; without other terms the loss equals nll bit for bit."""
    batch, model = make_batch(LENGTHS), build("llama")
    use_packed_attention(model)
    model.lm_head.weight.requires_grad_(trained_head)
    config = LossConfig(label_smoothing=0.1, z_loss=0.01, kl=0.5)
    replayed = torch.arange(len(batch.targets)) % 2 == 0
    row = (*batch.row, batch.targets, batch.target_at, batch.target_weights, replayed)
    with torch.autocast("cpu", torch.bfloat16):
        terms = LossModel(model, packed=True, chunk=4, loss=config)(*row)
        plain = LossModel(model, packed=True, chunk=4)(*row)
        again = LossModel(model, packed=True, chunk=4, loss=config)(*row)
        parts = [LossModel(model, packed=True, chunk=4, loss=config)(*row[:-2], w, None) for w in by_token(batch)]

    assert set(terms) == {"loss", "nll", "smoothing", "z", "kl", "replay"}
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert torch.equal(plain["nll"], plain["loss"])
    assert torch.equal(again["nll"], terms["nll"])
    for name in ("loss", "nll", "smoothing", "z", "kl"):
        exact = sum(part[name].double() for part in parts)
        torch.testing.assert_close(terms[name].double(), exact, rtol=1e-6, atol=0)
    several = terms["nll"] + terms["smoothing"] + terms["z"] + terms["kl"]
    torch.testing.assert_close(several, terms["loss"].detach(), rtol=1e-6, atol=0)
    replay = sum(part["loss"].double() for part, chosen in zip(parts, replayed, strict=True) if chosen)
    torch.testing.assert_close(terms["replay"].double(), replay, rtol=1e-6, atol=0)


def by_token(batch):
    """Return, for each target, weights that are those of the row there and 0 elsewhere."""
    return torch.diag(batch.target_weights)


def test_kl_reference_of_a_changed_base_is_a_copy(build, make_batch):
    """PiSSA moves a part of the weights into the adapter: without the adapter, PEFT's model is not the base."""
    batch, ids = make_batch(LENGTHS), make_batch([9]).documents[0]
    base = build("llama")
    expected = base(ids[None]).logits.detach()
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    with silence_peft_warnings():
        model = get_peft_model(base, config)
    stays = make_kl_reference(model)
    assert stays.copies
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.1
    with stays.activate():
        found = model(ids[None]).logits
    with model.disable_adapter():
        other = model(ids[None]).logits.detach()

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert (other - expected).abs().max() > 0.01 * expected.abs().max()
    assert documents_loss(model, batch, LossConfig(kl=1.0))["kl"].abs() < 1e-5  # a reference to the current model


def test_adapter_disabled_restores_requires_grad(build):
    """PEFT itself would make every active adapter trainable afterwards, including frozen ones."""
    model = adapted(build, "llama", "rows")
    for name, value in model.named_parameters():
        if "layers.0" in name:
            value.requires_grad_(False)
    before = {name: value.requires_grad for name, value in model.named_parameters()}
    stays = make_kl_reference(model)
    with stays.activate():
        assert not torch.is_grad_enabled()

    assert {name: value.requires_grad for name, value in model.named_parameters()} == before
    assert stays.describe() == "the base is the model without its adapter: no second model, a second forward pass"


def test_kl_draws_no_dropout_and_keeps_modes(build, make_batch):
    """The base is in evaluation mode: dropout would advance the generator and add noise to the reference."""
    base = build("gpt2")
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model = randomize_adapter(add_adapter(base, AdapterConfig(rank=4, dropout=0.5), [], seed=0).model)
    batch, modes = make_batch(LENGTHS), [module.training for module in model.modules()]
    torch.manual_seed(5)
    plain = documents_loss(model, batch)["nll"]
    torch.manual_seed(5)
    held = documents_loss(model, batch, LossConfig(kl=0.5))["nll"]

    assert torch.equal(plain, held)
    assert [module.training for module in model.modules()] == modes


def test_replay_term(build, make_batch):
    batch, model = make_batch(LENGTHS), build("llama")
    replayed = torch.tensor([False, False, True, True, False, True])
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4, loss=LossConfig(z_loss=0.01))
    row = (*batch.row, batch.targets, batch.target_at)
    terms = loss_model(*row, batch.target_weights, replayed)
    part = loss_model(*row, batch.target_weights * replayed)

    assert "replay" not in part
    assert 0 < terms["replay"] < terms["loss"]
    torch.testing.assert_close(terms["replay"], part["loss"].detach(), rtol=1e-6, atol=0)


def test_terms_have_no_graph(build, make_batch):
    terms = documents_loss(adapted(build, "llama", "inner"), make_batch(LENGTHS), EVERY)
    assert list(terms) == ["loss", "nll", "smoothing", "z", "dft", "kl"]
    assert terms.pop("loss").requires_grad
    assert not any(value.requires_grad for value in terms.values())
    assert all(value.dtype == torch.float32 and value.shape == () for value in terms.values())


def test_token_losses_are_plain_cross_entropy(build, make_batch):
    batch, model = make_batch(LENGTHS), adapted(build, "llama", "inner")
    terms = documents_loss(model, batch, EVERY)
    loss_model = LossModel(model, packed=True, chunk=4, loss=EVERY)
    losses = loss_model.token_losses(*batch.row, batch.targets, batch.target_at)
    torch.testing.assert_close(losses @ batch.target_weights, terms["nll"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("setting", ["plain", "every"])
@pytest.mark.parametrize("kind", ["inner", "head"])
def test_a_row_without_targets(build, kind, setting):
    model = adapted(build, "llama", kind)
    use_packed_attention(model)
    nothing, one = torch.zeros(0, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    loss_model = LossModel(model, packed=True, chunk=8, loss=SETTINGS[setting])
    terms = loss_model(one, one, pack_row([1]), nothing, nothing, torch.zeros(0))
    found = gradients(model, terms["loss"])

    assert all(value.item() == 0 for value in terms.values())
    assert found.keys() == {name for name, value in model.named_parameters() if value.requires_grad}
    assert not any(value.any() for value in found.values())
