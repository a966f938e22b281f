"""One optimizer step: the gradient of its loss, its update, and its metrics."""

import time
import warnings
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sft_cli.batching.collate import Batch
from sft_cli.batching.prefetch import Prefetcher, StepBatches
from sft_cli.config.schema.trainer import OnNan
from sft_cli.model.out_of_memory import is_out_of_memory
from sft_cli.train.checkpoints.checkpoint import TrainState
from sft_cli.train.context import TrainContext
from sft_cli.train.monitoring.divergence import is_finite_step
from sft_cli.train.monitoring.metrics import StepMetrics, peak_memory
from sft_cli.train.parallel import ParallelModel
from sft_cli.train.recompute import RecomputeOnOom

ONE_PROCESS = ParallelModel()


def train_step(context: TrainContext, state: TrainState, step: int, prefetcher: Prefetcher) -> StepMetrics:
    """Compute and apply optimizer step ``step`` (from 0) and return its metrics."""
    started = time.perf_counter()
    batches = prefetcher.get(step)
    terms = compute_gradients(state.model, context.accelerator, batches, context.recompute, context.parallel)
    max_norm = context.config.trainer.max_grad_norm or float("inf")
    norm = context.parallel.clip_grad_norm(context.accelerator, state.model, max_norm)
    lr = float(state.lr_schedule.get_last_lr()[0])
    if _is_applied(context, terms["loss"], norm):
        state.optimizer.step()
        if state.average is not None:
            state.average.update(state.model)
    else:  # torch mistakes a skipped first step for two calls in the wrong order
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
    state.lr_schedule.step()
    state.optimizer.zero_grad()
    # The only synchronization with the device in a step.
    grad_norm, *values = torch.stack([norm.float(), *terms.values()]).tolist()
    return _step_metrics(context, step, batches, dict(zip(terms, values, strict=True)), grad_norm, lr, started)


def compute_gradients(
    loss_model: nn.Module,
    accelerator: Accelerator,
    batches: StepBatches,
    recompute: RecomputeOnOom,
    parallel: ParallelModel = ONE_PROCESS,
) -> dict[str, Tensor]:
    """Compute the gradient of a step over all processes; repeat it with more recomputation if memory runs out.

    Until the gradients are complete, nothing of the step is applied or exchanged, and dropout draws the same numbers
    again, so the repeated step is the same. If one process runs out of memory, all of them repeat the step. Processes
    with a sharded model have exchanged layers by then and cannot repeat it.

    Args:
        loss_model: The prepared LossModel.
        accelerator: The device and the mixed precision.
        batches: The step as this rank computes it.
        recompute: The layers that the backward pass recomputes; increased if memory runs out.
        parallel: How the processes of the run compute the model.

    Returns:
        The objective and its terms, summed over processes: float32 scalars on the device, without a graph.
    """
    device, world = accelerator.device, parallel.world
    while True:
        generators = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        terms, out_of_memory = dict[str, Tensor](), False
        try:
            terms = accumulate_gradients(loss_model, accelerator, batches, parallel)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or parallel.is_sharded or recompute.next_level(device) is None:
                raise
            out_of_memory = True
        # After the except clause: the error keeps the tensors of the failed attempt alive.
        if not parallel.is_sharded and world.all_reduce_max([out_of_memory])[0]:
            loss_model.zero_grad()
            _restore_rng(generators, device)
            recompute.increase(device)
            continue
        parallel.all_reduce_gradients(loss_model)
        total = world.all_reduce_sum(torch.stack(list(terms.values())))
        return dict(zip(terms, total.unbind(), strict=True))


def accumulate_gradients(
    loss_model: nn.Module, accelerator: Accelerator, batches: StepBatches, parallel: ParallelModel = ONE_PROCESS
) -> dict[str, Tensor]:
    """Accumulate the gradient of a step's loss over this process's micro-batches.

    The loss of the whole step is one sum: the weights of its targets include the divisor, which is known before
    anything is computed. Micro-batches, ranks and padding do not change it.

    Args:
        loss_model: The prepared LossModel.
        accelerator: The device and the mixed precision.
        batches: The step as this rank computes it.
        parallel: How the processes of the run compute the model.

    Returns:
        The objective and its terms over this process's micro-batches: float32 scalars on the device, without a graph.
    """
    sums: dict[str, Tensor] = {}
    for batch in batches.batches:
        terms = parallel.forward(loss_model, **batch_kwargs(batch))
        accelerator.backward(terms["loss"])
        for name, value in terms.items():
            sums[name] = value.detach() + sums[name] if name in sums else value.detach()
    return {name: value.float() for name, value in sums.items()}


def batch_kwargs(batch: Batch) -> dict[str, Any]:
    """Return the keyword arguments of ``LossModel.forward``."""
    return {name: getattr(batch, name) for name in Batch.__dataclass_fields__}


def _restore_rng(generators: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """Restore the random generators, and free the cached memory of a GPU."""
    cpu, cuda = generators
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.empty_cache()
        torch.cuda.set_rng_state(cuda, device)


def _is_applied(context: TrainContext, loss: Tensor, norm: Tensor) -> bool:
    """Return whether a step changes the weights. Synchronizes with the device only if steps may be skipped.

    With a loss scale (float16), the scaler skips steps that are not finite.
    """
    may_skip = context.config.trainer.on_nan is OnNan.skip and not context.has_loss_scale
    return not may_skip or is_finite_step(float(loss), float(norm), scaled=False)


def _step_metrics(
    context: TrainContext,
    step: int,
    batches: StepBatches,
    terms: dict[str, float],
    grad_norm: float,
    lr: float,
    started: float,
) -> StepMetrics:
    """Return the metrics of a step that began at ``started``."""
    seconds = time.perf_counter() - started
    return StepMetrics(
        step=step + 1,
        epoch=round((step + 1) / context.plan.steps_per_epoch, 4),
        loss=terms.pop("loss"),
        terms=terms,
        lr=lr,
        grad_norm=grad_norm,
        examples=batches.examples,
        tokens=batches.tokens,
        computed_tokens=batches.computed_tokens,
        trained_tokens=batches.trained_tokens,
        seconds=round(seconds, 4),
        tokens_per_second=round(batches.tokens / seconds, 1),
        memory=peak_memory(context.accelerator.device),
        at=round(time.time(), 3),
    )
