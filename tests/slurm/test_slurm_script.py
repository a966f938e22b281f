"""The text of job.sbatch, and what cannot become a job."""

import pytest

from sft_cli.config.launcher_schema import LauncherConfig, LauncherKind
from sft_cli.config.schema import Config

GOLDEN = """\
#!/bin/bash
# Written by scripts/slurm/submit.sh. Submitted again (sbatch job.sbatch), it goes on from the newest checkpoint.
#SBATCH --job-name=alpaca_lora
#SBATCH --output="/data/my runs/50%% of \\"x\\"/slurm-%j.log"
#SBATCH --open-mode=append
#SBATCH --partition=a100,h100
#SBATCH --account="team 7"
#SBATCH --time=1-12:00:00
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=12
#SBATCH --gpus=1
#SBATCH --mem=32G
# No -u: the activate scripts of conda and of module systems read unset variables.
set -eo pipefail
cd '/home/me/my work'
export SFT_HOME='/scratch/$me'
source ~/venv/bin/activate
# srun takes neither the cores of the job nor, on some clusters, its environment by itself.
srun --cpus-per-task=12 --export=ALL sft train 'run=/data/my runs/50% of "x"'
"""

BARE = """\
#!/bin/bash
# Written by scripts/slurm/submit.sh. Submitted again (sbatch job.sbatch), it goes on from the newest checkpoint.
#SBATCH --job-name=run
#SBATCH --output=/runs/x/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
# No -u: the activate scripts of conda and of module systems read unset variables.
set -eo pipefail
cd /work
export PATH=/venv/bin:"$PATH"
# srun takes neither the cores of the job nor, on some clusters, its environment by itself.
srun --cpus-per-task=8 --export=ALL sft train run=/runs/x
"""


def slurm(**launcher) -> LauncherConfig:
    return LauncherConfig(kind=LauncherKind.slurm, **launcher)


def test_every_setting_of_the_launcher_is_in_the_script(submit):
    launcher = slurm(
        partition="a100,h100",
        account="team 7",
        time="1-12:00:00",
        gpus=1,
        cpus=12,
        memory="32G",
        setup="source ~/venv/bin/activate",
    )
    script = submit.job_script(
        Config(run_name="alpaca_lora", launcher=launcher),
        run_dir='/data/my runs/50% of "x"',
        submit_dir="/home/me/my work",
        bin_dir="/venv/bin",
        sft_home="/scratch/$me",
    )
    assert script == GOLDEN


def test_what_is_not_set_is_left_to_the_cluster_and_to_the_submitting_environment(submit):
    config = Config(launcher=slurm(gpus=0))
    script = submit.job_script(config, run_dir="/runs/x", submit_dir="/work", bin_dir="/venv/bin", sft_home=None)
    assert script == BARE


@pytest.mark.parametrize(
    ("value", "word"),
    [
        pytest.param("/runs/a-b_c/slurm-%j.log", "/runs/a-b_c/slurm-%j.log", id="plain"),
        pytest.param("two words", '"two words"', id="space"),
        pytest.param("it's", '"it\'s"', id="single-quote"),
        pytest.param('say "x"', '"say \\"x\\""', id="double-quote"),
        pytest.param("a\\b", '"a\\\\b"', id="backslash"),
        pytest.param("a#b", '"a#b"', id="comment-sign"),
        pytest.param("größe", "größe", id="letters-of-any-script"),
        pytest.param("", '""', id="empty"),
    ],
)
def test_a_word_of_a_directive(submit, value, word):
    assert submit.sbatch_word(value) == word


@pytest.mark.parametrize(
    ("config", "places", "message"),
    [
        pytest.param(
            Config(),
            {},
            "launcher: launcher=local trains in this shell; there is nothing to submit\n"
            "  fix: type launcher=slurm, or run sft train instead",
            id="local",
        ),
        pytest.param(
            Config(launcher=slurm(gpus=4)),
            {},
            "launcher.gpus: 4 GPUs are asked for, but a run uses one; the others would stand idle\n"
            "  fix: launcher.gpus=1",
            id="idle-gpus",
        ),
        pytest.param(
            Config(launcher=slurm(setup="true\n#SBATCH --exclusive")),
            {},
            "launcher.setup: 'true\\n#SBATCH --exclusive' holds a line break or control character, "
            "which a job script cannot carry\n  fix: write it on one line, in plain characters",
            id="line-break-in-setup",
        ),
        pytest.param(
            Config(run_name="a\nb", launcher=slurm(partition="p\r")),
            {"sft_home": "\x1b"},
            "run_name: 'a\\nb' holds a line break or control character, which a job script cannot carry\n"
            "  fix: write it on one line, in plain characters\n"
            "launcher.partition: 'p\\r' holds a line break or control character, which a job script cannot carry\n"
            "  fix: write it on one line, in plain characters\n"
            "SFT_HOME: '\\x1b' holds a line break or control character, which a job script cannot carry\n"
            "  fix: write it on one line, in plain characters",
            id="all-at-once",
        ),
        pytest.param(
            Config(launcher=slurm()),
            {"run_dir": "/runs/a\\b"},
            "run_dir: '/runs/a\\\\b' holds a backslash, after which sbatch no longer fills in the job id of the log's "
            "name\n  fix: choose a run_dir without one",
            id="backslash-in-run-dir",
        ),
    ],
)
def test_what_cannot_be_a_job_is_refused(submit, config, places, message):
    with pytest.raises(submit.SftError) as refused:
        submit.check(config, **{"run_dir": "/runs/x", "submit_dir": "/work", "sft_home": None} | places)
    assert str(refused.value) == message
