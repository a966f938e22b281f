"""Refuse jobs that SLURM cannot run, on the login node, before they wait in the queue."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sft_cli.config.redaction import masked_address
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import Auto, ContainerKind, LauncherConfig, LauncherKind
from sft_cli.data.sources.remote import cached_download
from sft_cli.errors import SftError, raise_all
from sft_cli.slurm.script import SubmissionContext, container_mounts


def validate_job(
    config: Config,
    directories: Mapping[str, str],
    place: SubmissionContext,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Refuse an invalid job; report all mistakes at once.

    Args:
        config: The config of the run.
        directories: Directories that the job writes to, by the key that sets them.
        place: Paths of the submitting shell.
        environment: Variables of the submitting shell.

    Raises:
        SftError: The job has at least one mistake.
    """
    errors = [*_check_launcher(config.launcher, environment), *_check_printable(config, directories, place)]
    for where, directory in directories.items():
        if "\\" in directory:
            problem = (
                f"{directory!r} holds a backslash, after which sbatch does not expand the job id in the name of the log"
            )
            errors.append(SftError(where=where, problem=problem, fix=f"{where}={directory.replace(chr(92), '_')}"))
    inside = list(directories.values())
    errors += [
        *_check_mounts(config.launcher, place, inside),
        *_check_container_paths(config, place, inside),
        *_check_signed_urls(config),
    ]
    raise_all(errors)


def _check_launcher(launcher: LauncherConfig, environment: Mapping[str, str]) -> Iterator[SftError]:
    """Yield errors in the launcher settings, alone and with this shell."""
    if launcher.kind is not LauncherKind.slurm:
        problem = f"launcher={launcher.kind.value} trains in this shell and submits no job"
        yield SftError(where="launcher", problem=problem, fix="type launcher=slurm, or sft train instead")
    if isinstance(launcher.nproc, Auto) and not launcher.gpus:
        problem = "auto is one process per GPU, but launcher.gpus is 0"
        yield SftError(where="launcher.nproc", problem=problem, fix="write a number, such as launcher.nproc=2")
    absent = [name for name in launcher.pass_env if name not in environment]
    if absent:
        problem = f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set in this shell"
        fix = f"export {absent[0]}=…, or remove the name from launcher.pass_env"
        yield SftError(where="launcher.pass_env", problem=problem, fix=fix)


def _check_printable(config: Config, directories: Mapping[str, str], place: SubmissionContext) -> Iterator[SftError]:
    """Yield an error for each text that would break a line of the script."""
    launcher = config.launcher
    texts = {
        "run_name": config.run_name,
        **directories,
        "launcher.partition": launcher.partition,
        "launcher.account": launcher.account,
        "launcher.constraint": launcher.constraint,
        "launcher.time": launcher.time,
        "launcher.memory": launcher.memory,
        "launcher.mail": launcher.mail,
        "launcher.setup": launcher.setup,
        "launcher.modules": "".join(launcher.modules),
        **{f"launcher.env.{name}": value for name, value in launcher.env.items()},
        "launcher.container.image": launcher.container.image,
        "launcher.container.mounts": "".join(launcher.container.mounts),
        "the working directory": place.submit_dir,
        "SFT_HOME": place.sft_home,
    }
    for where, value in texts.items():
        if value is not None and not value.isprintable():
            problem = f"{value!r} holds a line break or control character, which a job script cannot contain"
            yield SftError(where=where, problem=problem, fix="write it on one line, without control characters")


def _check_mounts(launcher: LauncherConfig, place: SubmissionContext, inside: list[str]) -> Iterator[SftError]:
    """Yield an error for each directory whose name contains a separator of mounts."""
    if launcher.container.kind is ContainerKind.none:
        return
    configured = launcher.container.mounts
    for path in container_mounts(launcher, place, inside):
        if "," in path or (":" in path and path not in configured):
            problem = f"{path!r} holds a comma or colon, which separate the mounts of a container"
            fix = "rename the directory, or mount another one above it"
            yield SftError(where="launcher.container.mounts", problem=problem, fix=fix)


def _check_container_paths(config: Config, place: SubmissionContext, inside: list[str]) -> Iterator[SftError]:
    """Yield an error for each local path outside the container; Apptainer mounts the home and /tmp by default."""
    launcher = config.launcher
    if launcher.container.kind is ContainerKind.none:
        return
    default = [str(Path.home()), "/tmp"] if launcher.container.kind is ContainerKind.apptainer else []
    mounted = [*default, *(mount.rpartition(":")[2] for mount in container_mounts(launcher, place, inside))]
    for key, path in _local_paths(config):
        if os.path.isabs(path) and not any(Path(path).is_relative_to(directory) for directory in mounted):
            problem = f"{path!r} is outside of the mounts of the container"
            fix = f"launcher.container.mounts=[{os.path.dirname(path)}], or write its path inside the container"
            yield SftError(where=key, problem=problem, fix=fix)


def _local_paths(config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and value of each setting that may be a path."""
    paths = {
        "model.path": config.model.path,
        "model.tokenizer": config.model.tokenizer,
        "template.path": config.template.path,
        "prepared_dir": config.prepared_dir,
    }
    for name, source in config.data.mix.items():
        paths |= {f"data.mix.{name}.path": source.path, f"data.mix.{name}.validation_path": source.validation_path}
    yield from ((key, path) for key, path in paths.items() if path is not None)


def _check_signed_urls(config: Config) -> Iterator[SftError]:
    """Sources that the job could not open: config.yaml keeps no signature, and nothing was downloaded here with it."""
    for name, source in config.data.mix.items():
        for field in ("path", "validation_path"):
            address = vars(source)[field] or ""
            masked = masked_address(address)
            if masked != address and cached_download(masked) is None:
                problem = f"{masked!r} is signed, and the job's config.yaml must not keep the signature"
                fix = "first run sft prepare with the same words, with SFT_HOME on a disk that the job can read"
                yield SftError(where=f"data.mix.{name}.{field}", problem=problem, fix=fix)
