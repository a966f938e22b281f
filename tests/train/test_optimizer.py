"""Every optimizer: first step by hand, weight decay, and exact resuming; learning rates by hand."""

import math
from dataclasses import replace

import pytest
import torch

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.config.schema.trainer import Average, OptimizerName, Schedule, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.train.checkpoints import checkpoint
from sft_cli.train.checkpoints.checkpoint import TrainProgress, TrainState
from sft_cli.train.optimizers.lr_schedule import make_lr_schedule, planned_length
from sft_cli.train.optimizers.optimizers import Lion, make_optimizer, optimizer_state_bytes
from tests.train.optimizer_helpers import STEPS, make_state, train

CPU = [name for name in OptimizerName if name is not OptimizerName.paged_adamw_8bit]


def rates(**settings) -> list[float]:
    """Return the learning rate of each of 5 steps with lr 1."""
    config = TrainerConfig(lr=1.0, **settings)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), config, AdapterConfig())
    schedule = make_lr_schedule(optimizer, config, planned_length(config, settings.pop("steps", 5)))
    result = []
    for _ in range(5):
        result.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return result


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"schedule": Schedule.constant, "warmup_ratio": 0.0}, [1, 1, 1, 1, 1], id="constant"),
        pytest.param({"schedule": Schedule.constant, "warmup_ratio": 0.4}, [0.5, 1, 1, 1, 1], id="warm-up"),
        pytest.param({"schedule": Schedule.linear, "warmup_ratio": 0.0}, [1, 0.8, 0.6, 0.4, 0.2], id="linear"),
        pytest.param(
            {"schedule": Schedule.linear, "warmup_ratio": 0.4}, [0.5, 1, 0.75, 0.5, 0.25], id="linear-warm-up"
        ),
        pytest.param(
            {"schedule": Schedule.polynomial, "warmup_ratio": 0.0, "min_lr_ratio": 0.5},
            [1, 0.9, 0.8, 0.7, 0.6],
            id="linear-to-a-minimum",
        ),
        pytest.param(
            {"schedule": Schedule.cosine, "warmup_ratio": 0.2}, [1, 0.904508, 0.654508, 0.345492, 0.095492], id="cosine"
        ),
        pytest.param(
            {"schedule": Schedule.cosine_with_min_lr, "warmup_ratio": 0.2, "min_lr_ratio": 0.5},
            [1, 0.952254, 0.827254, 0.672746, 0.547746],
            id="cosine-to-a-minimum",
        ),
        pytest.param(
            {"schedule": Schedule.inverse_sqrt, "warmup_ratio": 0.4},
            [0.5, 1, math.sqrt(2 / 3), math.sqrt(2 / 4), math.sqrt(2 / 5)],
            id="inverse-square-root",
        ),
        pytest.param(
            {"schedule": Schedule.wsd, "warmup_ratio": 0.0, "decay_ratio": 0.4, "min_lr_ratio": 0.0},
            [1, 1, 1, 1, 0.5],
            id="warm-up-stable-decay",
        ),
        pytest.param(
            {"schedule": Schedule.wsd, "warmup_ratio": 0.4, "decay_ratio": 0.4, "min_lr_ratio": 0.2},
            [0.6, 1, 1, 1, 0.6],
            id="wsd-with-all-three",
        ),
        pytest.param(
            {"schedule": Schedule.wsd, "warmup_ratio": 0.0, "decay_ratio": 1.0, "min_lr_ratio": 0.0},
            [1, 0.8, 0.6, 0.4, 0.2],
            id="wsd-only-decay",
        ),
        pytest.param(
            {"schedule": Schedule.wsd, "warmup_ratio": 0.5, "decay_ratio": 0.5, "min_lr_ratio": 0.0},
            [1 / 3, 2 / 3, 1, 1, 0.5],
            id="wsd-rounded-up-twice",
        ),
    ],
)
def test_learning_rates(settings, expected):
    assert rates(**settings) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0.03, 0.5])
def test_every_step_has_a_positive_learning_rate(schedule, steps, warmup):
    config = TrainerConfig(lr=1.0, schedule=schedule, warmup_ratio=warmup, min_lr_ratio=0.0)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), config, AdapterConfig())
    course = make_lr_schedule(optimizer, config, planned_length(config, steps))
    for _ in range(steps):
        assert 0 < course.get_last_lr()[0] <= 1
        optimizer.step()
        course.step()


def stepped(name: OptimizerName, weight: list[list[float]], gradient: list[list[float]], **settings) -> torch.Tensor:
    """Return the weight of a linear layer after one step with lr 0.1."""
    layer = torch.nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight = torch.nn.Parameter(torch.tensor(weight))
    layer.weight.grad = torch.tensor(gradient)
    make_optimizer(layer, TrainerConfig(optimizer=name, lr=0.1, **settings), AdapterConfig()).step()
    return layer.weight.detach()


@pytest.mark.parametrize("name", [OptimizerName.adamw, OptimizerName.adamw_8bit, OptimizerName.lion])
def test_the_first_step_is_lr_times_the_sign_after_the_decay(name):
    """Moments begin at 0, and AdamW corrects for it: g / sqrt(g^2) is a sign. 1 (1 - 0.1 * 0.5) - 0.1 = 0.85."""
    weight, gradient = [[1.0, 2.0], [-1.0, 4.0]], [[3.0, -0.5], [0.25, 2.0]]
    expected = torch.tensor([[0.85, 2.0], [-1.05, 3.7]])

    assert torch.allclose(stepped(name, weight, gradient, weight_decay=0.5), expected, atol=1e-6)


def test_adafactor_by_hand():
    """For a gradient of rank one, row means times column means over the mean are its square, so the step is its sign.

    The factored second moment of [[1, 2], [2, 4]]: rows 2.5, 10, columns 2.5, 10, mean 6.25: 1, 4, 4, 16. The root mean
    square of the update is 1, so clipping does not change it. The size of the weight has no influence.
    """
    result = stepped(OptimizerName.adafactor, [[1.0, 2.0], [3.0, 0.0]], [[1.0, 2.0], [2.0, 4.0]], weight_decay=0.5)

    assert torch.allclose(result, torch.tensor([[0.85, 1.8], [2.75, -0.1]]), atol=1e-6)


def test_the_second_step_of_lion_by_hand():
    """m = 0.01 g1; the direction is sign(0.9 m + 0.1 g2): 0.9 * 0.01 * 20 - 0.1 = 0.08 keeps its sign, -0.4 changes."""
    p = torch.nn.Parameter(torch.zeros(2))
    lion = Lion([p], lr=0.1, betas=(0.9, 0.99))
    for gradient in ([20.0, 20.0], [-1.0, -6.0]):
        p.grad = torch.tensor(gradient)
        lion.step()

    assert torch.allclose(p.detach(), torch.tensor([-0.2, 0.0]), atol=1e-6)
    assert torch.allclose(lion.state[p]["momentum"], torch.tensor([0.198 - 0.01, 0.198 - 0.06]), atol=1e-6)


def test_lion_agrees_with_bitsandbytes():
    from bitsandbytes.optim.lion import Lion as Theirs

    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(8, 8)) for _ in range(2))
    optimizers = (
        Lion([ours], lr=0.01, betas=(0.9, 0.99), weight_decay=1),
        Theirs([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=1),
    )
    for _ in range(10):
        gradient = torch.randn(8, 8)
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            p.grad = gradient.clone()
            optimizer.step()

    assert torch.allclose(ours, theirs, atol=1e-6)


def test_muon_equalizes_the_singular_values():
    """Singular values of the update, over lr * 0.2 sqrt(longer side), are about 1 (0.7 to 1.2 by Newton-Schulz)."""
    torch.manual_seed(0)
    gradient = torch.randn(6, 4) @ torch.diag(torch.tensor([100.0, 10.0, 1.0, 0.5]))
    result = stepped(OptimizerName.muon, [[0.0] * 4] * 6, gradient.tolist())

    values = torch.linalg.svdvals(result) / (0.1 * 0.2 * math.sqrt(6))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_updates_hidden_matrices_and_adamw_the_rest():
    given = make_state(TrainerConfig(optimizer=OptimizerName.muon, lr=0.1, weight_decay=0.1))
    names = {id(p): name for name, p in given.model.named_parameters()}
    result = {group["name"]: [names[id(p)] for p in group["params"]] for group in given.optimizer.param_groups}

    assert result == {
        "hidden": ["up_proj.weight", "down_proj.weight"],
        "matrices": ["embed_tokens.weight"],
        "vectors": ["up_proj.bias", "norm.weight", "norm.bias"],
    }
    train(given, 0, 1)
    kept = {names[id(p)]: sorted(state) for p, state in given.optimizer.state.items()}
    assert kept["up_proj.weight"] == ["momentum_buffer"]
    assert kept["embed_tokens.weight"] == kept["norm.bias"] == ["exp_avg", "exp_avg_sq", "step"]


def test_muon_without_a_matrix_is_refused():
    with pytest.raises(SftError) as refused:
        make_optimizer(torch.nn.LayerNorm(3), TrainerConfig(optimizer=OptimizerName.muon, lr=0.1), AdapterConfig())

    assert str(refused.value) == (
        "trainer.optimizer=muon: Muon updates matrices inside the network, and none of them is trained\n"
        "  fix: trainer.optimizer=adamw, or adapter.train=[REGEX] that selects matrices"
    )


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("average", Average)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_optimizer_equals_uninterrupted_one_bit_for_bit(name, average, dtype, tmp_path):
    trainer = TrainerConfig(
        optimizer=name, lr=0.01, weight_decay=0.1, average=average, average_last=2, lr_factors={"embed": 0.5}
    )
    straight = make_state(trainer, dtype)
    train(straight, 0, STEPS)
    interrupted = make_state(trainer, dtype)
    train(interrupted, 0, 3)
    saved = checkpoint.save_checkpoint(tmp_path, TrainProgress(step=3), interrupted, {})
    resumed = make_state(trainer, dtype)
    train(resumed, 0, 1)  # loading overwrites this state

    assert checkpoint.load_checkpoint(saved, resumed, {}).step == 3
    train(resumed, 3, STEPS)

    weights = straight.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in resumed.model.state_dict().items())
    if average is not Average.none:
        assert straight.average is not None
        assert resumed.average is not None
        means = straight.average.mean()
        assert means
        assert all(torch.equal(value, means[key]) for key, value in resumed.average.mean().items())


@pytest.mark.parametrize("name", CPU)
def test_every_optimizer_reduces_the_loss(name):
    given = make_state(TrainerConfig(optimizer=name, lr=0.01, schedule=Schedule.constant, warmup_ratio=0.0))
    ids = torch.tensor([0, 1, 3, 5])
    before = given.model(ids).item()
    for _ in range(10):
        train(given, 0, STEPS)

    assert given.model(ids).item() < before / 2


@pytest.mark.parametrize("name", CPU)
def test_zero_gradients_decay_only_matrices(name):
    """Only weight decay changes weights; norms and biases have none."""
    given = make_state(TrainerConfig(optimizer=name, lr=0.1, weight_decay=0.5, warmup_ratio=0.0))
    before = {key: value.clone() for key, value in given.model.named_parameters()}
    for p in given.model.parameters():
        p.grad = torch.zeros_like(p)
    given.optimizer.step()

    for key, p in given.model.named_parameters():
        assert torch.allclose(p, before[key] * (0.95 if p.ndim == 2 else 1.0), atol=1e-6), key


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 8),
        ({"optimizer": OptimizerName.adamw_8bit}, 2),
        ({"optimizer": OptimizerName.lion, "average": Average.ema}, 12),
        ({"average": Average.last, "average_last": 3}, 24),
    ],
)
def test_optimizer_state_bytes(settings, expected):
    assert optimizer_state_bytes(TrainerConfig(**settings)) == expected


@pytest.mark.parametrize("name", CPU)
def test_resumed_optimizer_equals_uninterrupted_one_under_accelerate(name, tmp_path):
    """The loop's optimizer is wrapped: state, groups and loading must reach the inner one."""
    from accelerate import Accelerator

    def wrapped() -> TrainState:
        bare = make_state(TrainerConfig(optimizer=name, lr=0.01))
        return replace(bare, optimizer=Accelerator(cpu=True).prepare(bare.optimizer, device_placement=[False]))

    straight, interrupted, resumed = wrapped(), wrapped(), wrapped()
    train(straight, 0, STEPS)
    train(interrupted, 0, 2)
    checkpoint.load_checkpoint(
        checkpoint.save_checkpoint(tmp_path, TrainProgress(step=2), interrupted, {}), resumed, {}
    )
    train(resumed, 2, STEPS)

    weights = straight.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in resumed.model.state_dict().items())
