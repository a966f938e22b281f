"""Optimizers on a CUDA device: resuming to the bit, and paged state that stays paged."""

import pytest
import torch
from torch import nn

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.config.schema.trainer import Average, OptimizerName, TrainerConfig
from sft_cli.train.checkpoints import checkpoint
from sft_cli.train.checkpoints.checkpoint import TrainProgress, TrainState
from sft_cli.train.optimizers.lr_schedule import make_lr_schedule, planned_length
from sft_cli.train.optimizers.optimizers import make_optimizer
from sft_cli.train.optimizers.weight_average import make_weight_average

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
STEPS = 6


def begun(trainer: TrainerConfig, dtype: torch.dtype) -> TrainState:
    """Return a small network with a matrix large enough for paging."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.LayerNorm(512), nn.Linear(512, 256)).to("cuda", dtype)
    optimizer = make_optimizer(model, trainer, AdapterConfig())
    return TrainState(
        model,
        optimizer,
        make_lr_schedule(optimizer, trainer, planned_length(trainer, STEPS)),
        None,
        make_weight_average(trainer),
    )


def train(given: TrainState, first: int, last: int) -> None:
    """Train steps ``first`` to ``last - 1``."""
    for step in range(first, last):
        row = torch.linspace(-1, 1, 256, device="cuda", dtype=next(given.model.parameters()).dtype)
        given.model((row * (step + 1))[None]).square().mean().backward()
        given.optimizer.step()
        given.lr_schedule.step()
        given.optimizer.zero_grad()
        if given.average is not None:
            given.average.update(given.model)


@pytest.mark.parametrize("name", OptimizerName)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_optimizer_equals_uninterrupted_one_bit_for_bit(name, dtype, tmp_path):
    trainer = TrainerConfig(optimizer=name, lr=0.01, weight_decay=0.1, average=Average.ema)
    straight, first, resumed = (begun(trainer, dtype) for _ in range(3))
    train(straight, 0, STEPS)
    train(first, 0, 3)
    checkpoint.load_checkpoint(checkpoint.save_checkpoint(tmp_path, TrainProgress(step=3), first, {}), resumed, {})
    train(resumed, 3, STEPS)

    weights = straight.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in resumed.model.state_dict().items())
    assert straight.average is not None
    assert resumed.average is not None
    means = straight.average.mean()
    assert all(torch.equal(value, means[key]) for key, value in resumed.average.mean().items())


def test_paged_state_stays_paged(tmp_path):
    trainer = TrainerConfig(optimizer=OptimizerName.paged_adamw_8bit, lr=0.01)
    first, resumed = (begun(trainer, torch.float32) for _ in range(2))
    train(first, 0, 1)
    checkpoint.load_checkpoint(checkpoint.save_checkpoint(tmp_path, TrainProgress(step=1), first, {}), resumed, {})

    large = next(resumed.model.parameters())
    assert resumed.optimizer.state[large]["state1"].is_paged


def test_paged_state_is_loaded_without_device_memory(tmp_path):
    """A run whose state needs paging resumes: the whole state is never on the device."""
    trainer = TrainerConfig(optimizer=OptimizerName.paged_adamw_8bit, lr=0.01)
    first, resumed = (begun(trainer, torch.float32) for _ in range(2))
    train(first, 0, 1)
    state = first.optimizer.state_dict()
    size = sum(own[name].numel() for own in first.optimizer.state.values() for name in ("state1", "state2"))
    train(resumed, 0, 1)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    resumed.optimizer.load_state_dict(state)
    assert torch.cuda.max_memory_allocated() - before < size / 4
