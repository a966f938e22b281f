"""Checkpoints: written whole or not at all, verified before use, safetensors only.

step-N/trained.safetensors     the trained parameters: an adapter, or every weight
step-N/average.safetensors     their average over steps, where the run keeps one
step-N/optimizer.safetensors   the optimizer's tensors, named <parameter index>.<name>
                               (under FSDP a file for each process, <name>.0-of-4.safetensors; see sharded_tensors.py)
step-N/rng.safetensors         states of the random generators
step-N/state.json              step, schedule, best evaluation, optimizer scalars, data fingerprint, config
step-N/manifest.json           sha256 of the files above; written last
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from sft_cli.distributed.process_group import Ranks
from sft_cli.errors import SftError
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.train.checkpoints.optimizer_state import join_optimizer, split_optimizer
from sft_cli.train.checkpoints.resume_check import refuse_other
from sft_cli.train.checkpoints.sharded_tensors import Stored, write
from sft_cli.train.optimizers.param_groups import trained_parameters
from sft_cli.train.optimizers.weight_average import WeightAverage, put_weights
from sft_cli.utils.atomic import apply_umask, fsync
from sft_cli.utils.disks import written
from sft_cli.utils.hashing import sha256_of_file

TRAINED, AVERAGE = "trained", "average"
ALONE = Ranks()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimizer steps done.
        best_step: The step of the best evaluation, or None.
        best_loss: Its held-out loss in nats, or None.
        without_improvement: Evaluations since.
    """

    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    without_improvement: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpoint saves and restores; ``average`` is None where the run keeps none."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler | None
    average: WeightAverage | None = None


def save(root: Path, progress: Progress, parts: Parts, identity: Mapping[str, Any], ranks: Ranks = ALONE) -> Path:
    """Write ``root/step-N`` through a temporary directory, every byte on disk before it gets its name.

    Every process writes the parts that it alone holds.

    Raises:
        SftError: It cannot be written; the checkpoints before it stay.
    """
    final = root / f"step-{progress.step}"
    new = root / f".step-{progress.step}.tmp"
    tensors, scalars = split_optimizer(parts.optimizer)
    tables = {"trained": dict(trained_parameters(parts.model)), "optimizer": tensors}
    if parts.average is not None:
        tables["average"] = parts.average.state()
    generators = ranks.gather(_rng_state())

    def finish(hashes: Sequence[Mapping[str, str]]) -> None:
        save_file(_by_rank(generators), new / "rng.safetensors")
        state = {
            "progress": {name: getattr(progress, name) for name in Progress.__dataclass_fields__},
            "schedule": {k: v for k, v in parts.schedule.state_dict().items() if k != "lr_lambdas"},
            "optimizer": scalars,
            "scaler": parts.scaler.state_dict() if parts.scaler else None,
            "averaged_steps": parts.average.steps if parts.average is not None else 0,
            "python_rng": random.getstate(),
            "identity": dict(identity),
        }
        (new / "state.json").write_text(json.dumps(state), encoding="utf-8")
        others = {name: sha256_of_file(new / name) for name in ("rng.safetensors", "state.json")}
        manifest = {name: digest for own in (*hashes, others) for name, digest in own.items()}
        (new / "manifest.json").write_text(json.dumps(dict(sorted(manifest.items())), indent=1), encoding="utf-8")
        apply_umask(new)
        for path in [*new.iterdir(), new]:
            fsync(path)
        if final.exists():
            checkpoint_dir.remove(final)
        new.rename(final)
        fsync(root)

    with _emptied(new, ranks):
        hashes = ranks.gather(ranks.together(lambda: _write_parts(new, tables, ranks.first)))
        ranks.by_first(lambda: _on_disk(final, partial(finish, hashes)))
    return final


@contextmanager
def _emptied(directory: Path, ranks: Ranks) -> Iterator[None]:
    """Write in here into an empty directory; where that fails nothing of it is left to fill the disk."""
    ranks.by_first(lambda: checkpoint_dir.sweep(directory.parent))
    ranks.by_first(lambda: directory.mkdir(parents=True))
    try:
        yield
    except BaseException:
        if ranks.first:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _write_parts(new: Path, tables: Mapping[str, Mapping[str, Tensor]], first: bool) -> dict[str, str]:
    """Write what this process holds; sha256 by file name."""
    files = [_on_disk(new, partial(write, new, name, tensors, first=first)) for name, tensors in tables.items()]
    found = {file.name: sha256_of_file(file) for file in files if file is not None}
    for name in found:
        fsync(new / name)
    return found


def _on_disk(place: Path, work: Callable[[], T]) -> T:
    """Do what writes.

    Raises:
        SftError: The disk is full, or the like.
    """
    with written(place, "free disk space, then resume the run"):
        return work()


def load(directory: Path, parts: Parts, identity: Mapping[str, Any], rank: int = 0) -> Progress:
    """Restore everything a checkpoint holds, whatever number of processes wrote it.

    Raises:
        SftError: It belongs to other data or another config; the keys that differ are named.
    """
    state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    refuse_other(directory.parents[1], state["identity"], identity, where=directory)
    _put(Stored(directory, TRAINED), parts.model)
    if parts.average is not None:
        places, stored = dict(trained_parameters(parts.model)), Stored(directory, AVERAGE)
        averages = {key: stored.read(key, places[key.rpartition("/")[2]]) for key in stored}
        parts.average.load(averages, state["averaged_steps"], parts.model)
    join_optimizer(parts.optimizer, Stored(directory, "optimizer"), state["optimizer"])
    parts.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None] * len(parts.schedule.lr_lambdas)})
    if parts.scaler is not None and state["scaler"]:
        parts.scaler.load_state_dict(state["scaler"])
    version, numbers, gauss = state["python_rng"]
    random.setstate((version, tuple(numbers), gauss))
    _restore_rng(load_file(directory / "rng.safetensors"), rank)
    return Progress(**state["progress"])


def restore_trained(directory: Path, model: nn.Module) -> None:
    """Copy what a checkpoint would export into the model: the average of the trained parameters, or they themselves.

    Raises:
        SftError: The checkpoint is not whole.
    """
    if (fault := checkpoint_dir.fault_of(directory)) is not None:
        raise SftError(
            where=str(directory),
            problem=f"the best checkpoint is broken ({fault})",
            fix="export the last weights instead: resume with trainer.keep_best=false",
        )
    average = Stored(directory, AVERAGE)
    _put(average if len(average) else Stored(directory, TRAINED), model)


def _put(stored: Stored, model: nn.Module) -> None:
    """Overwrite the trained parameters with those of a checkpoint, which may hold more."""
    trained = dict(trained_parameters(model))
    assert trained.keys() <= set(stored), "a checkpoint holds the parameters its config trains"
    put_weights(model, {name: stored.read(name, parameter) for name, parameter in trained.items()})


def _rng_state() -> dict[str, Tensor]:
    """States of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _by_rank(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states of all processes by name, those of others than the first as ``<name>.<rank>``."""
    return {f"{name}.{rank}" if rank else name: value for rank, own in enumerate(states) for name, value in own.items()}


def _restore_rng(states: Mapping[str, Tensor], rank: int) -> None:
    """Set torch's generators; a process that was not there keeps its own."""
    suffix = f".{rank}" if rank else ""
    if f"cpu{suffix}" in states:
        torch.set_rng_state(states[f"cpu{suffix}"])
    if f"cuda{suffix}" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"cuda{suffix}"])
