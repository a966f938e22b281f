"""Export a saved step to its own run directory, ``RUN/steps/step-N``, for `eval`, `merge` and `chat`."""

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


def open_run_at_step(path: str, step: int | None, command: str) -> RunDir:
    """Open a run, or the run directory of one of its saved steps, which is written if needed.

    Args:
        path: The run directory as typed.
        step: The step of a checkpoint; None for the run itself.
        command: The command before the path, such as ``sft eval``, for errors.

    Raises:
        SftError: There is no such run or checkpoint, or the checkpoint is damaged.
    """
    run = open_run(path, command)
    if step is None:
        return run
    checkpoint = _find_checkpoint(run, step)
    exported = RunDir(run.path / "steps" / checkpoint.name)
    if not (exported.adapter.is_dir() or exported.model.is_dir()):
        _write_run_dir(run, checkpoint, exported)
    saved_step = checkpoint_dir.checkpoint_step(checkpoint)
    say(f"step      {saved_step} of {run.path}, exported as a run directory: {exported.path}")
    return exported


def _find_checkpoint(run: RunDir, step: int) -> Path:
    """Return the checkpoint of a step, if it is valid."""
    directories = checkpoint_dir.list_checkpoints(run.checkpoints)
    by_step = {checkpoint_dir.checkpoint_step(directory): directory for directory in directories}
    if step not in by_step:
        raise SftError(
            where=f"--step {step}",
            problem=f"{run.path} has no checkpoint of that step",
            fix=f"--step {max(by_step)}" + (f" (saved: {', '.join(map(str, by_step))})" if len(by_step) > 1 else "")
            if by_step
            else f"train until one is saved: sft train --resume {shlex.quote(str(run.path))} trainer.save_every=5",
        )
    checkpoint = by_step.pop(step)
    if (fault := checkpoint_dir.find_fault(checkpoint)) is not None:
        valid = [number for number, directory in by_step.items() if checkpoint_dir.find_fault(directory) is None]
        fix = f"--step {max(valid)}" if valid else f"sft train --resume {shlex.quote(str(run.path))}"
        raise SftError(where=str(checkpoint), problem=f"the checkpoint is damaged ({fault})", fix=fix)
    return checkpoint


def _write_run_dir(run: RunDir, checkpoint: Path, exported: RunDir) -> None:
    """Write the run directory of a step: copies of the run's files, metrics up to the step, and the exported result."""
    from sft_cli.merge.card import write_card
    from sft_cli.train.monitoring.metrics import truncate_after

    temporary = RunDir(exported.path.with_name(f".{exported.path.name}.tmp"))
    shutil.rmtree(temporary.path, ignore_errors=True)
    temporary.path.mkdir(parents=True)
    try:
        files = (
            run.config,
            run.environment,
            run.data,
            run.manifest,
            run.golden,
            run.probes,
            run.metrics,
            run.base_scores,
        )
        for file in files:
            if file.is_file():
                shutil.copy(file, temporary.path / file.name)
        shutil.copytree(run.tokenizer, temporary.tokenizer)
        truncate_after(temporary.metrics, checkpoint_dir.checkpoint_step(checkpoint))
        export_checkpoint(read_config(run.config), checkpoint, temporary)
        write_card(temporary, read_config(run.config), temporary.result)
        temporary.path.rename(exported.path)
    finally:
        shutil.rmtree(temporary.path, ignore_errors=True)


def export_checkpoint(config: Config, checkpoint: Path, run: RunDir) -> None:
    """Export a checkpoint into a run directory: build the model as for training and load the weights."""
    from sft_cli.chat.tokens.tokenizer import load_tokenizer
    from sft_cli.model.adapter.warm_start import frozen_adapters
    from sft_cli.model.device import choose_compute_setup
    from sft_cli.model.head.loss_model import LossModel
    from sft_cli.model.load import load_model_config
    from sft_cli.train.checkpoints.checkpoint import load_trained_weights
    from sft_cli.train.checkpoints.export import export_model
    from sft_cli.train.setup.build import load_adapted_model

    tokenizer = load_tokenizer(str(run.tokenizer))
    stops = [tokenizer.control_tokens[name] for name in run.read_json(run.manifest)["stop_tokens"]]
    machine = choose_compute_setup(config.trainer, load_model_config(config.model), full=config.adapter.kind in WHOLE)
    rows = _training_rows(config, run) if config.adapter.init is Init.eva else ()
    model = load_adapted_model(config, machine, tokenizer, stops, rows).model
    load_trained_weights(checkpoint, LossModel(model, packed=False, chunk=config.speed.logits_chunk))
    export_model(model, run, stops, config.model, frozen_adapters(config.adapter))


def _training_rows(config: Config, run: RunDir) -> Sequence[dict[str, Sequence[int]]]:
    """Return the training rows in the order of the first epoch, for an initialization that reads activations."""
    from sft_cli.batching.step_plan import plan_run
    from sft_cli.train.setup.build import FirstEpochRows

    prepared = open_prepared(Path(run.read_json(run.data)["prepared_dir"]))
    return list(FirstEpochRows(prepared.train, plan_run(prepared, config.trainer)))
