"""Hostile configs: a recipe of a stranger can be invalid in any way, but runs no code and fails fast."""

import os
import time

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.files.interpolation import ENVIRONMENT
from sft_cli.errors import Mistakes, SftError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
REFERENCES = (
    "run_name: ${data.mix.a.variables.k0}\ndata:\n  mix:\n    a:\n      path: x.jsonl\n      variables:\n"
    + "".join(
        f"        k{i}: '${{data.mix.a.variables.k{i + 1}}}${{data.mix.a.variables.k{i + 1}}}'\n" for i in range(14)
    )
    + "        k14: xxxxxxxxxx\n"
)

FILES = [
    (
        "trainer: !!python/object/apply:os.system [touch done]\n",
        "the tag tag:yaml.org,2002:python/object/apply:os.system",
    ),
    ("run_name: !!binary aGk=\n", "the tag tag:yaml.org,2002:binary is not read"),
    ("run_name: !own x\n", "the tag !own is not read"),
    (LAUGHS, "it holds more than 20,000 values, aliases counted"),
    ("a: &a\n  <<: [*a, *a]\n", "it holds itself"),
    ("a: &a [*a]\n", "it holds itself"),
    ("a: " + "[" * 60 + "]" * 60, "it holds values 61 deep"),
    ("a: " + "[" * 5000 + "]" * 5000, "values are nested too deeply"),
    ("trainer:\n  lr: 1\n  lr: 2\n", "lr is set twice"),
    ("? [a, b]\n: 1\n", "a list or mapping cannot be a key"),
    ("~: 1\n", "~ cannot be a key"),
    ("run_name: " + "x" * (1 << 20), "a config has 1,048,576 at most"),
    ("trainer:\n  seed: " + "9" * 5000, "not valid YAML"),
    (REFERENCES, "its references to other values put in more than 200,000"),
    ("run_name: ${run_name}\n", "leads back to itself"),
    ("data:\n  mix:\n    a: ${data}\n", "leads back to itself"),
    ("run_name: ${oc.env:HF_TOKEN}\n", "the environment variable 'HF_TOKEN' is not among those read"),
    ("run_name: ${oc.env:HF_TOKEN,x}\n", "the environment variable 'HF_TOKEN' is not among those read"),
    ("run_name: ${oc.decode:'${oc.env:HF_TOKEN}'}\n", "is not closed, or holds another reference"),
    ("run_name: ${oc.create:{}}\n", "is not closed, or holds another reference"),
    ("run_name: ${oc.select:run_name}\n", "'oc.select:' is not read here"),
    ("run_name: ${hydra:runtime.cwd}\n", "'hydra:' is not read here"),
]


@pytest.mark.parametrize(("text", "problem"), FILES, ids=[problem[:40] for _, problem in FILES])
@pytest.mark.parametrize("kind", ["recipe", "option"])
def test_hostile_file_gives_one_fast_error(text, problem, kind, tmp_path, monkeypatch):
    """The file is named as a recipe, which this program reads, or as an option, which Hydra reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    if kind == "option":
        (tmp_path / "configs/model").mkdir(parents=True)
        text = f"# @package _global_\n{text}"
    file = tmp_path / ("own.yaml" if kind == "recipe" else "configs/model/own.yaml")
    file.write_text(text)
    began = time.process_time()
    with pytest.raises(SftError) as found:
        compose(["recipe=./own.yaml" if kind == "recipe" else "model=own"])
    assert time.process_time() - began < 5
    shown = "\n".join(str(one) for one in (found.value.errors if isinstance(found.value, Mistakes) else [found.value]))
    assert problem in shown
    assert "hf_secret" not in shown
    assert not (tmp_path / "done").exists()


def test_base_file_of_an_option_is_checked_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/model").mkdir(parents=True)
    (tmp_path / "configs/model/own.yaml").write_text("defaults: [base, _self_]\n")
    (tmp_path / "configs/model/base.yaml").write_text(LAUGHS)
    with pytest.raises(SftError, match=r"configs/model/base\.yaml:1: not valid YAML: it holds more than 20,000"):
        compose(["model=own"])


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_only_listed_environment_variables_are_read(name, monkeypatch):
    monkeypatch.setenv(name, "/some/place")
    assert compose([f"prepared_dir=${{oc.env:{name}}}/prepared"]).prepared_dir == "/some/place/prepared"


def test_unset_variable_has_a_default(monkeypatch):
    monkeypatch.delenv("SCRATCH", raising=False)
    assert compose(["prepared_dir=${oc.env:SCRATCH,/tmp}/x"]).prepared_dir == "/tmp/x"
    with pytest.raises(SftError, match="'SCRATCH' is not set, and there is no default"):
        compose(["prepared_dir=${oc.env:SCRATCH}"])


def test_references_to_siblings_lists_and_groups(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(
        "prepared_dir: '${data.mix.a.path}-${trainer.betas[1]}'\n"
        "trainer:\n  betas: [0.9, 0.98]\n  max_length: 64\nspeed: {tokens_per_micro_batch: '${trainer.max_length}'}\n"
        "data:\n  mix:\n    a: {path: x.jsonl, columns: {output: a}}\n    b: ${data.mix.a}\n"
    )
    config = compose(["recipe=./own.yaml"])
    assert config.prepared_dir == "x.jsonl-0.98"
    assert config.speed.tokens_per_micro_batch == 64
    assert config.data.mix["b"] == config.data.mix["a"]


WORDS = [
    ([f"recipe={os.path.relpath('/etc/passwd')}"], "holds a str"),
    (["recipe=/dev/zero"], "there is no recipe file /dev/zero"),
    (["template=../x"], "template has no option"),
    (["trainer.seed=" + "9" * 6000], "cannot be read"),
    (["trainer.betas=" + "[" * 2000], "does not close its ["),
    (["trainer.betas=[" + "1," * 20_000 + "1]"], "more than 20,000"),
    (["data=[a,b]c"], "cannot be read"),
]


@pytest.mark.parametrize(
    ("words", "problem"), WORDS, ids=["recipe=../etc/passwd", *(words[0][:30] for words, _ in WORDS[1:])]
)
def test_hostile_word_gives_one_error(words, problem):
    with pytest.raises(SftError) as found:
        compose(words)
    assert problem in str(found.value)


def test_header_that_hydra_cannot_parse_is_an_error(tmp_path, monkeypatch):
    """Found by fuzzing: Hydra raises a bare ValueError."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/model").mkdir(parents=True)
    (tmp_path / "configs/model/own.yaml").write_text("# @package a b c\npath: x\n")
    with pytest.raises(SftError, match="cannot be composed: Too many components"):
        compose(["model=own"])
