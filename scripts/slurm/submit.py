"""Composes a run on the login node, writes its directory and submits it to SLURM; imports no torch.

``submit.sh`` beside this file is how it is called. The job is ``sft train run=RUN_DIR``: the trainer starts from
RUN_DIR/config.yaml and, when SLURM requeues the job or somebody submits RUN_DIR/job.sbatch again, resumes.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sft_cli.config.check import required
from sft_cli.config.compose import compose, dump
from sft_cli.config.launcher_schema import LauncherKind
from sft_cli.config.paths import absolute, default_run_dir
from sft_cli.config.schema import Config
from sft_cli.config.secrets import masked_address
from sft_cli.data.reading.remote import downloaded_before
from sft_cli.errors import Mistakes, SftError, raise_all

# A variable of the submitting shell wins over the #SBATCH line of the same meaning, and nobody would see it.
OVERRIDES_DIRECTIVE = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_GPUS": "gpus",
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_MEM_PER_CPU": "mem",
    "SBATCH_MEM_PER_GPU": "mem",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_OPEN_MODE": "open-mode",
    "SBATCH_OUTPUT": "output",
    "SBATCH_PARTITION": "partition",
    "SBATCH_TIMELIMIT": "time",
}


def sbatch_word(value: str) -> str:
    """One word of an ``#SBATCH`` line: sbatch knows double quotes with backslashes, not the shell's single ones."""
    if re.fullmatch(r"[\w%+=:,./-]+", value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def directives(config: Config, run_dir: str) -> dict[str, str]:
    """Option of sbatch -> value, in the order of the script; options left to the cluster are absent."""
    launcher = config.launcher
    options = {
        "job-name": config.run_name,
        "output": f"{run_dir.replace('%', '%%')}/slurm-%j.log",  # sbatch replaces %j with the job id
        "open-mode": "append",  # a requeued job keeps the log of its first life
        "partition": launcher.partition,
        "account": launcher.account,
        "time": launcher.time,
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(launcher.cpus),
        "gpus": str(launcher.gpus) if launcher.gpus else None,
        "mem": launcher.memory,
    }
    return {option: value for option, value in options.items() if value is not None}


def job_script(config: Config, *, run_dir: str, submit_dir: str, bin_dir: str, sft_home: str | None) -> str:
    """The text of job.sbatch; ``bin_dir`` holds the ``sft`` of a job without ``launcher.setup``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(sh=shlex.quote, sbatch=sbatch_word)
    return environment.get_template("job.sbatch.jinja").render(
        directives=directives(config, run_dir),
        run_dir=run_dir,
        submit_dir=submit_dir,
        bin_dir=bin_dir,
        sft_home=sft_home,
        setup=config.launcher.setup,
    )


def check(config: Config, *, run_dir: str, submit_dir: str, sft_home: str | None) -> None:
    """Refuse what SLURM cannot run as asked; all mistakes at once."""
    launcher, errors = config.launcher, []
    if launcher.kind is not LauncherKind.slurm:
        problem = f"launcher={launcher.kind.value} trains in this shell; there is nothing to submit"
        errors.append(SftError(where="launcher", problem=problem, fix="type launcher=slurm, or run sft train instead"))
    if launcher.gpus > 1:
        problem = f"{launcher.gpus} GPUs are asked for, but a run uses one; the others would stand idle"
        errors.append(SftError(where="launcher.gpus", problem=problem, fix="launcher.gpus=1"))
    written = {
        "run_name": config.run_name,
        "run_dir": run_dir,
        "launcher.partition": launcher.partition,
        "launcher.account": launcher.account,
        "launcher.time": launcher.time,
        "launcher.memory": launcher.memory,
        "launcher.setup": launcher.setup,
        "the working directory": submit_dir,
        "SFT_HOME": sft_home,
    }
    for where, value in written.items():
        if value is not None and not value.isprintable():
            problem = f"{value!r} holds a line break or control character, which a job script cannot carry"
            errors.append(SftError(where=where, problem=problem, fix="write it on one line, in plain characters"))
    if "\\" in run_dir:
        problem = f"{run_dir!r} holds a backslash, after which sbatch no longer fills in the job id of the log's name"
        errors.append(SftError(where="run_dir", problem=problem, fix="choose a run_dir without one"))
    raise_all([*errors, *_signed(config)])


def _signed(config: Config) -> Iterator[SftError]:
    """Sources that the job could not open: config.yaml keeps no signature, and nothing was downloaded here with it."""
    for name, source in config.data.mix.items():
        for field in ("path", "validation_path"):
            address = vars(source)[field] or ""
            shown = masked_address(address)
            if shown != address and downloaded_before(shown) is None:
                problem = f"{shown!r} is signed, and the job's config.yaml must not keep the signature"
                fix = "run sft prepare with the same words first, on a disk the job shares (SFT_HOME)"
                yield SftError(where=f"data.mix.{name}.{field}", problem=problem, fix=fix)


def check_unused(run_dir: Path) -> None:
    """Refuse a run directory that exists, unless it is empty."""
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return
    job = run_dir / "job.sbatch"
    start_anew = "run_dir=<a new directory> starts another run"
    goes_on = f"sbatch {shlex.quote(str(job))} goes on with it; {start_anew}"
    raise SftError(
        where=str(run_dir),
        problem="exists already and is not an empty directory",
        fix=goes_on if job.exists() else start_anew,
    )


def write_run(run_dir: Path, texts: Mapping[str, str]) -> None:
    """Create the run directory with these files: name -> text."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (run_dir / name).write_text(text, encoding="utf-8")
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        raise SftError(where=str(run_dir), problem=problem, fix="choose another run_dir") from error


def sbatch(job: Path, stated: Mapping[str, str]) -> str:
    """Submit the script and return the job id; ``stated`` are the directives in it."""
    decided = {*stated, "gpus"}  # launcher.gpus=0 has no line, but it is a decision too
    environment = {name: value for name, value in os.environ.items() if OVERRIDES_DIRECTIVE.get(name) not in decided}
    result = subprocess.run(["sbatch", "--parsable", str(job)], env=environment, capture_output=True, text=True)
    said = [re.sub(r"^sbatch: (error: )?", "", line) for line in result.stderr.splitlines() if line.strip()]
    if result.returncode != 0:
        raise SftError(
            where="sbatch",
            problem="refused the job: " + "; ".join(said),
            fix="correct launcher.{partition,account,time,gpus,cpus,memory}; sinfo lists partitions and their limits",
        )
    for line in said:
        print(f"sbatch: {line}", file=sys.stderr)
    return result.stdout.strip().split(";")[0]  # "17", or "17;cluster" where there are several


def submit(run_dir: Path, config: Config, script: str) -> str:
    """Write the run directory, submit the script in it and return the job id; a refused job leaves nothing behind."""
    if shutil.which("sbatch") is None:
        problem = "is not on PATH; this machine cannot submit to SLURM"
        fix = "run submit.sh on the cluster's login node, or look at the job with --dry-run"
        raise SftError(where="sbatch", problem=problem, fix=fix)
    texts = {"config.yaml": dump(config), "job.sbatch": script}
    created = not run_dir.exists()
    try:
        write_run(run_dir, texts)
        return sbatch(run_dir / "job.sbatch", directives(config, str(run_dir)))
    except SftError:
        if run_dir.is_dir():
            for name in texts:
                (run_dir / name).unlink(missing_ok=True)
            if created:
                run_dir.rmdir()
        raise


def run(arguments: argparse.Namespace) -> str:
    """What is printed: the job script for a dry run, otherwise where the submitted job is and how to follow it."""
    config = compose(arguments.overrides, arguments.config_dir)
    config = absolute(replace(config, run_dir=config.run_dir or str(default_run_dir(config.run_name))))
    run_dir = config.run_dir
    assert run_dir is not None
    submit_dir, sft_home = os.getcwd(), os.environ.get("SFT_HOME") or None
    required(config)
    check(config, run_dir=run_dir, submit_dir=submit_dir, sft_home=sft_home)
    check_unused(Path(run_dir))
    bin_dir = sysconfig.get_path("scripts")
    script = job_script(config, run_dir=run_dir, submit_dir=submit_dir, bin_dir=bin_dir, sft_home=sft_home)
    if arguments.dry_run:
        return script
    job_id = submit(Path(run_dir), config, script)
    log = f"{run_dir}/slurm-{job_id}.log"
    return (
        f"job     {job_id}\nrun     {run_dir}\nlog     {log}\n"
        f"follow  squeue -j {job_id}; tail -F {shlex.quote(log)}\ncancel  scancel {job_id}\n"
    )


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status: 2 after a user's mistake, which is one message on stderr."""
    parser = argparse.ArgumentParser(
        prog="submit.sh", allow_abbrev=False, description="Submit a training run to SLURM."
    )
    parser.add_argument("overrides", nargs="*", help="recipe=NAME launcher=slurm, and any key=value of sft train")
    parser.add_argument("--dry-run", action="store_true", help="print the job script and write nothing")
    parser.add_argument(
        "-d", "--config-dir", action="append", default=[], help="directory of your own recipes and groups"
    )
    try:
        sys.stdout.write(run(parser.parse_intermixed_args(argv)))
    except SftError as error:
        for mistake in error.errors if isinstance(error, Mistakes) else (error,):
            print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
