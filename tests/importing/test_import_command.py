"""``sft import``: the written recipe, the report, and the mistakes of someone who uses it first."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sft_cli.cli.program import execute
from sft_cli.config.compose import compose
from sft_cli.errors import SftError
from sft_cli.text_layout import display_width

CONFIGS = Path(__file__).parent / "configs"
LINE = "trl sft --model_name_or_path Qwen/Qwen3-0.6B --dataset_name=trl-lib/Capybara --use_peft --assistant_only_loss"
DPO = {"model_name_or_path": "a/b", "stage": "dpo", "finetuning_type": "lora", "template": "qwen", "dataset": "pairs"}
MIXED = {"base_model": "a", "sequence_len": 9, "micro_batch_size": 1, "cutoff_len": 2, "finetuning_type": "lora"}
SHARED = {"model_name_or_path": "a/b", "learning_rate": 1e-4}
FILES: dict[str, tuple[str, str, str]] = {
    "empty.yaml": ("", "empty.yaml: it is empty", "a config of axolotl"),
    "broken.yaml": ("a: 1\n b: [\n", "broken.yaml:2: not valid YAML", "write one `key: value` a line"),
    "list.yaml": ("- a\n- b\n", "list.yaml: holds a list", "write one `key: value` a line"),
    "broken.json": ('{"a": 1', "broken.json: not valid JSON", "correct the file"),
    "rows.json": ("[]", "rows.json: it holds rows of data", "sft train rows.json model="),
    "rows.jsonl": ('{"a": 1}\n', "rows.jsonl: it holds rows of data", "sft train rows.jsonl model="),
    "lines.json": ('{"a": 1}\n{"a": 2}\n', "lines.json: it holds rows of data", "sft train lines.json model="),
    "zero.json": ('{"zero_optimization": {"stage": 3}}', "it is a DeepSpeed config", "distributed=fsdp"),
    "accelerate.yaml": ("compute_environment: LOCAL_MACHINE", "a config of accelerate launch", "distributed=fsdp"),
    "dpo.json": (json.dumps(DPO), "it is not supervised fine-tuning: stage: dpo (DPO)", "the supervised run before it"),
    "axolotl_dpo.yaml": ("base_model: a\nrl: dpo\n", "it is not supervised fine-tuning: rl: dpo", "before it"),
    "dpo.sh": ("trl dpo --beta 0.1", "trl dpo is not supervised fine-tuning", "import the command of trl sft"),
    "two.sh": ("trl sft --a 1\ntrl sft --a 2", "it has 2 commands that train", "a file of its own"),
    "none.sh": ("echo hello", "it has no command of trl", "a file of its own"),
    "variable.sh": ("trl sft --dataset_name $NAME", "the value of $NAME is not in the file", "NAME=VALUE"),
    "script.py": ("import trl", "it is a Python script", 'sft import "trl sft'),
    "unknown.yaml": ("a: 1", "none of its keys belongs to axolotl", "sft import unknown.yaml --from axolotl"),
    "shared.json": (json.dumps(SHARED), "none of its keys belongs to", "sft import shared.json --from trl"),
    "mixed.json": (json.dumps(MIXED), "keys of several tools: ", "sft import mixed.json --from llama-factory"),
    "recipe_of_sft.yaml": ("trainer: {lr: 1e-4}", "it is a recipe of sft already", "sft train recipe="),
    "info.json": ('{"a": {"file_name": "a.json"}}', "it is a dataset_info.json", "the training config next to it"),
    "adapter.json": ('{"peft_type": "LORA"}', "the config of a saved PEFT adapter", "adapter.start_from=DIR"),
}
"""File -> its content, and parts of the problem and of the fix."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_one_error_and_nothing_is_written(name):
    content, problem, fix = FILES[name]
    Path(name).write_text(content, encoding="utf-8")

    with pytest.raises(SftError) as refused:
        execute(["import", name])

    assert problem in f"{refused.value.where}: {refused.value.problem}"
    assert fix in refused.value.fix
    assert [path.name for path in Path().iterdir()] == [name]


def refusal(*words: str) -> str:
    with pytest.raises(SftError) as refused:
        execute(["import", *words])
    return str(refused.value)


def test_a_directory_names_a_file_in_it():
    Path("a.yml").write_text("base_model: a", encoding="utf-8")
    assert "it is a directory" in refusal(".")
    assert "sft import a.yml" in refusal(".")


def test_a_missing_file_and_an_existing_recipe_are_refused():
    assert "the file does not exist" in refusal("nothing.yaml")
    Path("recipe.yaml").write_text("x", encoding="utf-8")
    assert "--out recipe_2.yaml" in refusal(str(CONFIGS / "lf_lora.yaml"))
    assert Path("recipe.yaml").read_text(encoding="utf-8") == "x"


def test_from_decides_for_shared_keys():
    Path("shared.yaml").write_text("model_name_or_path: a/b\nlearning_rate: 1e-4\n", encoding="utf-8")
    execute(["import", "shared.yaml", "--from", "llama-factory"])
    assert compose(["recipe=./recipe.yaml"]).adapter.alpha == 16


def test_values_that_do_not_fit_together_name_the_keys_they_come_from():
    config = "base_model: a\nadapter: lora\nload_in_8bit: true\npeft_use_dora: true\nlora_target_linear: true\n"
    Path("dora.yaml").write_text(config, encoding="utf-8")

    message = refusal("dora.yaml")

    assert message.startswith("dora.yaml: peft_use_dora: quant.kind is int8 with adapter.dora")
    assert "change it in dora.yaml and import again" in message
    assert not Path("recipe.yaml").exists()


def test_a_line_of_arguments_is_imported():
    execute(["import", LINE, "--gpus", "2"])
    config = compose(["recipe=./recipe.yaml"])
    assert config.model.path == "Qwen/Qwen3-0.6B"
    assert config.trainer.examples_per_step == 16
    assert config.data.train_on.value == "assistant"


def test_a_shell_file_of_llama_factory_names_its_yaml():
    Path("train.yaml").write_text(
        "model_name_or_path: a/b\nfinetuning_type: lora\nlearning_rate: 1e-4\n", encoding="utf-8"
    )
    line = "set -e\nllamafactory-cli train train.yaml learning_rate=3e-5 \\\n  num_train_epochs=2\n"
    Path("train.sh").write_text(line, encoding="utf-8")

    execute(["import", "train.sh"])

    trainer = compose(["recipe=./recipe.yaml"]).trainer
    assert (trainer.lr, trainer.epochs) == (3e-5, 2)


def test_the_launcher_of_trl_is_translated(capsys):
    execute(["import", f"{LINE} --num_processes 2 --accelerate_config zero2"])

    config = compose(["recipe=./recipe.yaml"])
    assert (config.launcher.nproc, config.trainer.examples_per_step) == (2, 16)
    assert (config.distributed.kind.value, config.distributed.reshard) == ("fsdp", False)
    assert "num_processes" in capsys.readouterr().out


def test_a_template_given_as_text__the_recipe():
    values = {"base_model": "a/b", "sequence_len": 64, "datasets": [{"path": "rows.jsonl", "type": "chat_template"}]}
    text = "{% for m in messages %}{{ m.content }}{% endfor %}"
    Path("a.json").write_text(json.dumps(values | {"chat_template_jinja": text}), encoding="utf-8")

    execute(["import", "a.json", "--out", "mine.yaml"])

    assert Path("mine.jinja").read_text(encoding="utf-8") == text
    assert compose(["recipe=./mine.yaml"]).template.path == "mine.jinja"


def test_the_recipe_holds_what_has_no_equal(capsys):
    execute(["import", str(CONFIGS / "axolotl_chat.yml"), "--out", "mine.yaml"])

    recipe, report = Path("mine.yaml").read_text(encoding="utf-8"), capsys.readouterr().out
    assert "#   eot_tokens: the stop token of a turn is found in the template" in recipe
    assert "# micro_batch_size, gradient_accumulation_steps" in recipe
    assert "next      sft train recipe=./mine.yaml" in report
    assert report.index("Translated:") < report.index("No equal, or not needed:")


def test_the_report_fits_80_columns():
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    main, worker = pty.openpty()
    command = [sys.executable, "-m", "sft_cli", "import", str(CONFIGS / "axolotl_lora.yml")]
    with subprocess.Popen(command, stdout=worker, stderr=worker, env=environment) as done:
        os.close(worker)
        output = b""
        try:
            while part := os.read(main, 4096):
                output += part
        except OSError:  # the end, on Linux
            pass
    os.close(main)
    lines = [line.rpartition("\x1b[2K")[2] for line in output.decode().replace("\r\n", "\n").split("\n")]
    assert done.returncode == 0
    assert [line for line in lines if display_width(line) > 80 and " " in line.strip()] == []
    assert any(line.startswith(" sequence_len") for line in lines)


def test_the_directory_of_the_recipe_is_created_or_named(folder):
    config = str(CONFIGS / "axolotl_lora.yml")
    execute(["import", config, "--out", "sub/dir/mine.yaml"])
    assert Path("sub/dir/mine.yaml").is_file()
    Path("file").write_text("")
    with pytest.raises(SftError, match="the directory cannot be created") as refused:
        execute(["import", config, "--out", "file/dir/mine.yaml"])
    assert (refused.value.where, refused.value.fix) == ("file/dir", "write --out FILE in another directory")
