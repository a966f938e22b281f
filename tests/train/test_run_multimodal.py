"""``sft train``, ``check``, ``eval`` and ``merge`` end to end on small random multimodal models."""

import contextlib
import io
import json
import shutil

import pytest
from safetensors import safe_open

from sft_cli.cli import execute
from sft_cli.model.language_model import non_language_modules
from tests.towers import saved

SLOW = pytest.mark.slow


def tensors(directory):
    """Return the bytes of every tensor in the file, by name."""
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118


def run_printed_code(output):
    """Run the Python code that a merge prints and return its output."""
    lines = output.split("it is a plain transformers model:\n")[1].splitlines()
    code = "\n".join(line.strip() for line in lines)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code.replace("max_new_tokens=100", "max_new_tokens=3"), {})
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("qwen2_5_vl", ["adapter.kind=lora"]),
        pytest.param("gemma3", ["adapter.kind=none"], marks=SLOW),
        pytest.param("gemma3", ["adapter.kind=lora"], marks=SLOW),
        pytest.param("mistral3", ["adapter.kind=lora", "quant.kind=nf4"], marks=SLOW),
        pytest.param("qwen3_vl", ["adapter.kind=none"], marks=SLOW),
        pytest.param("llava", ["adapter.kind=lora"], marks=SLOW),
        pytest.param("idefics3", ["adapter.kind=none"], marks=SLOW),
        pytest.param("qwen2_audio", ["adapter.kind=lora"], marks=SLOW),
    ],
)
def test_only_the_language_model_is_trained(runs, metrics, base, tmp_path, capsys, kind, words):
    rows, model, lora = tmp_path / "rows.jsonl", tmp_path / "base", "adapter.kind=lora" in words
    rows.write_text("".join(json.dumps({"prompt": f"say {i}", "completion": f"it is {i}"}) + "\n" for i in range(24)))
    towers = non_language_modules(saved(kind, model))
    for file in base.glob("tokenizer*"):
        shutil.copy(file, model)

    settings = [
        f"model.path={model}", f"data.mix.local.path={rows}", "trainer.max_steps=4", "trainer.dtype=float32",
        "speed.threads=1", "trainer.save_every=2", "eval.max_new_tokens=3", *words,
    ]  # fmt: skip
    done = runs.start("r", *settings)
    output, steps = capsys.readouterr().out, metrics(done)
    assert f"only the language model is trained: {', '.join(towers)} stay frozen" in output
    assert "packing   verified" in output
    assert "of 2 decoder layers" in output or "all 2 decoder layers" in output or "recompute nothing" in output
    assert min(step["loss"] for step in steps) < steps[0]["loss"]

    whole = done.path / "model"
    if lora:
        execute(["merge", str(done.path), "--out", str(tmp_path / "merged")])
        whole = tmp_path / "merged"
        assert run_printed_code(capsys.readouterr().out)
    before, after = tensors(model), tensors(whole)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    outside = [f"{name.removeprefix('model.')}." for name in towers]
    assert changed
    assert not [name for name in changed if any(part in name for part in outside)]
    for file in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        assert (whole / file).read_bytes() == (model / file).read_bytes()

    execute(["eval", str(done.path), "--compare", "base"])
    assert "tuned" in capsys.readouterr().out
    assert execute(["chat", str(done.path), "--prompt", "say 3", "eval.max_new_tokens=3"]) == 0
    assert capsys.readouterr().out.endswith("\n")


@SLOW
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "mistral3"])
def test_check_runs_a_step_of_a_model_with_towers(runs, base, tmp_path, capsys, kind):
    saved(kind, tmp_path / "base")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    code = execute(["check", *runs.words("r"), f"model.path={tmp_path / 'base'}"])
    output = capsys.readouterr().out
    assert code == 0, output
    assert "packing" in output


@SLOW
def test_a_stopped_run_of_a_model_with_towers_resumes(runs, metrics, base, tmp_path, stop_during_step):
    saved("qwen3_vl", tmp_path / "base")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    words = [f"model.path={tmp_path / 'base'}", "trainer.max_steps=4", "speed.threads=1"]
    whole = runs.start("whole", *words)
    stop_during_step(2)
    with pytest.raises(SystemExit):
        runs.start("parts", *words)
    stopped = runs.resume("parts")
    assert [step["loss"] for step in metrics(stopped)] == [step["loss"] for step in metrics(whole)]
