"""Render job scripts: the sbatch directives, and the srun command that starts every process of a run."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import Auto, ContainerKind, LauncherConfig

PASSED = (
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "PATH",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
)
"""Variables that every job takes from the submitting shell: identity, and paths of programs and models. All others are
passed explicitly, by launcher.env or launcher.pass_env."""


@dataclass(frozen=True)
class SubmissionContext:
    """Paths of the submitting shell that a job uses.

    Attributes:
        submit_dir: Working directory.
        bin_dir: Directory of the ``sft`` that a job without ``launcher.setup`` and without a container calls.
        sft_home: Value of ``SFT_HOME``, if it is set.
    """

    submit_dir: str
    bin_dir: str
    sft_home: str | None


@dataclass(frozen=True)
class ArrayJob:
    """Several runs as the tasks of one job.

    Attributes:
        directory: Directory of the script, the list of runs and the logs.
        runs: Run directories.
        parallel: Most tasks that run at once.
    """

    directory: Path
    runs: Sequence[Path]
    parallel: int

    @property
    def members(self) -> Path:
        """File that lists the run directories, one per line."""
        return self.directory / "members.txt"

    @property
    def script(self) -> Path:
        """File of the job script."""
        return self.directory / "array.sbatch"


def processes_per_node(launcher: LauncherConfig) -> int:
    """Return the number of processes per node: one per GPU, or ``launcher.nproc`` without GPUs."""
    if launcher.gpus:
        return launcher.gpus
    assert not isinstance(launcher.nproc, Auto), "refused by the check"
    return launcher.nproc


def job_script(config: Config, run_dir: str, place: SubmissionContext) -> str:
    """Return the text of a run's job.sbatch."""
    log = f"{_escape_percent(run_dir)}/slurm-%j.log"  # sbatch replaces %j with the job id
    again = shlex.quote(f"sbatch {shlex.quote(f'{run_dir}/job.sbatch')}")
    word = f"--resume {shlex.quote(run_dir)}"
    return _render(config, place, sbatch_options(config, log), word, [run_dir], again, members=None)


def array_script(config: Config, array: ArrayJob, place: SubmissionContext) -> str:
    """Return the text of array.sbatch, whose task i trains the i-th run."""
    log = f"{_escape_percent(str(array.directory))}/slurm-%A_%a.log"  # job id, task number
    options = {**sbatch_options(config, log), "array": f"0-{len(array.runs) - 1}%{array.parallel}"}
    again = f'"sbatch --array=$SLURM_ARRAY_TASK_ID" {shlex.quote(str(array.script))}'
    inside = [str(array.directory), *map(str, array.runs)]
    return _render(config, place, options, '--resume "$run"', inside, again, members=str(array.members))


def sbatch_options(config: Config, log: str) -> dict[str, str]:
    """Return the options of sbatch with their values, in the order of the script.

    Args:
        config: The config of the run.
        log: Pattern of the log's name.

    Returns:
        Option -> value, which is empty for a flag; options left to the cluster are absent.
    """
    launcher = config.launcher
    options = {
        "job-name": config.run_name,
        "output": log,
        "open-mode": "append",  # a requeued job appends to the log of its first start
        "partition": launcher.partition,
        "account": launcher.account,
        "constraint": launcher.constraint,
        "time": launcher.time,
        "nodes": str(launcher.nodes),
        "ntasks-per-node": str(processes_per_node(launcher)),
        "cpus-per-task": str(launcher.cpus),
        "gpus-per-node": str(launcher.gpus) if launcher.gpus else None,
        "mem": launcher.memory,
        "export": ",".join(dict.fromkeys((*PASSED, *launcher.pass_env))),
        "signal": f"B:USR1@{launcher.signal_seconds}" if launcher.signal_seconds else None,
        "requeue" if launcher.requeues else "no-requeue": "",
        "mail-user": launcher.mail,
        "mail-type": "END,FAIL,REQUEUE" if launcher.mail else None,
    }
    return {option: value for option, value in options.items() if value is not None}


def environment_variables(launcher: LauncherConfig) -> dict[str, str]:
    """Return the variables exported for the run; torch would start a thread per core of the node otherwise."""
    threads = {} if "OMP_NUM_THREADS" in launcher.pass_env else {"OMP_NUM_THREADS": str(launcher.cpus)}
    return threads | launcher.env


def container_mounts(launcher: LauncherConfig, place: SubmissionContext, inside: Sequence[str]) -> list[str]:
    """Return the mounts of a container, ``HOST`` or ``HOST:INSIDE``: configured ones, and the run's directories."""
    required = [place.submit_dir, *inside, *([place.sft_home] if place.sft_home else [])]
    return list(dict.fromkeys((*launcher.container.mounts, *required)))


def sbatch_word(value: str) -> str:
    """Quote one word of an ``#SBATCH`` line: sbatch reads double quotes with backslashes, not single quotes."""
    if re.fullmatch(r"[\w%+=:@,./-]+", value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _command(launcher: LauncherConfig, place: SubmissionContext, word: str, inside: Sequence[str]) -> str:
    """Return the srun command, one task per process; a task that fails ends the others.

    ``word`` is already quoted.
    """
    per_node = processes_per_node(launcher)
    srun = ["srun", f"--ntasks={launcher.nodes * per_node}", f"--ntasks-per-node={per_node}"]
    srun += [f"--cpus-per-task={launcher.cpus}", "--kill-on-bad-exit=1", "--export=ALL"]
    container, program = launcher.container, []
    if container.kind is ContainerKind.pyxis:
        pairs = [mount if ":" in mount else f"{mount}:{mount}" for mount in container_mounts(launcher, place, inside)]
        srun += [f"--container-image={container.image}", f"--container-mounts={','.join(pairs)}"]
        srun += [f"--container-workdir={place.submit_dir}"]
        # The image's values would override variables that are not listed.
        names = [*(["SFT_HOME"] if place.sft_home else []), *environment_variables(launcher), *launcher.pass_env]
        srun += [f"--container-env={','.join(dict.fromkeys(names))}"]
    elif container.kind is ContainerKind.apptainer:
        program = ["apptainer", "exec", *(["--nv"] if launcher.gpus else [])]
        program += [f"--bind={','.join(container_mounts(launcher, place, inside))}", f"--pwd={place.submit_dir}"]
        program += [str(container.image)]
    return f"{shlex.join([*srun, *program, 'sft', 'train'])} {word}"


def _render(
    config: Config,
    place: SubmissionContext,
    options: Mapping[str, str],
    word: str,
    inside: Sequence[str],
    again: str,
    members: str | None,
) -> str:
    """Return the script from its template."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(sh=shlex.quote, sbatch=sbatch_word)
    return environment.get_template("job.sbatch.jinja").render(
        directives=options,
        launcher=config.launcher,
        place=place,
        variables=environment_variables(config.launcher),
        several=config.launcher.nodes * processes_per_node(config.launcher) > 1,
        command=_command(config.launcher, place, word, inside),
        members=members,
        again=again,
    )


def _escape_percent(path: str) -> str:
    """Return a path in which sbatch expands no patterns."""
    return path.replace("%", "%%")
