"""Models and run directories of strangers: no pickle is read, no code runs without consent, no link is followed."""

import json
import os
import pickle
import re
from pathlib import Path

import pytest

from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.utils.atomic import apply_umask

PACKAGE = Path(__file__).resolve().parents[2] / "sft_cli"
FORBIDDEN = re.compile(
    r"\bpickle\b|torch\.load\(|\bjoblib\b|\bmarshal\b|\bshelve\b"
    r"|(?<![\w.])(?<!def )(eval|exec)\(|\bos\.system\b|shell=True"
)
ALLOWED = {
    "data/formats/tree_assembly.py": "rows wait in this process's own anonymous SQLite file",
    "data/sources/slices.py": "a docstring on what travels to the worker processes",
    "data/mixing/curriculum.py": "allow_pickle=False",
    "scoring/code.py": "the program that runs an answer inside the sandbox",
}


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"


class Malice:
    """An object that runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_package_never_unpickles_or_evaluates_text():
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if FORBIDDEN.search(line) and "weights_only=True" not in line
    }
    assert found <= set(ALLOWED)


def quickstart(folder):
    """Return a copy of the quickstart model's files."""
    folder.mkdir()
    for file in (PACKAGE / "quickstart/model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused_unread(name, tmp_path):
    from sft_cli.model.model_checks import check_weight_files

    folder = quickstart(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Malice(f"touch {tmp_path}/done")))
    with pytest.raises(SftError, match="no safetensors weights, and pickled weights are not read"):
        check_weight_files(ModelConfig(path=str(folder)), folder)
    assert not (tmp_path / "done").exists()


INDICES = [
    ({"weight_map": {"a": "pytorch_model.bin"}}, "is not a safetensors file"),
    ({"weight_map": ["a"]}, "is not readable"),
    ({}, "is not readable"),
    ("{", "is not readable"),
]


@pytest.mark.parametrize(("index", "problem"), INDICES, ids=["bin", "list", "none", "broken"])
def test_index_with_other_files_than_safetensors_is_refused(index, problem, tmp_path):
    from sft_cli.model.model_checks import check_weight_files

    text = index if isinstance(index, str) else json.dumps(index)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(SftError, match=problem):
        check_weight_files(ModelConfig(path=str(tmp_path)), tmp_path)


def test_pickled_adapter_is_refused_unread(tmp_path):
    from sft_cli.model.adapter.add import load_adapter
    from sft_cli.model.adapter.warm_start import find_adapter

    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Malice(f"touch {tmp_path}/done")))
    with pytest.raises(SftError, match=r"adapter_model\.safetensors is missing"):
        find_adapter(str(tmp_path), "adapter.start_from")
    with pytest.raises(SftError, match=r"pickled adapters \(adapter_model\.bin\) are not read"):
        load_adapter(None, tmp_path, None)  # pyright: ignore
    assert not (tmp_path / "done").exists()


def test_code_of_a_model_runs_only_on_request(tmp_path):
    from sft_cli.model.load import load_model_config

    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'done')!r}, 'w')\n")
    with pytest.raises(SftError, match=r"(?s)the model has its own Python code.*trust_remote_code=true"):
        load_model_config(ModelConfig(path=str(tmp_path)))
    assert not (tmp_path / "done").exists()


def test_checkpoint_that_is_a_link_is_neither_read_nor_removed(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "checkpoints"
    for folder in (outside, root / "step-1", root / "step-2", root / "step-3"):
        folder.mkdir(parents=True)
        (folder / "precious").write_text("x")
    (root / "step-9").symlink_to(outside, target_is_directory=True)
    (root / "step-1/link").symlink_to(outside, target_is_directory=True)
    assert [folder.name for folder in checkpoint_dir.list_checkpoints(root)] == ["step-1", "step-2", "step-3"]
    checkpoint_dir.prune_checkpoints(root, (), 1)
    checkpoint_dir.remove_after(root, 0)
    assert (outside / "precious").read_text() == "x"
    assert [folder.name for folder in root.iterdir()] == ["step-9"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o027, 0o750), (0o077, 0o700), (0o002, 0o775)])
def test_a_temporary_directory_gets_the_mode_of_a_new_one(mask, mode, tmp_path):
    (tmp_path / "new").mkdir(mode=0o700)
    before = os.umask(mask)
    try:
        apply_umask(tmp_path / "new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == mode


def test_hostile_template_of_a_tokenizer_is_refused(tmp_path):
    """The template is read with the tokenizer and rendered within its budget before transformers renders a prompt."""
    folder = quickstart(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(ENDLESS)
    tokenizer = load_tokenizer(str(folder))
    template = ChatTemplate(tokenizer.chat_template, {}, "the tokenizer's own template")
    with pytest.raises(RenderError, match="takes more than 10,000,000 steps"):
        template.render([{"role": "user", "content": "Hi"}], None, False)


def test_parity_check_renders_within_a_budget_first(tmp_path):
    from sft_cli.chat.masks import parity

    folder = quickstart(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(ENDLESS)
    one = parity.GoldenPrompt("a:1", "a", [{"role": "user", "content": "Hi"}], None, [1], "2025-01-01T00:00:00")
    with pytest.raises(SftError, match="takes more than 10,000,000 steps"):
        parity.check_parity(folder, [one])
