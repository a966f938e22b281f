"""The errors of `sft eval` and their messages."""

import json
import shutil

import pytest

from sft_cli.cli import execute
from sft_cli.config.compose import dump_config, read_config
from sft_cli.errors import Mistakes, SftError
from sft_cli.eval.settings import eval_config
from sft_cli.prepare.prepare import prepare_data
from sft_cli.run_dir import RunDir


def refusal(*words: str) -> SftError:
    with pytest.raises(SftError) as caught:
        execute(["eval", *words])
    return caught.value


def test_missing_data_whose_source_changed_is_refused(run_of, tmp_path, runs_dir):
    run = run_of("lora")
    rows = tmp_path / "rows.jsonl"
    rows.write_text((runs_dir / "rows.jsonl").read_text().replace("Paris", "Lyon"))
    config = read_config(run / "config.yaml")
    config.data.mix["capitals"].path = config.data.mix["capitals"].validation_path = str(rows)
    (run / "config.yaml").write_text(dump_config(config))
    known = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**known, "prepared_dir": str(tmp_path / "missing")}))
    error = refusal(str(run))
    assert error.where == str(tmp_path / "missing")
    assert error.problem.startswith("the run's data no longer exists and cannot be prepared again: ")
    assert error.problem.endswith(" changed since")
    assert "data.mix.capitals" in error.problem
    assert error.fix == f"restore it, or name rows: sft eval {run} data=FILE"


def test_a_run_without_held_out_rows_is_refused(run_of, runs_dir):
    run = run_of("lora")
    config = read_config(run / "config.yaml")
    config.data.mix["capitals"].validation_path = None
    config.prepared_dir = None
    (run / "config.yaml").write_text(dump_config(config))
    prepared = prepare_data(config)
    known = {
        "prepared_dir": str(prepared.directory),
        "fingerprint": prepared.manifest["fingerprint"],
        "content": prepared.manifest["content"],
    }
    (run / "data.json").write_text(json.dumps(known))
    error = refusal(str(run))
    assert (error.where, error.problem) == (str(run), "the run held out no rows")
    assert error.fix == f"name rows: sft eval {run} data=FILE"


def test_typical_errors(run_of):
    run = run_of("lora")
    table = {
        (str(run), "--compare", "runs/other"): "--compare runs/other: 'runs/other' is not one of 'base'\n"
        "  fix: choose one of --compare base",
        (str(run), "trainer.dtype=float16"): "trainer.dtype=float16: this cpu device cannot train in float16\n"
        "  fix: trainer.dtype=auto",
    }
    for words, message in table.items():
        assert str(refusal(*words)) == message
    assert len(table) == 2


def test_overrides_that_an_evaluation_does_not_read_are_refused(run_of):
    error = refusal(str(run_of("lora")), "trainer.lr=1e-3", "eval.samples=3", "eval.batch_size=2", "quant=nf4")
    assert isinstance(error, Mistakes)
    assert [one.where for one in error.errors] == ["trainer.lr", "eval.samples", "quant"]
    assert error.errors[0].problem == "sft eval does not read this key; it uses the value of the run"
    assert error.errors[0].fix == (
        "remove it; keys that can be set: data=FILE, model.path, model.revision, model.dtype,"
        " model.trust_remote_code,"
        " trainer.device, trainer.dtype, trainer.max_length, speed.tokens_per_micro_batch, speed.logits_chunk,"
        " and the other keys of eval"
    )


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        (["eval.batch_size=2"], 512),
        (["speed.tokens_per_micro_batch=auto"], 512),
        (["trainer.max_length=900"], 900),
        (["trainer.max_length=900", "speed.tokens_per_micro_batch=2000"], 2000),
    ],
)
def test_micro_batches_are_those_of_the_run_unless_examples_may_be_longer(run_of, words, tokens):
    run = RunDir(run_of("lora"))
    config = eval_config(run, read_config(run.config), words, [])
    assert config.speed.tokens_per_micro_batch == tokens


def test_an_unfinished_run(run_of):
    run = run_of("lora")
    shutil.rmtree(run / "adapter")
    assert str(refusal(str(run))) == (
        f"{run}: the run has no trained adapter or model yet\n  fix: finish it: sft train --resume {run}"
    )


def test_a_run_without_stop_tokens(run_of):
    run = run_of("lora")
    file = run / "adapter" / "generation_config.json"
    file.unlink()
    assert str(refusal(str(run))) == (
        f"{file}: it contains no stop token (eos_token_id)\n"
        f'  fix: add the ids of the stop tokens to it: "eos_token_id": [ID, ID]'
    )


@pytest.mark.parametrize(("layers", "lost", "bare"), [(1, 14, 0), (3, 0, 14)], ids=["fewer", "more"])
def test_a_base_of_another_depth_is_refused(run_of, build, tmp_path, layers, lost, bare):
    """A decoder layer has 14 adapter tensors. The test shortens layer names, as PEFT does from 20 layers on."""
    build(num_key_value_heads=4, num_hidden_layers=layers).save_pretrained(tmp_path / "other")
    run = run_of("lora")
    file = run / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    names = sorted({name.rsplit(".", 1)[-1] for name in config["target_modules"]})
    file.write_text(json.dumps({**config, "target_modules": names}))
    assert str(refusal(str(run), f"model.path={tmp_path / 'other'}")) == (
        f"{run}/adapter: the adapter does not fit the base {tmp_path}/other:"
        f" {lost} of its tensors are unexpected, {bare} are missing\n"
        "  fix: name the base it was trained on: model.path=DIR_OR_HUB_ID"
    )


def test_another_base_is_refused(run_of, build, tmp_path):
    model = build("gpt2")
    model.save_pretrained(tmp_path / "other")
    error = refusal(str(run_of("lora")), f"model.path={tmp_path / 'other'}")
    assert error.where.endswith("lora/adapter")
    assert error.problem.startswith(f"the adapter cannot be loaded onto {tmp_path / 'other'}: ")
    assert error.fix == "name the base it was trained on: model.path=DIR_OR_HUB_ID"


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("data.mix.questions.path=q.jsonl", "to evaluate other rows: sft eval {run} data=q.jsonl"),
        ("data.mix.capitals.path=q.jsonl", "to evaluate other rows: sft eval {run} data=q.jsonl"),
        ("data.mix.capitals.weight=2", "remove it; keys that can be set: data=FILE"),
        ("data.strategy=equal", "remove it; keys that can be set: data=FILE"),
    ],
)
def test_settings_of_training_rows_are_refused(run_of, word, fix):
    run = run_of("lora")
    error = refusal(str(run), word)
    assert (error.where, error.problem) == (
        word.partition("=")[0],
        "sft eval does not read this key; it uses the value of the run",
    )
    assert error.fix.startswith(fix.format(run=run))


def test_a_suite_is_refused(run_of):
    error = refusal(str(run_of("lora")), "eval.suite=mmlu")
    assert error.problem == "there is no key eval.suite"
    assert error.fix.startswith("remove it: sft eval measures suites and tasks of lm-evaluation-harness")


def test_the_fix_names_the_run_as_typed(run_of, tmp_path, monkeypatch):
    run = run_of("lora")
    assert str(refusal(f"run={run}", "--compare", "base")) == (
        f"command line: run= is not a config key\n  fix: type sft eval {run} --compare base"
    )
    assert str(refusal(f"run_dir={run}")) == f"sft eval: no run is named\n  fix: sft eval {run}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    assert str(refusal()) == "sft eval: no run is named\n  fix: sft eval RUN"
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/config.yaml").write_text("run_name: a\n")
    assert str(refusal()) == f"sft eval: no run is named\n  fix: sft eval {tmp_path}/runs/a, the newest run"
