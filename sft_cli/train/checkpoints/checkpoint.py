"""Checkpoints: written atomically, verified before use, safetensors only.

step-N/trained.safetensors     the trained parameters: an adapter, or all weights
step-N/average.safetensors     their average over steps, if the run keeps one
step-N/optimizer.safetensors   the optimizer's tensors, named <parameter index>.<name>
                               (under FSDP one file per process, <name>.0-of-4.safetensors; see sharded_tensors.py)
step-N/rng.safetensors         states of the random generators
step-N/state.json              step, schedule, best evaluation, optimizer scalars, data fingerprint, config
step-N/adapter_config.json     and adapter_model.safetensors: the adapter for PEFT (not under FSDP)
step-N/manifest.json           sha256 of the files above; written last
"""

import json
import random
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.console import say
from sft_cli.distributed.process_group import World
from sft_cli.errors import SftError
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.train.checkpoints.checkpoint_adapter import write_adapter
from sft_cli.train.checkpoints.optimizer_state import optimizer_from_tensors, optimizer_to_tensors
from sft_cli.train.checkpoints.resume_check import check_same_run
from sft_cli.train.checkpoints.sharded_tensors import ShardedTensorReader, save_tensors
from sft_cli.train.optimizers.lr_schedule import RunLength
from sft_cli.train.optimizers.param_groups import trained_parameters
from sft_cli.train.optimizers.weight_average import WeightAverage, copy_weights
from sft_cli.train.run_end import EndReason, RunEnd
from sft_cli.utils.atomic import apply_umask, fsync
from sft_cli.utils.disks import translate_disk_errors
from sft_cli.utils.hashing import sha256_of_file

TRAINED, AVERAGE = "trained", "average"
SINGLE_PROCESS = World()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """The progress of a run.

    Attributes:
        step: Optimizer steps done.
        best_step: The step of the best evaluation, or None.
        best_loss: Its held-out loss in nats, or None.
        best_score: Its value of ``trainer.best``, or None.
        best_by: Digest of what decides which evaluation is the best, see ``Best.digest``; empty: the held-out loss.
        without_improvement: Evaluations since that step.
    """

    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    without_improvement: int = 0
    best_score: float | None = None
    best_by: str = ""

    def ranked_by(self, by: str) -> "TrainProgress":
        """Return the progress, without its best evaluation if another figure than ``by`` decided it."""
        if self.best_by == by:
            return self
        if self.best_step is not None:
            say("best      trainer.best or its items changed: the evaluations before this step do not count")
        return TrainProgress(self.step, best_by=by)

    def is_out_of_patience(self, trainer: TrainerConfig) -> bool:
        """Return whether the held-out loss has not improved for ``trainer.patience`` evaluations."""
        return trainer.patience is not None and self.without_improvement >= trainer.patience

    def end(self, trainer: TrainerConfig, planned_steps: int) -> RunEnd:
        """Return the end of the run if it ends here: the best weights (``trainer.keep_best``) or the last are exported.

        Args:
            trainer: The settings of the training loop.
            planned_steps: Optimizer steps of the plan.
        """
        exported = self.step if self.best_step is None or not trainer.keep_best else self.best_step
        reason: EndReason = "patience" if self.is_out_of_patience(trainer) else "finished early"
        return RunEnd(self.step, planned_steps, exported, "completed" if self.step >= planned_steps else reason)


@dataclass(frozen=True, slots=True)
class TrainState:
    """The state that a checkpoint saves; ``average`` is None if the run keeps none, ``length`` is that of the plan."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    lr_schedule: LambdaLR
    scaler: torch.amp.GradScaler | None
    average: WeightAverage | None = None
    length: RunLength = field(default_factory=partial(RunLength, 0, 0))


def save_checkpoint(
    root: Path,
    progress: TrainProgress,
    state: TrainState,
    fingerprint: Mapping[str, Any],
    world: World = SINGLE_PROCESS,
) -> Path:
    """Write ``root/step-N`` and return its path.

    The files go to a temporary directory, which is flushed to disk and then renamed. Under FSDP, every process writes
    its own shards.

    Args:
        root: The directory of checkpoints.
        progress: The progress to save.
        state: The state to save.
        fingerprint: The settings that a resumed run must share.
        world: The processes of the run.

    Raises:
        SftError: It cannot be written; the earlier checkpoints stay.
    """
    final = root / f"step-{progress.step}"
    temporary = root / f".step-{progress.step}.tmp"
    tensors, scalars = optimizer_to_tensors(state.optimizer)
    tables = {"trained": dict(trained_parameters(state.model)), "optimizer": tensors}
    if state.average is not None:
        tables["average"] = state.average.state()
    generators = world.all_gather_object(_rng_state())

    def finish(hashes: Sequence[Mapping[str, str]]) -> None:
        """Write the files of rank 0 and rename the directory to its final name."""
        save_file(_rng_tensors(generators), temporary / "rng.safetensors")
        saved = {
            "progress": {name: getattr(progress, name) for name in TrainProgress.__dataclass_fields__},
            "length": asdict(state.length),
            "schedule": {k: v for k, v in state.lr_schedule.state_dict().items() if k != "lr_lambdas"},
            "optimizer": scalars,
            "scaler": state.scaler.state_dict() if state.scaler else None,
            "averaged_steps": state.average.steps if state.average is not None else 0,
            "python_rng": random.getstate(),
            "identity": dict(fingerprint),
        }
        (temporary / "state.json").write_text(json.dumps(saved), encoding="utf-8")
        names = ("rng.safetensors", "state.json", *write_adapter(state.model, state.average, temporary))
        own_hashes = {name: sha256_of_file(temporary / name) for name in names}
        manifest = {name: digest for process in (*hashes, own_hashes) for name, digest in process.items()}
        (temporary / "manifest.json").write_text(json.dumps(dict(sorted(manifest.items())), indent=1), encoding="utf-8")
        apply_umask(temporary)
        for path in [*temporary.iterdir(), temporary]:
            fsync(path)
        if final.exists():
            checkpoint_dir.remove_checkpoint(final)
        temporary.rename(final)
        fsync(root)

    with _empty_directory(temporary, world):
        write = partial(_write_tensors, temporary, tables, world.is_main)
        hashes = world.all_gather_object(world.run_collectively(write))
        world.run_on_main(lambda: _call_writer(final, partial(finish, hashes)))
    return final


@contextmanager
def _empty_directory(directory: Path, world: World) -> Iterator[None]:
    """Create an empty directory for the block; if the block fails, remove the directory."""
    world.run_on_main(lambda: checkpoint_dir.remove_partial(directory.parent))
    world.run_on_main(lambda: directory.mkdir(parents=True))
    try:
        yield
    except BaseException:
        if world.is_main:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _write_tensors(directory: Path, tables: Mapping[str, Mapping[str, Tensor]], is_main: bool) -> dict[str, str]:
    """Write the tensors that this process holds and return the sha256 of each file by name."""
    files = [
        _call_writer(directory, partial(save_tensors, directory, name, tensors, is_main=is_main))
        for name, tensors in tables.items()
    ]
    hashes = {file.name: sha256_of_file(file) for file in files if file is not None}
    for name in hashes:
        fsync(directory / name)
    return hashes


def _call_writer(path: Path, write: Callable[[], T]) -> T:
    """Call ``write``, which writes to ``path``, and return its result.

    Raises:
        SftError: The disk is full or fails.
    """
    with translate_disk_errors(path, "free disk space, then resume the run"):
        return write()


def load_checkpoint(directory: Path, state: TrainState, fingerprint: Mapping[str, Any], rank: int = 0) -> TrainProgress:
    """Restore the state from a checkpoint and return its progress. Any number of processes may have written it.

    Args:
        directory: The checkpoint.
        state: The state to restore into.
        fingerprint: The settings of this run.
        rank: Rank of this process.

    Raises:
        SftError: It belongs to other data or another config; the error names the keys that differ.
    """
    saved = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    check_same_run(directory.parents[1], saved["identity"], fingerprint, where=directory)
    _copy_into(ShardedTensorReader(directory, TRAINED), state.model)
    if state.average is not None:
        parameters, stored = dict(trained_parameters(state.model)), ShardedTensorReader(directory, AVERAGE)
        averages = {key: stored.read(key, parameters[key.rpartition("/")[2]]) for key in stored}
        state.average.load(averages, saved["averaged_steps"], state.model)
    optimizer_from_tensors(state.optimizer, ShardedTensorReader(directory, "optimizer"), saved["optimizer"])
    state.lr_schedule.load_state_dict({**saved["schedule"], "lr_lambdas": [None] * len(state.lr_schedule.lr_lambdas)})
    _set_learning_rates(state.lr_schedule)
    if state.scaler is not None and saved["scaler"]:
        state.scaler.load_state_dict(saved["scaler"])
    version, numbers, gauss = saved["python_rng"]
    random.setstate((version, tuple(numbers), gauss))
    _restore_rng(load_file(directory / "rng.safetensors"), rank)
    return TrainProgress(**saved["progress"])


def _set_learning_rates(schedule: LambdaLR) -> None:
    """Set the learning rates of the next step, which differ from the saved ones if the length of the run changed."""
    pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    schedule._last_lr = [rate * factor(schedule.last_epoch) for rate, factor in pairs]
    for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate


def read_progress(directory: Path) -> tuple[TrainProgress, RunLength]:
    """Return the progress of a checkpoint and the length that was planned when it was written."""
    saved = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    return TrainProgress(**saved["progress"]), RunLength(**saved["length"])


def load_trained_weights(directory: Path, model: nn.Module) -> None:
    """Load the weights to export from a checkpoint: the averaged ones if it has them, otherwise the trained ones.

    Raises:
        SftError: The checkpoint is damaged.
    """
    if (fault := checkpoint_dir.find_fault(directory)) is not None:
        raise SftError(
            where=str(directory),
            problem=f"the best checkpoint is damaged ({fault})",
            fix="export the last weights instead: "
            f"sft train --resume {shlex.quote(str(directory.parent.parent))} trainer.keep_best=false",
        )
    average = ShardedTensorReader(directory, AVERAGE)
    _copy_into(average if len(average) else ShardedTensorReader(directory, TRAINED), model)


def _copy_into(stored: ShardedTensorReader, model: nn.Module) -> None:
    """Overwrite the trained parameters with those of a checkpoint, which may contain more."""
    trained = dict(trained_parameters(model))
    assert trained.keys() <= set(stored), "a checkpoint contains the parameters that its config trains"
    copy_weights(model, {name: stored.read(name, parameter) for name, parameter in trained.items()})


def _rng_state() -> dict[str, Tensor]:
    """Return the states of torch's random generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _rng_tensors(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the states of all processes by name; those of ranks above 0 are named ``<name>.<rank>``."""
    named = ((rank, name, value) for rank, tensors in enumerate(states) for name, value in tensors.items())
    return {f"{name}.{rank}" if rank else name: value for rank, name, value in named}


def _restore_rng(states: Mapping[str, Tensor], rank: int) -> None:
    """Restore torch's random generators; a rank without a saved state keeps its current one."""
    suffix = f".{rank}" if rank else ""
    if f"cpu{suffix}" in states:
        torch.set_rng_state(states[f"cpu{suffix}"])
    if f"cuda{suffix}" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"cuda{suffix}"])
