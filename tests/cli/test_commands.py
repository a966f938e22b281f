"""Commands as a shell runs them: outputs, exit codes, and imports."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sft_cli import __version__
from sft_cli.cli import app, execute
from sft_cli.errors import SftError

PROBE = """
import sys
from sft_cli.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "datasets", "pyarrow", "numpy"} & set(sys.modules)
    assert not heavy, heavy
"""


def sft(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own, which fails if anything heavy was imported."""
    return subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["--version"],
        ["recipes"],
        ["show", "recipe=quickstart"],
        ["show", "--keys"],
        ["train", "-h"],
        ["check", "-h"],
        ["inspect", "-h"],
        ["submit", "-h"],
    ],
)
def test_informational_commands_import_no_torch(words):
    done = sft(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_mistakes_go_to_stderr_with_exit_code_2_and_without_a_traceback():
    done = sft("show", "trainer.lrr=1", "quant=nf5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: command line: quant has no option 'nf5'\n"
        "  fix: did you mean quant=nf4? options: fp4, int8, nf4, none\n"
        "error: command line: there is no key trainer.lrr\n"
        "  fix: did you mean trainer.lr=1?\n"
    )


def test_mistakes_that_typer_finds_look_like_all_others():
    done = sft("merge", "runs/a", "--max-kl", "0,001")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --max-kl 0,001: ")
    assert done.stderr.endswith("\n  fix: did you mean --max-kl 0.001?\n")


def test_version_and_keys():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"sft {__version__}\n"
    for words in (["--keys", "warmup"], ["warmup", "--keys"]):
        listed = CliRunner().invoke(app, ["show", *words]).stdout
        assert listed.startswith("# trainer: ")
        assert "trainer.warmup_ratio: number" in listed
        assert "trainer.lr:" not in listed


@pytest.mark.parametrize(
    ("flag", "fix"),
    [
        ("--lr", "did you mean trainer.lr=3?"),
        ("--learning-rate=3", "here it is called trainer.lr: write trainer.lr=3"),
        ("--flubber", "remove it; `sft show --keys` lists every key"),
    ],
)
def test_a_flag_of_another_tool_is_translated(flag, fix):
    done = sft("train", "recipe=quickstart", flag, "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: command line: there is no option {flag.partition('=')[0]};"
        f" config keys are words KEY=VALUE without dashes\n  fix: {fix}\n"
    )


@pytest.mark.parametrize(
    ("options", "where", "fix"),
    [
        (["--row", "1", "--worst", "longest"], "sft inspect", "keep one of --row, --worst"),
        (["--row", "1", "--source", "a", "-n", "2"], "--source", "remove --source and -n"),
        (["--text", "("], "--text (", "to find the text literally: --text '\\('"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, where, fix):
    with pytest.raises(SftError) as caught:
        execute(["inspect", "prepared", *options])
    assert (caught.value.where, caught.value.fix) == (where, fix)


def test_a_directory_that_holds_no_prepared_data(tmp_path):
    with pytest.raises(SftError, match="not a prepared directory"):
        execute(["inspect", str(tmp_path), "--plain"])


def test_finished_run_prints_the_commands_to_run_next(tmp_path, capsys):
    run = tmp_path / "r"
    (run / "adapter").mkdir(parents=True)
    (run / "config.yaml").write_text("run_name: r\n")
    (run / "manifest.json").write_text('{"splits": {"validation": {"examples": 3}}}')
    assert execute(["train", "--resume", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"run       {run} is finished: {run}/adapter",
        f"next      sft chat {run}",
        f"          sft eval {run} --compare base",
        f"          sft merge {run} --out {run}/merged",
        f"          sft train recipe={run}/config.yaml adapter.start_from={run} run_dir={run}-2"
        "  # trains longer, in a new run",
    ]
