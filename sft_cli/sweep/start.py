"""Start or resume a sweep on this machine or as a SLURM array."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sft_cli.config.compose import dump_config, read_config
from sft_cli.config.paths import absolute, default_sweep_dir
from sft_cli.config.redaction import masked_address
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.config.schema.launcher import LauncherKind
from sft_cli.console import counted, say
from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError
from sft_cli.prepare.prepare import prepare_data
from sft_cli.slurm.sbatch import require_sbatch
from sft_cli.slurm.submit import submit_array
from sft_cli.sweep import metric as metrics
from sft_cli.sweep.plan import SweepPlan, plan_sweep
from sft_cli.sweep.resources import member_environments
from sft_cli.sweep.runner import finish_sweep, run_sweep, wait_for_saving
from sft_cli.sweep.state import NAME, MemberState, SweepRecord, load_record, read_outcome, save_record
from sft_cli.train.setup.run_lock import hold_run_lock
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.disks import unused_path
from sft_cli.utils.home import expand_home


def begin(
    words: Sequence[str],
    config_dirs: Sequence[str],
    *,
    out: Path | None,
    parallel: int | None,
    metric: str | None,
    mode: str | None,
) -> int:
    """Run a new sweep.

    Args:
        words: Overrides, at least one with several values.
        config_dirs: Directories of recipes and options.
        out: Directory of the sweep; None for the default name.
        parallel: Number of parallel members; None for one, or for all as a SLURM array.
        metric: Metric that ranks the members; None for the loss.
        mode: Better direction of the metric, ``min`` or ``max``; None for its default.

    Returns:
        The exit code: 1 if a member did not finish, 128 + signal if a signal stopped the sweep.
    """
    named = expand_home(out) if out is not None else None
    if named is not None:
        _refuse_taken(named)
    planned = plan_sweep(words, config_dirs)
    ranked_by = metrics.parse_metric(metric, mode, planned.configs)
    cluster = planned.configs[0].launcher.kind is LauncherKind.slurm
    parallel = parallel or (len(planned.members) if cluster else 1)
    if cluster:
        require_sbatch()
    environments = [] if cluster else member_environments(parallel, planned.configs)
    prepared = _prepared(planned)
    if not all(len(data.validation) for data in prepared.values()):  # too few rows for the default held-out share
        ranked_by = metrics.parse_metric(metric, mode, [_without_held_out(config) for config in planned.configs])
    directory = _make_directory(named, planned.configs[0].run_name)
    record = SweepRecord(
        directory.absolute() if cluster else directory,
        tuple(map(_masked, words)),
        planned.keys,
        planned.members,
        ranked_by,
        parallel,
        datasets=len(prepared),
    )
    with hold_run_lock(directory / ".lock"):
        for member, config in zip(planned.members, planned.configs, strict=True):
            run = record.run(member)
            run.path.mkdir()
            write_atomic(run.config, dump_config(absolute(config)))
        save_record(record, {member: read_outcome(record, member) for member in record.members})
        say(f"sweep     {directory}: {counted(len(planned.members), 'member')} over {', '.join(planned.keys)}")
        return _submit(record, planned.configs) if cluster else run_sweep(record, environments, {})


def resume_sweep(path: Path, *, parallel: int | None, metric: str | None, mode: str | None) -> int:
    """Run the unfinished members of an earlier sweep.

    Args:
        path: Directory of the sweep.
        parallel: Number of parallel members; None for the earlier number.
        metric: Metric that ranks the members; None for the earlier one.
        mode: ``min`` or ``max``; None for the default of the metric.

    Returns:
        The exit code, as for ``begin``.
    """
    record, errors = load_record(path)
    if record.job is not None and parallel is not None:
        raise SftError(
            where=f"--parallel {parallel}",
            problem=f"job {record.job}, a SLURM array, keeps the number it was submitted with",
            fix=f"remove it; scontrol update JobId={record.job} ArrayTaskThrottle={parallel} changes it",
        )
    configs = tuple(read_config(record.run(member).config) for member in record.members)
    if metric is not None or mode is not None:
        name = metric or record.metric.name
        same = name == record.metric.name and mode is None
        record = record.with_metric(record.metric if same else metrics.parse_metric(name, mode, configs))
    record = record if parallel is None else replace(record, parallel=parallel)
    with hold_run_lock(record.directory / ".lock"):
        if record.job is not None:
            outcomes = {member: read_outcome(record, member) for member in record.members}
            finish_sweep(record, outcomes)
            return int(any(outcome.state is MemberState.failed for outcome in outcomes.values()))
        wait_for_saving(record, record.members)
        earlier = {member: read_outcome(record, member) for member in record.members}
        unfinished = [member for member, outcome in earlier.items() if outcome.state is not MemberState.finished]
        say(f"sweep     {record.directory}: {len(unfinished)} of {len(earlier)} members are unfinished")
        chosen = tuple(config for member, config in zip(record.members, configs, strict=True) if member in unfinished)
        environments = member_environments(record.parallel, chosen)
        _prepared(SweepPlan(record.keys, tuple(unfinished), chosen))
        return run_sweep(record, environments, errors)


def _submit(record: SweepRecord, configs: Sequence[Config]) -> int:
    """Submit the members as an array, or remove the directory of the sweep if sbatch refuses."""
    runs = [record.run(member).path for member in record.members]
    try:
        job = submit_array(record.directory, runs, configs[0], record.parallel)
    except SftError:
        shutil.rmtree(record.directory)
        raise
    record = replace(record, job=job)
    save_record(record, {member: read_outcome(record, member) for member in record.members})
    say(f"submitted job {job}, {len(runs)} tasks, {record.parallel} at a time")
    say(f"logs      {record.directory}/slurm-{job}_*.log")
    say(f"follow    squeue -j {job}")
    say(f"then      sft sweep --resume {shlex.quote(str(record.directory))}")
    return 0


def _prepared(planned: SweepPlan) -> dict[str, PreparedData]:
    """Prepare each distinct data set of the members, and return them by fingerprint."""
    datasets = [prepare_data(config) for config in planned.distinct_data()]
    return {data.manifest["fingerprint"]: data for data in datasets}


def _without_held_out(config: Config) -> Config:
    """Return the config without held-out rows if their number is automatic."""
    automatic = isinstance(config.data.val_fraction, Auto)
    return replace(config, data=replace(config.data, val_fraction=0.0)) if automatic else config


def _refuse_taken(directory: Path) -> None:
    """Refuse a directory that is not empty."""
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if directory.exists():
        swept = (directory / NAME).is_file()
        another = f"--out {shlex.quote(str(unused_path(directory)))}"
        raise SftError(
            where=f"--out {directory}",
            problem="the directory holds a sweep" if swept else "the path exists",
            fix=f"resume it: sft sweep --resume {shlex.quote(str(directory))}\n{another}" if swept else another,
        )


def _make_directory(named: Path | None, run_name: str) -> Path:
    """Create and return the directory of a new sweep: the named one, or the first free one of the default name."""
    if named is not None:
        named.mkdir(parents=True, exist_ok=True)
        return named
    default = default_sweep_dir(run_name)
    default.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        path = default if number == 1 else default.with_name(f"{default.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError(f"{default} has a thousand namesakes")


def _masked(word: str) -> str:
    """Return a word with the secrets of an address masked."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{masked_address(value)}"
