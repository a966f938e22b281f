"""``sft check`` on the embedded model, with each kind of failure."""

import json
import os
import shutil

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError

QWEN_7B = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 131072,
    "vocab_size": 152064, "tie_word_embeddings": False, "rope_theta": 1000000.0, "use_sliding_window": False,
    "bos_token_id": 151643, "eos_token_id": 151643,
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def checked(capsys, *words):
    """Return the exit code, and the lines by name, each as (status, text with its details)."""
    code = execute(["check", *words])
    lines: dict[str, tuple[str, str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if line[:5].strip() in ("ok", "warn", "fail"):
            name = line[6:16].strip()
            lines[name] = line[:5].strip(), line[16:]
        elif line.startswith(" " * 16):
            lines[name] = lines[name][0], f"{lines[name][1]}\n{line.strip()}"
    return code, lines


@pytest.mark.slow
def test_the_quickstart_passes(capsys, tmp_path):
    code, lines = checked(capsys, "recipe=quickstart", "--rows", "100", "--tokens-per-second", "1000")
    assert code == 0
    looked = "config run_dir SFT_HOME data plan parity model memory disk time packing step layout"
    assert list(lines) == looked.split()
    assert lines["data"][1].startswith("a sample of ")
    assert lines["layout"][0] == "ok"
    assert list((tmp_path / "home" / "prepared").iterdir()) == [], "the sample is removed"


def test_existing_prepared_data_are_used(capsys):
    """Prepared data are found by content: the same rows and settings, written by any command."""
    execute(["prepare", "recipe=quickstart"])
    capsys.readouterr()
    from sft_cli.check.data_check import data_result, sample_data
    from sft_cli.config.compose import compose

    config = compose(["recipe=quickstart"])
    with sample_data(config, 10) as found:
        assert found.whole
        assert data_result(found).text.startswith("all rows: ")
    with sample_data(compose(["recipe=quickstart", "trainer.max_length=200"]), 10) as other:
        assert not other.whole
        assert other.scale > 10


@pytest.mark.parametrize(
    ("template", "rows", "text", "fix"),
    [
        pytest.param(
            "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
            [{"instruction": "a", "output": "b"}],
            "the answer ends in 'Hello', not in a special token of the tokenizer: the model would never learn to stop",
            "choose one that fits this tokenizer and the rows: template=alpaca, llama2, plain, vicuna",
            id="no-stop-token",
        ),
        pytest.param(
            None,
            [{"instruction": "a", "output": "b"}, {"instruction": "c", "answer": "d"}],
            "rows.jsonl:2: ",
            "",
            id="a-bad-row",
        ),
    ],
)
def test_error_of_prepare_is_a_failed_check(capsys, tmp_path, template, rows, text, fix):
    """Checks that need a model are skipped after it."""
    words = ["data=local", "data.mix.local.path=rows.jsonl", "data.mix.local.format=alpaca", "data.val_fraction=0.5"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if template:
        (tmp_path / "own.jinja").write_text(template)
        words.append("template.path=own.jinja")
    code, lines = checked(capsys, "recipe=quickstart", *words)
    assert code == 1
    assert lines["data"][0] == "fail"
    assert text in lines["data"][1]
    assert fix in lines["data"][1]
    assert "model" not in lines


@pytest.mark.slow
def test_check_continues_without_a_writable_cache(capsys, tmp_path, monkeypatch):
    """A home that is not writable is one failed line; all other checks run, and the environment is unchanged."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "file" / "home"))
    code, lines = checked(capsys, "recipe=quickstart", "--rows", "50", "run_dir=run")
    assert code == 1
    assert [name for name, (status, _) in lines.items() if status == "fail"] == ["SFT_HOME"]
    assert {"data", "memory", "disk", "time", "layout"} <= lines.keys()
    assert os.environ["SFT_HOME"] == str(tmp_path / "file" / "home")


def test_mistake_in_the_command_line_is_an_error(capsys):
    for words in (
        ["recipe=quickstart", "--gpu", "rtx9"],
        ["recipe=quickstart", "trainer.lrr=1"],
        ["recipe=quickstart", "gpu"],
    ):
        with pytest.raises(SftError):
            execute(["check", *words])


@pytest.mark.slow
def test_small_gpu_unwritable_run_and_long_rows_all_fail(capsys, tmp_path):
    """Three failures of one command, each with its message; the other lines are still printed."""
    (tmp_path / "file").write_text("")
    model = tmp_path / "model"
    shutil.copytree(prepared_model(), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    words = ["recipe=quickstart", "run_dir=file/run", f"model.path={model}", "--gpu", "0.61GB"]
    code, lines = checked(capsys, *words)
    assert code == 1
    assert lines["run_dir"] == (
        "fail",
        f"nothing can be written: {tmp_path}/file is a file\n"
        "do: choose run_dir=DIR that you may write to, or change its permissions",
    )
    assert lines["model"][0] == "fail"
    assert "tokens, the model takes 40" in lines["model"][1]
    assert "\ndo: trainer.max_length=40 data.overflow=drop data.budget.dropped=" in lines["model"][1]
    assert "\nor: trainer.max_length=40 data.overflow=truncate " in lines["model"][1]
    assert lines["memory"][0] == "fail"
    assert lines["memory"][1].startswith("the run does not fit: about ")


def prepared_model():
    from sft_cli.config.paths import resolve

    return resolve("builtin:quickstart/model")


@pytest.mark.slow
@pytest.mark.material
def test_memory_of_a_7b_recipe_is_itemised_without_its_weights(capsys, tmp_path, material_dir):
    """Qwen2.5-7B's config.json and tokenizer, no weights: NF4 weights of 3.14 GiB, embedding and head of 2.03."""
    model = tmp_path / "qwen"
    shutil.copytree(material_dir / "tokenizers" / "qwen2_5", model)
    (model / "config.json").write_text(json.dumps(QWEN_7B))
    rows = material_dir / "data" / "alpaca" / "alpaca_en_demo.json"
    code, lines = checked(
        capsys,
        "recipe=alpaca_qlora",
        "--gpu",
        "24GB",
        f"model.path={model}",
        f"data.mix.alpaca.path={rows}",
        "--rows",
        "100",
    )
    assert code == 0, lines
    memory = lines["memory"][1]
    assert "21.8 GiB free on a GPU (24GB)" in memory
    table = {row[:46].strip(): row[46:].strip() for row in memory.splitlines()[1:9]}
    assert table["frozen weights"] == "5.2 GiB"
    assert table["adapter"] == table["gradients"] == "616.0 MiB"
    assert table["optimizer (paged_adamw_8bit)"] == "308.0 MiB"
    assert lines["step"][1].endswith("lora, quant nf4, adamw_8bit, on a small random model")
