"""Memory per process, and suggested settings."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

from sft_cli.check.gpus import Gpu, parse_gpu
from sft_cli.check.torch_checks.memory_fit import CONTEXT, MemoryPlanner, cheaper_settings, memory_checks, memory_target
from sft_cli.config.compose import compose
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind
from sft_cli.config.schema.fields import Auto
from sft_cli.config.schema.launcher import DistributedConfig, DistributedKind
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.config.schema.trainer import Dtype
from sft_cli.errors import SftError
from sft_cli.model.device import ComputeSetup
from sft_cli.model.memory.estimate import MemoryEstimate, shard_estimate
from sft_cli.model.memory.saved_activations import SavedBytes
from sft_cli.train.setup.micro_batch import RowTokens

ALONE = MemoryEstimate(
    weights=8000, parameters=80, gradients=80, optimizer_state=160, logits=50, saved=SavedBytes((100,) * 4, 10, 8, 4),
    num_trained=20, largest_layer=1000, outer_weights=4000,
)  # fmt: skip
SHAPE = LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=16, num_attention_heads=16,
                    num_key_value_heads=4, vocab_size=32000)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "processes", "found"),
    [
        pytest.param({}, 4, (8000, 80, 80, 160, 0), id="ddp-holds-all"),
        pytest.param({"kind": "fsdp"}, 1, (8000, 80, 80, 160, 0), id="alone"),
        pytest.param({"kind": "fsdp"}, 4, (2000, 20, 20, 40, 6000), id="a-quarter-and-two-layers"),
        pytest.param({"kind": "fsdp", "reshard": False}, 4, (2000, 20, 20, 40, 8000), id="all-layers-gathered"),
        pytest.param({"kind": "fsdp", "replicas": 2}, 4, (4000, 40, 40, 80, 6000), id="half-in-two-groups"),
        pytest.param({"kind": "fsdp", "cpu_offload": True}, 4, (0, 0, 0, 0, 6000), id="in-main-memory"),
    ],
)
def test_split_resources(settings, processes, found):
    config = DistributedConfig(**{**settings, "kind": DistributedKind(settings.get("kind", "ddp"))})
    memory = shard_estimate(ALONE, config, processes)
    assert (memory.weights, memory.parameters, memory.gradients, memory.optimizer_state, memory.gathered) == found
    assert memory.saved == ALONE.saved


def budget(free, *words):
    """Return the planner of a 1.0B Llama with LoRA on one GPU with this many free bytes."""
    config = compose(["recipe=alpaca_lora", "speed.tokens_per_micro_batch=8192", "trainer.max_length=1024", *words])
    goal = memory_target(config, Gpu("test", free + CONTEXT), ComputeSetup(torch.device("cpu"), torch.float32), 0)
    return MemoryPlanner(config, SHAPE, goal, RowTokens(longest=900, typical=300, step=20_000))


@pytest.fixture(scope="module")
def large() -> MemoryPlanner:
    return budget(80 * 10**9)


def test_memory_target_reserves_context_and_chooses_dtype(large):
    goal = memory_target(large.config, parse_gpu("24GB"), ComputeSetup(torch.device("cpu"), torch.float32), 5)
    assert (goal.machine.device.type, goal.machine.dtype) == ("cuda", torch.bfloat16)
    assert goal.free == 24 * 10**9 - CONTEXT
    free_choice = replace(large.config, trainer=replace(large.config.trainer, dtype=Dtype.auto))
    assert memory_target(free_choice, parse_gpu("t4"), goal.machine, 5).machine.dtype is torch.float16
    asked = replace(large.config, trainer=replace(large.config.trainer, dtype=Dtype.bfloat16))
    with pytest.raises(SftError, match=r"trainer\.dtype=bfloat16: --gpu t4 does not support this type"):
        memory_target(asked, parse_gpu("t4"), goal.machine, 5)
    assert memory_target(large.config, None, goal.machine, 5).free == 5


def test_gpu_of_a_job_on_other_machines_has_unknown_size(large):
    """The free memory of the login node is not used."""
    config = compose(["recipe=alpaca_lora", "launcher=slurm", "launcher.gpus=2", "trainer.dtype=float32"])
    goal = memory_target(config, None, large.target.machine, 5)
    assert (goal.free, goal.processes, goal.machine.device.type, goal.machine.dtype) == (None, 2, "cuda", torch.float32)
    (line,) = memory_checks(replace(large, target=replace(large.target, free=None), measured=large.measured))
    assert (line.status.value, line.fix) == ("warn", "--gpu 24GB, or --gpu h100")


def test_fitting_run_lists_memory_items(large):
    (line,) = memory_checks(large)
    assert line.status.value == "ok"
    items = ["frozen weights", "adapter", "gradients", "optimizer (adamw)", "activations at 8,192 tokens"]
    assert [item for item, row in zip(items, line.more, strict=False) if not row.startswith(item)] == []


def test_first_setting_that_fits_is_named_with_its_memory(large):
    """Full checkpointing with 4,096 tokens fits here, so fewer tokens are not suggested."""
    need = large.need(large.config)
    half = next(config for words, config in cheaper_settings(large) if "=4096" in words)
    tight = large.target.machine
    free = int(large.need(half).memory.total(*full(large.need(half))) / 0.89)
    assert need.memory.total(*full(need)) > 0.9 * free
    small = replace(large, target=replace(large.target, free=free, machine=tight), measured=large.measured)
    (line,) = memory_checks(small)
    assert line.status.value in ("warn", "fail")
    assert line.fix.startswith(("speed.tokens_per_micro_batch=4096", "speed.tokens_per_micro_batch=2048"))


def full(need):
    return Checkpointing.offload, need.memory.num_layers


def test_automatic_micro_batch_shrinks_before_other_suggestions(large):
    """The size that fits is used, so no smaller one is suggested; if max_length does not fit, shorter rows are."""
    config = replace(large.config, speed=replace(large.config.speed, tokens_per_micro_batch=Auto.auto))
    auto = replace(large, config=config, measured=large.measured)
    whole = auto.need(config)
    assert (whole.tokens, whole.micro_batch.reason) == (20_000, "all of a step")
    (line,) = memory_checks(auto)
    assert line.more[-1] == "micro-batches of up to 20,096 tokens (all of a step)"
    free = int(auto.estimate(config)(4096).total(Checkpointing.full, SHAPE.num_hidden_layers) / 0.89)
    tight = replace(auto, target=replace(auto.target, free=free))
    need = tight.need(config)
    assert 4096 - 128 < need.tokens < 8192
    assert need.total < 0.9 * free
    assert [words for words, _ in cheaper_settings(tight) if "micro_batch" in words] == []
    assert next(cheaper_settings(tight))[0] == "speed.logits_chunk=256"


def test_smallest_need_is_named_if_no_setting_fits(large):
    tiny = replace(large, target=replace(large.target, free=10**6), measured=large.measured)
    (line,) = memory_checks(tiny)
    assert line.status.value == "fail"
    assert line.text.startswith("the run does not fit: about ")
    assert line.fix.startswith("no single setting makes it fit, the least is ")


def test_cheaper_settings_are_ordered_by_cost(large):
    several = replace(large, target=replace(large.target, processes=2))
    words = [words for words, _ in cheaper_settings(several)]
    assert words[:2] == ["speed.tokens_per_micro_batch=4096", "speed.tokens_per_micro_batch=2048"]
    assert "quant=nf4" in words
    assert words.index("quant=nf4") < words.index("distributed=fsdp")
    whole = replace(several, config=replace(several.config, adapter=AdapterConfig(kind=AdapterKind.none)))
    assert [words for words, _ in cheaper_settings(whole)][-2:] == ["adapter=lora", "adapter=lora quant=nf4"]
    assert not any("quant" in words.split()[0] for words, _ in cheaper_settings(whole))
