"""``sft doctor``: check versions, CUDA, four-bit weights, processes, memory, disk and SLURM of this machine."""

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import psutil

from sft_cli.check.paths_and_ports import write_problem
from sft_cli.check.results import CheckReport, CheckResult, fail, ok, warn
from sft_cli.config.paths import cache_home
from sft_cli.console import gib
from sft_cli.progress import status
from sft_cli.utils.disks import free_bytes

PACKAGE = "sft-cli"
SECRETS = ("HF_TOKEN",)
"""Variables that are reported as set or not set, never with their value."""
TESTED = "3.11"
"""Python version of the test suite."""
SLURM = ("sbatch", "srun", "squeue", "scancel")
LOW_DISK = 20 * 2**30
"""Free bytes below which a model of 7 billion parameters and its checkpoints do not fit."""


def check_machine() -> int:
    """Run all checks of this machine and print a line for each.

    Returns:
        The exit code: 0, or 1 if any check failed.
    """
    report = CheckReport()
    report.add(*version_checks())
    status("doctor: loading torch")
    from sft_cli.check.torch_checks import devices

    for line in (
        devices.cuda_check,
        devices.four_bit_check,
        devices.nccl_check,
        devices.rendezvous_check,
        memory_check,
        *(lambda place=place: directory_check(*place) for place in written_directories()),
        slurm_check,
        secrets_check,
    ):
        report.add(line())
    return report.finish("this machine", "sft check recipe=quickstart")


def version_checks(name: str = PACKAGE) -> Iterator[CheckResult]:
    """Yield checks of Python and the required packages against the version ranges of the installed package."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    wanted = metadata(name)["Requires-Python"]
    python = platform.python_version()
    if SpecifierSet(wanted).contains(python):
        limits = ", ".join(sorted(wanted.split(","), reverse=True))
        yield ok("python", f"{python} (allowed: {limits}; tested with {TESTED})")
    else:
        yield fail("python", f"{python} is outside of {wanted}", f"install Python {TESTED}: uv venv --python {TESTED}")
    matching = list[str]()
    for text in requires(name) or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            yield fail("packages", f"{needed.name} is missing", f"pip install '{needed.name}{needed.specifier}'")
            continue
        if needed.specifier.contains(installed, prereleases=True):
            matching.append(f"{needed.name} {installed}")
        else:
            yield fail(
                "packages",
                f"{needed.name} {installed} is outside of the tested range {needed.specifier}",
                f"pip install '{needed.name}{needed.specifier}'",
            )
    yield ok("packages", f"{len(matching)} in their tested ranges: {', '.join(matching)}")


def memory_check() -> CheckResult:
    """Return the check of the free main memory."""
    import torch

    from sft_cli.model.device import free_memory

    free, total = free_memory(torch.device("cpu")), psutil.virtual_memory().total
    text = f"{gib(free)} of {gib(total)} main memory free, {os.cpu_count()} processors"
    if free < 4 * 2**30:
        return warn("memory", text, "end other programs: a model of 7 billion parameters is loaded through main memory")
    return ok("memory", text)


def written_directories() -> list[tuple[str, Path, str]]:
    """Return the directories written to: name, path, and the variable that sets it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return [("SFT_HOME", cache_home(), "SFT_HOME"), ("HF cache", Path(HF_HUB_CACHE), "HF_HOME")]


def directory_check(name: str, directory: Path, variable: str) -> CheckResult:
    """Return the check that a directory is writable and has free space."""
    problem = write_problem(directory)
    if problem is not None:
        return fail(name, f"nothing can be written: {problem}", f"export {variable}=DIR that you may write to")
    free = free_bytes(directory)
    text = f"{directory} can be written to, {gib(free)} free"
    if free < LOW_DISK:
        return warn(name, text, f"free disk space, or export {variable}=DIR on another disk: models are large")
    return ok(name, text)


def slurm_check() -> CheckResult:
    """Return the check for SLURM's commands."""
    found = [name for name in SLURM if shutil.which(name)]
    if len(found) == len(SLURM):
        return ok("slurm", f"{', '.join(found)} found", "launcher=slurm submits a job")
    if found:
        missing = [name for name in SLURM if name not in found]
        return warn(
            "slurm", f"{', '.join(found)} found, {', '.join(missing)} not", "install slurm-client, or correct PATH"
        )
    return ok("slurm", "no SLURM commands here: only launcher=slurm would need them")


def secrets_check(environment: Mapping[str, str] = os.environ) -> CheckResult:
    """Return which secret variables are set, never their values."""
    states = ", ".join(f"{name} {'set' if environment.get(name) else 'not set'}" for name in SECRETS)
    return ok("secrets", f"{states}; gated models need HF_TOKEN")
