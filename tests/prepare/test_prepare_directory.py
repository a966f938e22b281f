"""Directories of prepared data: replaced, refused, and after a failed run."""

import json
import subprocess
import sys

import pytest

from sft_cli.config.compose import dump_config
from sft_cli.config.paths import absolute
from sft_cli.errors import Mistakes, SftError
from sft_cli.prepare.prepare import prepare_data
from tests.prepare.helpers import ROWS, write_jsonl


def test_second_run_is_up_to_date(make_config, capsys):
    result = prepare_data(make_config())
    before = sorted((file, file.stat().st_mtime_ns) for file in result.directory.rglob("*"))
    capsys.readouterr()
    again = prepare_data(make_config())
    assert sorted((file, file.stat().st_mtime_ns) for file in result.directory.rglob("*")) == before
    assert again.manifest == result.manifest
    fingerprint = result.manifest["fingerprint"][:16]
    assert capsys.readouterr().out == f"data      {result.directory} is up to date (fingerprint {fingerprint})\n"


def change_bytes(config, home):
    write_jsonl(home / "rows.jsonl", [*ROWS[:-1], {"instruction": "Other?", "output": "Yes."}])


def change_template(config, home):
    config.template.name = "vicuna"


def change_tokenizer(config, home):
    file = home / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def change_tokenizer_class(config, home):
    values = {"tokenizer_class": "TokenizersBackend", "bos_token": "<s>", "eos_token": "</s>"}
    (home / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def change_length(config, home):
    config.trainer.max_length = 512


def change_rule(config, home):
    config.data.sanitize = False


def change_weight(config, home):
    config.data.mix["mine"].weight = 2.0


def change_seed(config, home):
    config.trainer.seed = 7


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (change_bytes, "rows.jsonl (data.mix.mine)"),
        (change_template, "template"),
        (change_tokenizer, "tokenizer.tokenizer.json"),
        (change_tokenizer_class, "tokenizer.tokenizer_config.json"),
        (change_length, "trainer.max_length"),
        (change_rule, "data.sanitize"),
        (change_weight, "data.mix.mine.weight"),
        (change_seed, "trainer.seed"),
    ],
)
def test_prepare_again_after_a_changed_input(make_config, home, capsys, change, what):
    first = prepare_data(make_config()).manifest["fingerprint"]
    capsys.readouterr()
    changed = make_config()
    change(changed, home)
    result = prepare_data(changed)
    assert result.manifest["fingerprint"] != first
    output = capsys.readouterr().out.splitlines()[0]
    assert output.startswith(f"data      {home / 'out'} is prepared again: {what}")
    assert output.endswith(" changed")
    assert prepare_data(changed).manifest == result.manifest


def test_default_directory_is_named_after_the_fingerprint(make_config, home):
    made_config = make_config()
    made_config.prepared_dir = None
    result = prepare_data(made_config)
    assert result.directory == home / "home" / "prepared" / result.manifest["fingerprint"][:16]


def test_bad_rows_are_grouped_by_error_and_leave_no_files(make_config, home):
    bad = [{"instruction": "", "output": "A"}] * 7 + [{"instruction": "Q", "output": number} for number in range(6)]
    with pytest.raises(Mistakes) as caught:
        prepare_data(make_config([*ROWS[:2], *bad]))
    assert [error.where.rpartition(":")[2] for error in caught.value.errors] == ["3", "10"]
    assert caught.value.errors[0].problem.endswith("expected non-empty text (and 6 more rows)")
    assert caught.value.errors[1].problem == "field 'output' is 0 (a number); expected text (and 5 more rows)"
    assert sorted(file.name for file in home.iterdir()) == ["home", "rows.jsonl", "tokenizer"]


def test_ctrl_c_prints_what_is_kept_and_how_to_continue(make_config, home, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sft_cli.prepare.pipeline.run_stages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_data(make_config())
    assert capsys.readouterr().out == (
        "stopped   nothing was written but finished parts, in the cache; the same command continues after them\n"
    )
    assert not (home / "out").exists()


def test_failed_run_keeps_the_old_data(make_config, home):
    result = prepare_data(make_config())
    with pytest.raises(SftError):
        prepare_data(make_config([{"instruction": "", "output": "A"}]))
    assert json.loads((home / "out" / "manifest.json").read_text(encoding="utf-8")) == result.manifest
    assert sorted(file.name for file in home.iterdir()) == ["home", "out", "rows.jsonl", "tokenizer"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("notes.txt", "mine", "the directory is not empty and was not written by sft prepare"),
        ("manifest.json", '{"name": "an app"}', "the directory is not empty and was not written by sft prepare"),
        ("manifest.json", "not JSON", "the directory is not empty and was not written by sft prepare"),
    ],
)
def test_other_directory_is_never_replaced(make_config, home, name, content, problem):
    (home / "out").mkdir()
    (home / "out" / name).write_text(content)
    with pytest.raises(SftError) as caught:
        prepare_data(make_config())
    assert str(caught.value) == (
        f"prepared_dir={home / 'out'}: {problem}\n  fix: prepared_dir={home / 'out-2'}, or remove prepared_dir"
    )
    assert (home / "out" / name).read_text() == content


def test_prepared_dir_that_is_a_file_is_refused(make_config, home):
    (home / "out").write_text("mine")
    with pytest.raises(SftError, match="it is a file"):
        prepare_data(make_config())


def test_prepared_dir_below_a_file_is_refused(make_config, home):
    (home / "out").write_text("mine")
    result = make_config()
    result.prepared_dir = str(home / "out" / "below")
    with pytest.raises(SftError) as caught:
        prepare_data(result)
    assert str(caught.value) == (
        f"prepared_dir={home / 'out' / 'below'}: {home / 'out'} is a file\n"
        f"  fix: prepared_dir={home / 'out' / 'below-2'}, or remove prepared_dir"
    )


def test_files_added_to_a_prepared_directory_are_kept(make_config, home):
    prepare_data(make_config())
    (home / "out" / "notes.txt").write_text("mine")
    prepare_data(make_config())  # nothing has changed, nothing is replaced
    with pytest.raises(SftError) as caught:
        prepare_data(make_config(ROWS[:3]))
    assert caught.value.problem == "data have changed, and the directory to replace also holds notes.txt"
    assert (home / "out" / "notes.txt").read_text() == "mine"


def test_prepared_data_does_not_depend_on_the_directory(make_config, home, monkeypatch, capsys):
    """Data prepared from a relative path are found by an absolute path and after a move."""
    write_jsonl(home / "held.jsonl", ROWS[:3])
    made_config = make_config(validation_path="held.jsonl")
    made_config.prepared_dir, made_config.data.mix["mine"].path = None, "rows.jsonl"
    monkeypatch.chdir(home)
    result = prepare_data(made_config)
    capsys.readouterr()
    assert prepare_data(absolute(made_config)).directory == result.directory
    (home / "moved").mkdir()
    for name in ("rows.jsonl", "held.jsonl"):
        (home / name).rename(home / "moved" / name)
    monkeypatch.chdir(home / "moved")
    assert prepare_data(made_config).directory == result.directory
    assert capsys.readouterr().out.count("is up to date") == 2


def test_two_processes_can_prepare_the_same_data_at_once(make_config, home):
    made_config = make_config()
    file = home / "config.yaml"
    file.write_text(dump_config(made_config), encoding="utf-8")
    code = (
        "import sys; from sft_cli.config.compose import read_config; from sft_cli.prepare.prepare import prepare_data;"
        " config = read_config(sys.argv[1]); print('ready', flush=True); input(); prepare_data(config)"
    )
    command = [sys.executable, "-c", code, str(file)]
    both = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    output = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert sorted(file.name for file in home.iterdir()) == ["config.yaml", "home", "out", "rows.jsonl", "tokenizer"]
    assert len(prepare_data(made_config).train) == 20
