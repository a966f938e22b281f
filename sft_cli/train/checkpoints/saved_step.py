"""A saved step of a run as a run directory of its own, ``RUN/steps/step-N``: `eval`, `merge` and `chat` take it so."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from sft_cli.config.compose import read_config
from sft_cli.config.schema.adapter import WHOLE, Init
from sft_cli.config.schema.config import Config
from sft_cli.console import say
from sft_cli.data.prepared import open_prepared
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir, open_run
from sft_cli.train.checkpoints import checkpoint_dir


def run_at(path: str, step: int | None, command: str) -> RunDir:
    """A run, or a saved step of it as a run directory of its own, which is made if needed.

    Args:
        path: The run directory as typed.
        step: Of a checkpoint; None for the run itself.
        command: What is typed before the path, such as ``sft eval``, for errors.

    Raises:
        SftError: There is no such run or step, or the checkpoint is broken.
    """
    run = open_run(path, command)
    if step is None:
        return run
    checkpoint = _checkpoint(run, step)
    made = RunDir(run.path / "steps" / checkpoint.name)
    if not (made.adapter.is_dir() or made.model.is_dir()):
        _make(run, checkpoint, made)
    say(f"step      {checkpoint_dir.step_of(checkpoint)} of {run.path}, exported as a run directory: {made.path}")
    return made


def _checkpoint(run: RunDir, step: int) -> Path:
    """The checkpoint of a step, whole."""
    there = {checkpoint_dir.step_of(one): one for one in checkpoint_dir.all_of(run.checkpoints)}
    if step not in there:
        raise SftError(
            where=f"--step {step}",
            problem=f"{run.path} has no checkpoint of that step",
            fix=f"--step {max(there)}" + (f" (there are {', '.join(map(str, there))})" if len(there) > 1 else "")
            if there
            else f"train until one is saved: sft train --resume {shlex.quote(str(run.path))} trainer.save_every=50",
        )
    found = there.pop(step)
    if (fault := checkpoint_dir.fault_of(found)) is not None:
        whole = [number for number, one in there.items() if checkpoint_dir.fault_of(one) is None]
        fix = f"--step {max(whole)}" if whole else f"sft train --resume {shlex.quote(str(run.path))}"
        raise SftError(where=str(found), problem=f"the checkpoint is broken ({fault})", fix=fix)
    return found


def _make(run: RunDir, checkpoint: Path, made: RunDir) -> None:
    """Write the directory of a step: the run's own files, its metrics until then, and the result exported from it."""
    from sft_cli.train.monitoring.metrics import keep_until

    new = RunDir(made.path.with_name(f".{made.path.name}.tmp"))
    shutil.rmtree(new.path, ignore_errors=True)
    new.path.mkdir(parents=True)
    try:
        own = (run.config, run.environment, run.data, run.manifest, run.golden, run.probes, run.metrics, run.before)
        for file in own:
            if file.is_file():
                shutil.copy(file, new.path / file.name)
        shutil.copytree(run.tokenizer, new.tokenizer)
        keep_until(new.metrics, checkpoint_dir.step_of(checkpoint))
        _export(read_config(run.config), checkpoint, new)
        new.path.rename(made.path)
    finally:
        shutil.rmtree(new.path, ignore_errors=True)


def _export(config: Config, checkpoint: Path, run: RunDir) -> None:
    """Export what a checkpoint holds into a run directory: the model is built as for training, its weights put in."""
    from sft_cli.chat.tokens.tokenizer import load_tokenizer
    from sft_cli.model.adapter.warm_start import initial_adapters
    from sft_cli.model.device import choose_compute_setup
    from sft_cli.model.head.loss_model import LossModel
    from sft_cli.model.load import load_model_config
    from sft_cli.train.checkpoints.checkpoint import restore_trained
    from sft_cli.train.checkpoints.export import export
    from sft_cli.train.setup.build import adapted

    tokenizer = load_tokenizer(str(run.tokenizer))
    stops = [tokenizer.control_tokens[name] for name in run.read(run.manifest)["stop_tokens"]]
    machine = choose_compute_setup(config.trainer, load_model_config(config.model), full=config.adapter.kind in WHOLE)
    rows = _rows(config, run) if config.adapter.init is Init.eva else ()
    model = adapted(config, machine, tokenizer, stops, rows).model
    restore_trained(checkpoint, LossModel(model, packed=False, chunk=config.speed.logits_chunk))
    adapters = initial_adapters(config.adapter).items()
    frozen = [path for key, path in adapters if key.startswith("adapter.frozen_adapters")]
    export(model, run, stops, config.model, frozen)


def _rows(config: Config, run: RunDir) -> Sequence[dict[str, Sequence[int]]]:
    """The training rows in the order of the first epoch: what an initialisation by activations read."""
    from sft_cli.batching.step_plan import plan
    from sft_cli.config.schema.fields import resolved
    from sft_cli.train.setup.build import Rows

    prepared = open_prepared(Path(run.read(run.data)["prepared_dir"]))
    trainer = config.trainer
    size, epochs = resolved(trainer.examples_per_step), resolved(trainer.epochs)
    steps = plan(prepared.stages, size, epochs, trainer.max_steps, trainer.seed, prepared.train.unrolled())
    return list(Rows(prepared.train, steps))
