"""The terms of the objective: by hand, against autograd, and through real models against plain transformers."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy, kl_div
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, GptOssConfig, LlamaConfig, MixtralConfig, OlmoeConfig, Qwen3MoeConfig

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.adapter import AdapterConfig, TrainStopToken
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter, silence_peft_warnings
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head import chunked_loss as head_gradient
from sft_cli.model.head.chunked_loss import LossInputs, OutputHead, PrecomputedGradient, weighted_loss
from sft_cli.model.head.kl_reference import make_kl_reference
from sft_cli.model.head.logits import LogitsPath, LogitsRescaling
from sft_cli.model.head.loss_model import LossModel, build_loss_model
from sft_cli.model.head.neftune import embedding_noise
from sft_cli.model.head.objective import loss_and_gradient, term_names
from sft_cli.model.quant import causal_lm
from tests.model.helpers import recompute_all

LENGTHS = [6, 3, 9]
PLAIN = LossConfig()
EVERY = LossConfig(label_smoothing=0.1, z_loss=0.01, dft=True, kl=0.3)
SETTINGS = {
    "plain": LossConfig(),
    "smoothing": LossConfig(label_smoothing=0.2),
    "z": LossConfig(z_loss=0.05),
    "dft": LossConfig(dft=True),
    "kl": LossConfig(kl=0.7),
    "smoothing-z": LossConfig(label_smoothing=0.2, z_loss=0.05),
    "z-kl": LossConfig(z_loss=0.05, kl=0.5),
    "every": EVERY,
}


def by_autograd(logits, targets, loss, base):
    """The objective of each position, ``(C,)``, as its formulas say, left to autograd."""
    logp = logits.log_softmax(-1)
    nll = cross_entropy(logits, targets, reduction="none")
    smoothed = cross_entropy(logits, targets, reduction="none", label_smoothing=loss.label_smoothing)
    whole = smoothed * (torch.exp(-nll).detach() if loss.dft else 1.0)
    whole = whole + loss.z_loss * logits.logsumexp(-1) ** 2
    if base is not None:
        whole = whole + loss.kl * kl_div(logp, base.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    return whole


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # Logits log 3 and 0: p = 3/4, 1/4; L = log 4. The target is the second.
        pytest.param(LossConfig(), {"loss": math.log(4)}, id="nll"),
        pytest.param(
            LossConfig(label_smoothing=0.1),
            {"loss": 0.95 * math.log(4) + 0.05 * math.log(4 / 3), "smoothing": -0.05 * math.log(3)},
            id="label-smoothing",
        ),
        pytest.param(
            LossConfig(z_loss=0.5),
            {"loss": math.log(4) + 0.5 * math.log(4) ** 2, "z": 0.5 * math.log(4) ** 2},
            id="z-loss",
        ),
        pytest.param(LossConfig(dft=True), {"loss": math.log(4) / 4, "dft": math.log(4) / 4}, id="dft"),
        pytest.param(
            LossConfig(dft=True, label_smoothing=0.1),
            {
                "loss": (0.95 * math.log(4) + 0.05 * math.log(4 / 3)) / 4,
                "dft": math.log(4) / 4,
                "smoothing": -0.05 * math.log(3) / 4,
            },
            id="dft-of-smoothed",
        ),
        # The base says 1/2, 1/2: KL = 1/2 log(2/3) + 1/2 log 2.
        pytest.param(
            LossConfig(kl=2.0),
            {"loss": math.log(4) + math.log(4 / 3), "kl": math.log(4 / 3)},
            id="kl",
        ),
    ],
)
def test_objective_by_hand(loss, expected):
    scored = loss_and_gradient(
        torch.tensor([[math.log(3), 0.0]]), torch.tensor([1]), loss, torch.zeros(1, 2), gradient=False
    )
    found = dict(zip(term_names(loss), scored.values[:, 0].tolist(), strict=True))

    assert found == pytest.approx({"nll": math.log(4), **expected}, rel=1e-6)
    assert scored.gradient is None


def test_gradient_by_hand():
    """p less one at the target; label smoothing moves e / V of the target's share to every token."""
    logits = torch.tensor([[math.log(3), 0.0]])
    plain = loss_and_gradient(logits.clone(), torch.tensor([1]), LossConfig()).gradient
    smoothed = loss_and_gradient(logits.clone(), torch.tensor([1]), LossConfig(label_smoothing=0.1)).gradient
    dft = loss_and_gradient(logits.clone(), torch.tensor([1]), LossConfig(dft=True)).gradient

    torch.testing.assert_close(plain, torch.tensor([[0.75, -0.75]]))
    torch.testing.assert_close(smoothed, torch.tensor([[0.70, -0.70]]))
    torch.testing.assert_close(dft, torch.tensor([[0.1875, -0.1875]]))


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradient_equals_autograd(setting):
    loss = SETTINGS[setting]
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 50, generator=generator)).requires_grad_()
    base = 5 * torch.randn(7, 50, generator=generator) if loss.kl else None
    targets = torch.randint(50, (7,), generator=generator)
    expected = by_autograd(logits, targets, loss, base)
    expected.sum().backward()
    scored = loss_and_gradient(logits.detach().clone(), targets, loss, None if base is None else base.clone())
    found = dict(zip(term_names(loss), scored.values, strict=True))

    torch.testing.assert_close(found["loss"], expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scored.gradient, logits.grad, rtol=0, atol=1e-5 * logits.grad.abs().max().item())
    parts = [values for name, values in found.items() if name not in ("loss", "dft" if not loss.dft else "nll")]
    torch.testing.assert_close(found["loss"], torch.stack(parts).sum(0), rtol=1e-6, atol=1e-6)


def test_loss_of_tokens_with_zero_probability():
    """log p of -200 is beyond float32's probabilities, but not beyond its logarithms."""
    scored = loss_and_gradient(torch.tensor([[200.0, 0.0]]), torch.tensor([1]), LossConfig(z_loss=1e-4))
    assert scored.values[1].item() == 200.0
    assert torch.isfinite(scored.values).all()
    assert torch.isfinite(scored.gradient).all()


def head_of(width, vocabulary, *, trained=False, bias=False, cap=None, factor=1.0, divisor=1.0, chunk=1024):
    torch.manual_seed(0)
    module = torch.nn.Linear(width, vocabulary, bias=bias).requires_grad_(trained)
    return OutputHead(module, LogitsRescaling(factor, divisor, cap), chunk)


def task_of(number, width, vocabulary, loss, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(number, width, generator=generator).to(dtype).requires_grad_()
    base = torch.randn(number, width, generator=generator).to(dtype) if loss.kl else None
    targets = torch.randint(vocabulary, (number,), generator=generator)
    weights = torch.rand(number, generator=generator) / 100
    stays = make_kl_reference(AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))) if loss.kl else None
    return LossInputs(states, targets, weights, loss, base, stays)


SMALL = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
@pytest.mark.parametrize("setting", ["plain", "every"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True},
        {"factor": 0.3},
        {"divisor": 3.0},
        {"cap": 2.0},
        {"cap": 2.0, "trained": True},
        {"trained": True},
        {"trained": True, "bias": True, "divisor": 3.0},
    ],
    ids=lambda options: "-".join(options) or "frozen",
)
def test_chunked_loss_equals_the_whole_head(options, setting, chunk):
    """Loss and gradients by states, weight and bias, of nine positions in chunks of one to all of them."""
    loss, head = SETTINGS[setting], head_of(16, 40, chunk=chunk, **options)
    task = task_of(9, 16, 40, loss)
    logits = head.rescale(head.module(task.states))
    base = None if task.base is None else head.rescale(head.module(task.base)).detach()
    inputs = [task.states, *head.trained]
    wanted = (by_autograd(logits, task.targets, loss, base) * task.weights).sum()
    expected = torch.autograd.grad(3 * wanted, inputs)
    total, values = weighted_loss(head, task)
    found = torch.autograd.grad(3 * total, inputs)

    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(values[0] @ task.weights, wanted.detach(), rtol=1e-5, atol=0)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("trained", [False, True])
def test_small_weights_survive_float16(trained):
    """Weights hold the divisor of a step; their products with small probabilities are below float16's numbers."""
    head = head_of(16, 3000, trained=trained, chunk=4)
    task = task_of(9, 16, 3000, LossConfig())
    task = LossInputs(task.states, task.targets, task.weights * 1e-4, task.loss)
    expected = torch.autograd.grad(weighted_loss(head, task)[0], task.states)[0]
    half = LossInputs(task.states.detach().half().requires_grad_(), task.targets, task.weights, task.loss)
    total = weighted_loss(OutputHead(head.module.half(), head.rescale, 4), half)[0]
    found = torch.autograd.grad(total * 65536.0, half.states)[0].float() / 65536.0

    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * expected.abs().max().item())


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(dft=True)], ids=["plain", "dft"])
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("trained", [False, True])
def test_small_derivatives_survive_float16(trained, cap, loss):
    """Gradients in float16 are those of float32 to 0.5% in norm, however small the derivatives of 5,000 words are."""
    module = torch.nn.Linear(128, 5000, bias=False).half().float().requires_grad_(trained)
    head = OutputHead(module, LogitsRescaling(factor=0.5, cap=cap), 64)
    half_head = OutputHead(copy.deepcopy(module).half(), head.rescale, 64)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(300, 128, generator=generator).half()
    targets, weights = torch.randint(5000, (300,), generator=generator), torch.rand(300, generator=generator) / 300
    task = LossInputs(states.float().requires_grad_(), targets, weights, loss)
    half = LossInputs(states.requires_grad_(), targets, weights, loss)
    expected = torch.autograd.grad(weighted_loss(head, task)[0], [task.states, *head.trained])
    total = weighted_loss(half_head, half)[0] * 65536.0  # the scale of GradScaler
    for own, wanted in zip(torch.autograd.grad(total, [half.states, *half_head.trained]), expected, strict=True):
        assert (own.float() / 65536.0 - wanted).norm() <= 0.005 * wanted.norm()


def test_small_probabilities_survive_float16():
    """Of 4,000 words each but one has 1.5e-8: together they are what the derivative at the target is balanced by."""
    module = torch.nn.Linear(2, 4000, bias=False).half().requires_grad_(False)
    module.weight.zero_()[:, 1] = 1
    module.weight[7, 0] = 18
    states = torch.tensor([[1.0, 0.0]]).half().requires_grad_()
    task = LossInputs(states, torch.tensor([7]), torch.ones(1), LossConfig())
    weighted_loss(OutputHead(module, LogitsRescaling(), 4), task)[0].mul(65536).backward()

    assert states.grad[0, 0] < 0
    assert states.grad[0, 1].abs() < 0.01 * states.grad[0, 0].abs()


def test_chunk_size_on_a_cpu():
    """Larger ones than 256 are no faster there; smaller ones stay as they were asked for."""
    task, head = task_of(600, 16, 40, LossConfig()), head_of(16, 40, chunk=1024)
    assert head_gradient._chunk_slices(head, task) == [slice(0, 256), slice(256, 512), slice(512, 768)]
    assert head_gradient._chunk_slices(head_of(16, 40, chunk=400), task_of(3, 16, 40, LossConfig())) == [slice(0, 256)]
    assert len(head_gradient._chunk_slices(head_of(16, 40, chunk=100), task)) == 6


class Largest(TorchDispatchMode):
    """Remembers the largest number of elements that any operation gave."""

    seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor) and not value._is_view():
                self.seen = max(self.seen, value.numel())
        return out


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("setting", ["plain", "every"])
def test_memory_does_not_grow_with_positions_times_vocabulary(setting, trained):
    """No tensor is larger than a chunk of logits, and what is kept for backward is as wide as the states."""
    loss, kept = SETTINGS[setting], []
    head, task = head_of(16, 400, trained=trained, chunk=32), task_of(500, 16, 400, SETTINGS[setting])

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = weighted_loss(head, task)[0]
        total.backward()

    assert loss.kl == 0 or task.base is not None
    assert largest.seen == 32 * 400
    if not trained:
        assert max(kept) == 500 * 16


def documents_loss(model, laid, loss=PLAIN, **options):
    use_packed_attention(model)
    return LossModel(model, packed=True, chunk=4, loss=loss, **options)(
        *laid.row, laid.targets, laid.target_at, laid.target_weights
    )


def each_alone(model, laid, loss, base=None):
    """The objective of each document by itself, by plain transformers and autograd; ``base`` gives ids their logits."""
    total = torch.zeros(())
    for ids in laid.documents:
        logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
        at, wanted = [0, len(ids) - 2], ids[[1, len(ids) - 1]]
        theirs = None if base is None else base(ids)[at]
        total = total + (by_autograd(logits[at], wanted, loss, theirs) * torch.tensor([1.0, 0.5])).sum()
    return total


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    assert found
    return found


def assert_same(found, expected):
    """Every gradient, to 1e-5 of its norm."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-5 * max(value.norm().item(), 1e-3), name


def calm(model):
    """The model with half the weights: float32's noise in plain transformers itself is then below what is compared."""
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.mul_(0.5)
    return model


def stirred(model):
    """The model with an adapter that does something."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if value.requires_grad and ("lora_B" in name or "delta" in name or "modules_to_save" in name):
            value.data = value.data + torch.randn(value.shape, generator=generator) * 0.1
    return model


def adapted(build, family, kind):
    """LoRA on the layers, and something on the head: ``inner``, ``rows``, ``head`` (LoRA) or ``saved`` (a copy)."""
    base = calm(build(family))
    if kind in ("inner", "rows"):
        choice = TrainStopToken.always if kind == "rows" else TrainStopToken.never
        return stirred(add_adapter(base, AdapterConfig(rank=4, train_stop_token=choice), [2, 7], seed=0).model)
    targets = ["q_proj", "lm_head"] if kind == "head" else ["q_proj"]
    saved = ["lm_head"] if kind == "saved" else None
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=targets, modules_to_save=saved, task_type="CAUSAL_LM")
    with silence_peft_warnings():
        return stirred(get_peft_model(base, config))


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "inner"), ("llama", "rows"), ("llama", "head"), ("llama", "saved"), ("gemma2", "inner"),
     ("gemma2", "rows"), ("granite", "head"), ("granite", "saved")],
)  # fmt: skip
@pytest.mark.parametrize("setting", ["plain", "every"])
def test_adapters_on_the_head_and_elsewhere(build, lay, family, kind, setting):
    """Loss and gradients are those of plain transformers; KL's base is a second, untouched model there."""
    loss, laid = SETTINGS[setting], lay(LENGTHS)
    model, plain = adapted(build, family, kind), calm(build(family)).eval()

    def base(ids):
        with torch.no_grad():
            return plain(input_ids=ids[None]).logits[0]

    expected = each_alone(model, laid, loss, base if loss.kl else None)
    wanted = gradients(model, expected)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    terms = documents_loss(model, laid, loss)
    found = gradients(model, terms["loss"])

    torch.testing.assert_close(terms["loss"].detach(), expected.detach(), rtol=1e-5, atol=0)
    assert_same(found, wanted)
    assert found.keys() == {name for name, value in model.named_parameters() if value.requires_grad} == trained


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_kl_of_full_tuning_has_a_frozen_copy(build, lay, family):
    """Zero, with a zero derivative, at first; after a step the divergence from what the model was."""
    loss, laid, model = LossConfig(kl=0.5), lay(LENGTHS), build(family)
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4, loss=loss)
    row = (*laid.row, laid.targets, laid.target_at, laid.target_weights)
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
    expected = each_alone(copy, laid, loss, base)

    assert terms["kl"] > 0.01
    assert loss_model.reference.sentence().startswith("a frozen copy of the ")
    assert not any("copies" in name for name, _ in loss_model.named_parameters())
    torch.testing.assert_close(terms["loss"].detach(), expected.detach(), rtol=1e-5, atol=0)
    assert_same(found, gradients(copy, expected))


def test_kl_under_autocast_does_not_train_on_the_bases_weights(build, lay):
    """Autocast keeps a converted weight by its parameter: the base's would be taken for the model's, without graph."""
    laid, model = lay(LENGTHS), build("llama")
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4, loss=LossConfig(kl=0.5))
    with torch.no_grad():
        for value in model.parameters():
            value *= 1.1
    row = (*laid.row, laid.targets, laid.target_at, laid.target_weights)
    exact = loss_model(*row)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss_model(*row)
    rough["loss"].backward()

    assert rough["kl"].item() == pytest.approx(exact["kl"].item(), rel=0.1)
    assert rough["nll"].item() == pytest.approx(exact["nll"].item(), rel=0.05)
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize("trained_head", [False, True])
def test_terms_are_float32_under_autocast(build, lay, trained_head):
    """A step's terms are sums of its tokens' float32 terms; plain cross-entropy is the loss, bit for bit."""
    laid, model = lay(LENGTHS), build("llama")
    use_packed_attention(model)
    model.lm_head.weight.requires_grad_(trained_head)
    config = LossConfig(label_smoothing=0.1, z_loss=0.01, kl=0.5)
    replayed = torch.arange(len(laid.targets)) % 2 == 0
    row = (*laid.row, laid.targets, laid.target_at, laid.target_weights, replayed)
    with torch.autocast("cpu", torch.bfloat16):
        terms = LossModel(model, packed=True, chunk=4, loss=config)(*row)
        plain = LossModel(model, packed=True, chunk=4)(*row)
        again = LossModel(model, packed=True, chunk=4, loss=config)(*row)
        parts = [LossModel(model, packed=True, chunk=4, loss=config)(*row[:-2], w, None) for w in by_token(laid)]

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


def by_token(laid):
    """Return, for each target, weights that are those of the row there and 0 elsewhere."""
    return torch.diag(laid.target_weights)


def test_kl_reference_of_a_changed_base_is_a_copy(build, lay):
    """PiSSA moves a part of the weights into the adapter: without it the base would be another model."""
    laid, ids = lay(LENGTHS), lay([9]).documents[0]
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
    assert documents_loss(model, laid, LossConfig(kl=1.0))["kl"].abs() < 1e-5  # made now, it is the model as it is now


def test_adapter_disabled_restores_requires_grad(build):
    """PEFT itself would make every active adapter trainable afterwards, those meant to stay frozen too."""
    model = adapted(build, "llama", "rows")
    for name, value in model.named_parameters():
        if "layers.0" in name:
            value.requires_grad_(False)
    before = {name: value.requires_grad for name, value in model.named_parameters()}
    stays = make_kl_reference(model)
    with stays.activate():
        assert not torch.is_grad_enabled()

    assert {name: value.requires_grad for name, value in model.named_parameters()} == before
    assert stays.sentence() == "the base is the model without its adapter: no second model, a second forward pass"


def test_kl_draws_no_dropout_and_keeps_modes(build, lay):
    """The base is evaluated: its own dropout would use up the generator, and be noise in what the model is held to."""
    base = build("gpt2")
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model = stirred(add_adapter(base, AdapterConfig(rank=4, dropout=0.5), [], seed=0).model)
    laid, modes = lay(LENGTHS), [module.training for module in model.modules()]
    torch.manual_seed(5)
    plain = documents_loss(model, laid)["nll"]
    torch.manual_seed(5)
    held = documents_loss(model, laid, LossConfig(kl=0.5))["nll"]

    assert torch.equal(plain, held)
    assert [module.training for module in model.modules()] == modes


def test_replay_term(build, lay):
    laid, model = lay(LENGTHS), build("llama")
    replayed = torch.tensor([False, False, True, True, False, True])
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4, loss=LossConfig(z_loss=0.01))
    row = (*laid.row, laid.targets, laid.target_at)
    terms = loss_model(*row, laid.target_weights, replayed)
    part = loss_model(*row, laid.target_weights * replayed)

    assert "replay" not in part
    assert 0 < terms["replay"] < terms["loss"]
    torch.testing.assert_close(terms["replay"], part["loss"].detach(), rtol=1e-6, atol=0)


def test_terms_are_named_and_without_a_graph(build, lay):
    terms = documents_loss(adapted(build, "llama", "inner"), lay(LENGTHS), EVERY)
    assert list(terms) == ["loss", "nll", "smoothing", "z", "dft", "kl"]
    assert terms.pop("loss").requires_grad
    assert not any(value.requires_grad for value in terms.values())
    assert all(value.dtype == torch.float32 and value.shape == () for value in terms.values())


def test_token_losses_are_plain_cross_entropy(build, lay):
    laid, model = lay(LENGTHS), adapted(build, "llama", "inner")
    terms = documents_loss(model, laid, EVERY)
    loss_model = LossModel(model, packed=True, chunk=4, loss=EVERY)
    losses = loss_model.token_losses(*laid.row, laid.targets, laid.target_at)
    torch.testing.assert_close(losses @ laid.target_weights, terms["nll"], rtol=1e-6, atol=0)


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


def noise_of(model, lengths, alpha=5.0, seed=3):
    """What is added to the embeddings of documents of these lengths."""
    ids, embedding = torch.ones(1, sum(lengths), dtype=torch.long), model.get_input_embeddings()
    torch.manual_seed(seed)
    with embedding_noise(model, alpha, pack_row(lengths)):
        noisy = embedding(ids)
    return (noisy - embedding(ids))[0].detach()


def test_noise_is_bounded_by_each_documents_own_length(build):
    model = build("llama")
    parts = noise_of(model, [4, 100, 1]).split([4, 100, 1])
    for part in parts:
        bound = 5.0 / math.sqrt(part.numel())
        assert 0.9 * bound < part.abs().max() <= bound * (1 + 1e-5)
        assert abs(part.mean()) < bound / 4
    assert torch.equal(noise_of(model, [4, 100, 1]), torch.cat(parts))  # torch's generator decides
    assert not torch.equal(noise_of(model, [4, 100, 1], seed=4), torch.cat(parts))
    assert torch.equal(noise_of(model, [3, 2], alpha=0.0), torch.zeros(5, 128))


def test_noise_only_while_training(build, lay):
    laid, model = lay(LENGTHS), build("llama")
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4, loss=LossConfig(neftune=5.0))
    row = (*laid.row, laid.targets, laid.target_at)
    plain = documents_loss(model, laid)["loss"]
    first, second = (loss_model(*row, laid.target_weights)["loss"] for _ in range(2))
    loss_model.eval()

    assert first != second
    assert plain != first
    assert loss_model(*row, laid.target_weights)["loss"] == plain
    torch.testing.assert_close(loss_model.token_losses(*row) @ laid.target_weights, plain.detach())


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
def test_the_router_loss_is_the_models_own(lay, family, path, checkpointing):
    """Weighed with the share of the micro-batch; its gradient too."""
    laid = lay([9])
    model = mixture(family)
    if checkpointing:
        recompute_all(model)
    own = model(input_ids=laid.documents[0][None], use_cache=False, output_router_logits=True)
    plain = cross_entropy(own.logits[0][laid.target_at], laid.targets, reduction="none") @ laid.target_weights
    wanted = gradients(model, plain + 0.3 * 1.5 * own.aux_loss)
    loss_model = LossModel(model, packed=False, chunk=4, path=path, loss=LossConfig(router=0.3))
    terms = loss_model(*laid.row, laid.targets, laid.target_at, laid.target_weights)
    found = gradients(model, terms["loss"])

    assert terms["router"].item() == pytest.approx(0.3 * 1.5 * own.aux_loss.item(), rel=1e-5)
    torch.testing.assert_close(terms["loss"].detach() - terms["router"], plain.detach(), rtol=1e-5, atol=0)
    assert_same(found, wanted)


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
        "  fix: leave loss.router out, or choose a mixture-of-experts model"
    )
    assert LossModel(build("llama"), packed=False, chunk=4).router is None


def prompted(build, kind, family="llama"):
    """A model with five trained vectors before every row."""
    from peft import PrefixTuningConfig, PromptTuningConfig

    torch.manual_seed(0)
    config = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig}[kind](
        num_virtual_tokens=5, task_type="CAUSAL_LM"
    )
    with silence_peft_warnings():
        return get_peft_model(build(family), config)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_virtual_tokens_run_through_peft_unpacked(build, lay, kind, family):
    """Their loss is PEFT's own, and the vectors get its gradient; the rows are not packed."""
    model = prompted(build, kind, family)
    loss_model, probed = build_loss_model(model, 4)
    assert (loss_model.path, loss_model.packed, probed.packed_ok) == (LogitsPath.whole, False, False)
    assert probed.reason == "its virtual tokens precede the row, not every document in it"
    for length in (9, 4):
        laid = lay([length])
        ids = laid.documents[0][None]
        labels = torch.full_like(ids, -100)
        labels[0, laid.target_at + 1] = laid.targets
        expected = model(input_ids=ids, labels=labels).loss * 2
        wanted = gradients(model, expected)
        terms = loss_model(*laid.row, laid.targets, laid.target_at, torch.ones(2))
        found = gradients(model, terms["loss"])

        torch.testing.assert_close(terms["loss"].detach(), expected.detach(), rtol=1e-5, atol=0)
        assert_same(found, wanted)
        losses = loss_model.token_losses(*laid.row, laid.targets, laid.target_at)
        torch.testing.assert_close(losses.sum(), expected.detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_kl_reference_has_no_virtual_tokens(build, lay, kind):
    model, laid, plain = prompted(build, kind), lay([9]), build("llama")
    loss_model, _ = build_loss_model(model, 4, LossConfig(kl=0.5))
    terms = loss_model(*laid.row, laid.targets, laid.target_at, torch.ones(2))
    ids = laid.documents[0][None]
    with torch.no_grad():
        ours = model(input_ids=ids).logits[0][-9:][laid.target_at].log_softmax(-1)
        base = plain(input_ids=ids).logits[0][laid.target_at].log_softmax(-1)

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
