"""A small base model: one command reports all errors of its template and its context length."""

import json

import pytest

from sft_cli.config.model_files.context_window import max_positions, read_context_length
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.errors import Mistakes, SftError
from sft_cli.prepare.prepare import explain_stages, find_prepared, prepare_data
from sft_cli.slurm.preflight import check_inputs
from tests.prepare.helpers import write_jsonl


@pytest.fixture
def small(config, tmp_path):
    """Return the config of a run with a model of 512 positions and no chat template; 34 of 42 short rows train."""
    result = config()
    model = tmp_path / "tokenizer"
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 512}))
    result.model.path, result.model.tokenizer, result.template = str(model), None, TemplateConfig()
    return result


@pytest.mark.parametrize("command", [prepare_data, find_prepared, explain_stages, check_inputs])
def test_every_command_reports_both_errors(small, command):
    small.trainer.max_length = 1024
    with pytest.raises(Mistakes) as caught:
        command(small)
    assert str(caught.value) == (
        f"tokenizer {small.model.path}: template=auto, but the tokenizer has no chat template (a base model often has"
        " none)\n"
        "  fix: choose one that fits this tokenizer and the rows: template=alpaca, chatml, llama2, plain, vicuna\n"
        "trainer.max_length=1024: the model takes at most 512 tokens\n"
        "  fix: trainer.max_length=512"
    )


@pytest.mark.parametrize("name", ["alpaca", "chatml", "llama2", "plain", "vicuna"])
def test_both_fixes_work_when_pasted(small, name):
    small.template.name, small.trainer.max_length = name, 512
    assert prepare_data(small).manifest["splits"]["train"]["rows"] == 34


def test_unfitting_template_is_reported_with_context_error(small, tmp_path):
    (tmp_path / "no_stop.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    small.template.path, small.trainer.max_length = str(tmp_path / "no_stop.jinja"), 1024
    with pytest.raises(Mistakes) as caught:
        prepare_data(small)
    assert [error.where for error in caught.value.errors] == [
        f"template {small.template.path}",
        "trainer.max_length=1024",
    ]


@pytest.mark.parametrize("max_length", [512, 100, TrainerConfig.max_length])
def test_length_within_the_context_or_not_set_is_accepted(small, max_length):
    small.trainer.max_length = max_length
    with pytest.raises(SftError) as caught:
        prepare_data(small)
    assert type(caught.value) is SftError


def test_default_length_is_accepted_for_short_rows(small):
    small.template.name = "chatml"
    assert prepare_data(small).manifest["splits"]["train"]["rows"] == 34


def test_advice_for_long_rows_names_the_context_length(small, tmp_path):
    small.template.name, small.trainer.max_length = "chatml", 512
    write_jsonl(tmp_path / "a.jsonl", [{"instruction": "Q", "output": "x" * (9 if i else 900)} for i in range(30)])
    with pytest.raises(SftError, match=r"1 of 42 rows is longer than trainer\.max_length=512") as caught:
        prepare_data(small)
    assert caught.value.fix == (
        "data.overflow=drop data.budget.dropped=0.024  # keeps 97.6%\n"
        "data.overflow=truncate  # keeps all rows, 1 of them cut"
    )


@pytest.mark.parametrize(
    ("stated", "context"),
    [
        ({"model_type": "gpt2", "n_positions": 1024, "n_ctx": 512}, 1024),
        ({"model_type": "bloom", "seq_length": 2048}, None),
        ({"model_type": "chatglm", "seq_length": 32768}, 32768),
        ({"max_position_embeddings": 64, "text_config": {"max_position_embeddings": 128}}, 128),
        ({"max_position_embeddings": 64, "text_config": {}}, 64),
        ({"max_position_embeddings": None}, None),
        ({"model_type": "mamba"}, None),
    ],
)
def test_context_length_of_a_model_config(stated, context):
    assert max_positions(stated) == context


def test_context_length_of_a_hub_model_with_a_stored_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    store, commit = tmp_path / "models--owner--small", "0" * 40
    (store / "snapshots" / commit).mkdir(parents=True)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)
    (store / "snapshots" / commit / "config.json").write_text('{"n_positions": 1024}')
    assert read_context_length("owner/small") == 1024
    assert read_context_length("owner/small", commit) == 1024
    assert read_context_length("owner/other") is None
    assert read_context_length("no/hub/id") is None
