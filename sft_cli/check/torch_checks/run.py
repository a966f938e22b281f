"""Checks that need the model's configuration, but no weights: parity, a step, memory, disk and time."""

from dataclasses import replace

import torch
from transformers import PretrainedConfig

from sft_cli.check.cost import FlopModel, cost_check, run_size
from sft_cli.check.data_check import DataSample, suppress_output
from sft_cli.check.gpus import Gpu, gpu_from_driver_name
from sft_cli.check.options import CheckOptions
from sft_cli.check.paths_and_ports import run_directory
from sft_cli.check.results import CheckReport, CheckResult, fail, ok
from sft_cli.check.torch_checks.memory_fit import (
    MemoryNeed,
    MemoryPlanner,
    memory_checks,
    memory_target,
    trains_on_cluster,
)
from sft_cli.check.torch_checks.step_checks import step_checks
from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.trainer import Device, Dtype
from sft_cli.console import gib
from sft_cli.errors import raise_all
from sft_cli.model.config_value import config_value
from sft_cli.model.device import choose_compute_setup, free_memory
from sft_cli.model.load import empty_model, inner_linears, load_model_config
from sft_cli.model.memory.estimate import MemoryEstimate
from sft_cli.model.quant import layer_features
from sft_cli.progress import status
from sft_cli.train.monitoring.best import load_training_suites
from sft_cli.train.setup import preflight
from sft_cli.train.setup.micro_batch import RowTokens, largest_micro_batch
from sft_cli.train.setup.shared_keys import count_shared_keys
from sft_cli.utils.disks import free_bytes

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names of the number of experts in configurations of models."""


def run_model_checks(report: CheckReport, config: Config, sample: DataSample, options: CheckOptions) -> None:
    """Run the checks of a model and report them, as far as earlier mistakes allow."""
    if config.trainer.eval_suites:
        with report.section("suites"):
            suites = load_training_suites(config).suites
            items = ", ".join(f"{suite.name} ({len(suite.items)} items)" for suite in suites)
            report.add(ok("suites", f"asked at each evaluation: {items}"))
    with report.section("model"):
        architecture = load_model_config(config.model)
        with report.section("parity"):
            number = preflight.check_golden_prompts(config, architecture, sample.prepared)
            report.add(
                ok(
                    "parity",
                    f"{number} rows, at least one of each kind: an inference server produces the trained token ids",
                )
            )
        elsewhere = options.gpu is not None or trains_on_cluster(config)
        trainer = replace(config.trainer, device=Device.auto, dtype=Dtype.auto) if elsewhere else config.trainer
        local = choose_compute_setup(trainer, architecture, full=config.adapter.kind in WHOLE)
        target = memory_target(config, options.gpu, local, free_memory(local.device))
        problems, countable = preflight.find_config_problems(
            config, architecture, sample.prepared, target.machine.device.type
        )
        with report.section("model"):
            raise_all(problems)
            report.add(
                ok("model", f"{architecture.model_type}: adapter, quantization, lengths and vocabulary fit this model")
            )
        if not countable:
            return
        rows = RowTokens.of(config, sample.prepared, target.processes)
        largest = largest_micro_batch(config, rows, target.machine.device).tokens
        budget = MemoryPlanner(config, architecture, target, rows, count_shared_keys(config, sample.prepared, largest))
        report.add(*memory_checks(budget))
        need = budget.need(config)
        report.add(disk_check(config, budget.estimate(config, processes=1)(rows.longest)))
        with report.section("time"):
            card = target.card or _local_gpu(local.device)
            size, flops = run_size(config, sample), flop_model(config, architecture, need)
            operations = flops.per_token(sample.tokens_per_example, sample.trained_share)
            report.add(cost_check(options, sample, size, target.processes, card, operations))
        status("check: trying a step of a small model")
        lines = list[CheckResult]()
        with report.section("step"), suppress_output():
            lines += step_checks(config, architecture, sample.prepared)
        report.add(*lines)


def _local_gpu(device: torch.device) -> Gpu | None:
    """Return this machine's GPU, with the figures of the table if it is known; None without one."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return gpu_from_driver_name(name) or Gpu(name, torch.cuda.get_device_properties(0).total_memory)


def disk_check(config: Config, whole: MemoryEstimate) -> CheckResult:
    """Return the check of disk space for the checkpoints, given the memory of the run in one process."""
    directory = run_directory(config)
    problem = preflight.disk_problem(config, whole, directory)
    if problem is not None:
        return fail("disk", problem.problem, problem.fix)
    size = gib(preflight.checkpoint_bytes(config, whole))
    return ok("disk", f"checkpoints take about {size} at a time, {gib(free_bytes(directory))} are free")


def flop_model(config: Config, architecture: PretrainedConfig, need: MemoryNeed) -> FlopModel:
    """Return the sizes that determine the operations per token, counting active experts only."""
    model = empty_model(architecture, config.model.trust_remote_code)
    text = architecture.get_text_config()
    values = text.to_dict()
    block = sum(a * b for a, b in map(layer_features, inner_linears(model).values()))
    experts = sum(value.numel() for value in model.parameters() if value.dim() == 3)
    count = next((values[name] for name in EXPERTS if values.get(name)), 1)
    block += experts * (values.get("num_experts_per_tok") or count) // count
    head = model.get_output_embeddings()
    layers = config_value(architecture, "num_hidden_layers") or 1
    heads, hidden_size = (config_value(architecture, name) or 0 for name in ("num_attention_heads", "hidden_size"))
    return FlopModel(
        block=block,
        head=0 if head is None else sum(value.numel() for value in head.parameters()),
        layers=layers,
        width=heads * (values.get("head_dim") or hidden_size // max(1, heads)),
        whole=config.adapter.kind in WHOLE,
        recomputed=min(1.0, need.recompute.layers / layers),
    )
