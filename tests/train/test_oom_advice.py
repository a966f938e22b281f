"""Out of memory: the step is repeated with more recomputation, or the run ends with an error."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Checkpointing, SpeedConfig
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.errors import SftError
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing
from sft_cli.train import step
from sft_cli.train.monitoring.step_rows import StepRow
from sft_cli.train.oom_advice import OomPhase, translate_oom
from sft_cli.train.recompute import RecomputeOnOom


class DropoutModel(nn.Module):
    """A tiny Llama whose loss has dropout, so that a step depends on random numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = LlamaForCausalLM(
            LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
                        num_attention_heads=2, num_key_value_heads=2)
        )  # fmt: skip

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.model.base_model(input_ids, use_cache=False)[0]
        return {"loss": nn.functional.dropout(states, 0.5).square().sum()}


ALLOCATOR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def fail_with_oom(monkeypatch):
    """Let the first computations fail after their backward pass, as a CUDA device does."""

    def fail(times: int, error: Exception = ALLOCATOR) -> list[int]:
        attempts: list[int] = []
        real = step.accumulate_gradients

        def compute(loss_model, accelerator, batches, parallel):
            found = real(loss_model, accelerator, batches, parallel)
            attempts.append(1)
            if len(attempts) <= times:
                raise error
            return found

        monkeypatch.setattr(step, "accumulate_gradients", compute)
        monkeypatch.setattr(step, "batch_kwargs", lambda batch: {"input_ids": batch})
        return attempts

    return fail


def compute_step(allowed=True):
    """Return the loss and gradients of a step of two micro-batches, and the level of recomputation after it."""
    loss_model, accelerator = DropoutModel().train(), Accelerator(cpu=True)
    recompute = RecomputeOnOom(loss_model.model, CheckpointingPlan(Checkpointing.none, 0, "for a test"), allowed)
    apply_checkpointing(loss_model.model, recompute.recompute)
    batches = SimpleNamespace(batches=[torch.arange(6)[None], torch.arange(9)[None]])
    torch.manual_seed(1)
    loss = step.compute_gradients(loss_model, accelerator, batches, recompute)["loss"]
    return loss, {name: copy.copy(value.grad) for name, value in loss_model.named_parameters()}, recompute


@pytest.mark.parametrize(("times", "mode", "layers"), [(1, "layers", 1), (3, "layers", 3), (4, "full", 4)])
def test_a_repeated_step_is_the_same(fail_with_oom, capsys, times, mode, layers):
    """A failed attempt has set gradients and drawn dropout: neither may change the next attempt."""
    fail_with_oom(0)
    loss, gradients, _ = compute_step()
    attempts = fail_with_oom(times)
    again, others, relief = compute_step()
    assert len(attempts) == times + 1
    assert (relief.recompute.mode.value, relief.recompute.layers) == (mode, layers)
    assert torch.equal(loss, again)
    for name, value in gradients.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=0)
    assert gradients
    out = capsys.readouterr().out
    assert out.count("(memory ran out)") == times
    assert "memory    recompute the first 1 decoder layers (memory ran out)" in out


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory", 2),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["driver", "cublas", "cudnn"],
)
def test_step_is_repeated_after_other_memory_errors(fail_with_oom, error):
    attempts = fail_with_oom(1, error)
    assert compute_step()[2].recompute.layers == 1
    assert len(attempts) == 2


def test_step_is_not_repeated_after_another_error(fail_with_oom):
    attempts = fail_with_oom(1, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        compute_step()
    assert len(attempts) == 1


def test_a_configured_checkpointing_is_not_increased(fail_with_oom):
    attempts = fail_with_oom(1)
    with pytest.raises(torch.OutOfMemoryError):
        compute_step(allowed=False)
    assert len(attempts) == 1


def test_the_last_level_on_a_cpu_raises(fail_with_oom):
    attempts = fail_with_oom(99)
    with pytest.raises(torch.OutOfMemoryError):
        compute_step()
    assert len(attempts) == 5


NF4 = QuantConfig(kind=QuantKind.nf4)
NONE = SpeedConfig(gradient_checkpointing=Checkpointing.none, tokens_per_micro_batch=4096)


@pytest.mark.parametrize(
    ("config", "work", "fix"),
    [
        (
            Config(speed=NONE, quant=NF4),
            OomPhase.training,
            "speed.gradient_checkpointing=auto, speed.tokens_per_micro_batch=2048, or a smaller model",
        ),
        (
            Config(trainer=TrainerConfig(max_length=500), speed=SpeedConfig(tokens_per_micro_batch=1000)),
            OomPhase.training,
            "speed.tokens_per_micro_batch=500, quant=nf4, or a smaller model",
        ),
        (Config(adapter=AdapterConfig(kind=AdapterKind.none)), OomPhase.loading, "adapter=lora, or a smaller model"),
        (Config(quant=NF4), OomPhase.loading, "a smaller model, or a larger device"),
        (
            Config(
                quant=NF4,
                trainer=TrainerConfig(max_length=48),
                speed=SpeedConfig(tokens_per_micro_batch=64),
            ),
            OomPhase.evaluation,
            "eval.batch_size=8, speed.tokens_per_micro_batch=48, or a smaller model",
        ),
        (
            Config(
                quant=NF4,
                trainer=TrainerConfig(max_length=64),
                speed=SpeedConfig(tokens_per_micro_batch=64),
            ),
            OomPhase.training,
            "a new run with trainer.max_length=32, or a smaller model",
        ),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: out of memory", 2),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "driver", "cublas", "cpu", "python"],
)
def test_out_of_memory_is_an_sft_error(config, work, fix, error):
    with pytest.raises(SftError) as caught, translate_oom(config, work, "step 3"):
        raise error
    assert str(caught.value) == f"step 3: out of memory in {work.value}\n  fix: {fix}"


def test_out_of_memory_in_training_names_the_longest_rows():
    rows = [StepRow("rows.jsonl:7", 2043), StepRow("rows.jsonl:2", 81)]
    with (
        pytest.raises(SftError) as caught,
        translate_oom(Config(speed=NONE), OomPhase.training, "step 3", lambda: rows),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert caught.value.problem == (
        "out of memory in training with 4,096 tokens per micro-batch; the longest rows of the step: "
        "rows.jsonl:7 (2,043 tokens), rows.jsonl:2 (81 tokens)"
    )
    assert "speed.tokens_per_micro_batch=2048" in caught.value.fix


def test_other_errors_are_not_translated():
    with pytest.raises(RuntimeError, match="of another size"), translate_oom(Config(), OomPhase.training, "step 3"):
        raise RuntimeError("a tensor of another size")
