"""The README's commands run, as a newcomer types them: in a subprocess, from another directory, offline."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.keys.valid_keys import KEYS, find
from sft_cli.config.schema.adapter import MERGEABLE, WHOLE, AdapterKind

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (.*)$", README, flags=re.MULTILINE)
SFT = [sys.executable, "-m", "sft_cli"]
BEFORE = (AdapterKind.prefix, AdapterKind.prompt)


def sft(*words: str, cwd: Path) -> str:
    """Run ``sft`` there; its output."""
    environment = {**os.environ, "SFT_HOME": str(cwd), "OMP_NUM_THREADS": "2"}
    done = subprocess.run([*SFT, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_are_there_and_every_sft_command_is_known():
    assert "pip install -e . && sft train recipe=quickstart" in COMMANDS
    assert "pip install -e '.[dev]' && pytest" in COMMANDS
    used = {word for line in README.splitlines() for word in re.findall(r"\bsft (\w+)\b", line)}
    known = {"train", "eval", "chat", "merge", "prepare", "show", "recipes", "formats"}
    known |= {"inspect", "sweep", "submit", "check", "doctor"}
    assert known <= used
    assert used <= known


def test_the_explained_recipe_composes(tmp_path):
    recipe = re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert recipe
    (tmp_path / "mine.yaml").write_text(recipe.group(1), encoding="utf-8")

    shown = sft("show", "recipe=./mine.yaml", cwd=tmp_path)

    assert re.search(r"overflow: drop_oldest_turns +# .*mine.yaml", shown)


def test_the_explained_data_composes(tmp_path):
    _, data, _ = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(f"# @package _global_\n{data}", encoding="utf-8")

    shown = sft("show", "recipe=./mine.yaml", cwd=tmp_path)

    assert re.search(r"strategy: trained_tokens +# .*mine.yaml", shown)


def test_the_explained_guard_composes(tmp_path):
    _, _, guard = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(f"# @package _global_\n{guard}", encoding="utf-8")

    sources = ["data.mix.rows.path=rows.jsonl", "data.mix.text.path=text.txt", "data.mix.text.role=replay"]
    shown = sft("show", "recipe=./mine.yaml", *sources, cwd=tmp_path)

    assert re.search(r"metric: exact_match +# .*mine.yaml", shown)


ADAPTERS = re.search(r"\| `adapter=`(.*?)\n\n", README, flags=re.DOTALL)


def test_the_table_of_adapters_names_all_of_them_and_says_what_packs_and_merges():
    assert ADAPTERS
    said = {}
    for line in ADAPTERS.group(1).splitlines()[2:]:
        names, _, packed, merged, _ = [cell.strip() for cell in line.strip("|").split("|")]
        said |= dict.fromkeys(re.findall(r"`(\w+)`", names), (packed, merged))
    options = {file.stem for file in (ROOT / "configs/adapter").glob("*.yaml")}
    assert set(said) == options
    for name, (packed, merged) in said.items():
        kind = compose([f"adapter={name}", *(["quant=nf4"] if name == "loftq" else [])]).adapter.kind
        assert (packed == "yes") == (kind not in BEFORE)
        expected = "yes" if kind in MERGEABLE else "whole model" if kind in WHOLE else "no"
        assert merged == ("`into=dequantized`" if name == "loftq" else expected)


def test_every_key_that_is_named_exists():
    """Dotted ones; the name of an entry of a mapping is free."""
    sections = "adapter|quant|loss|trainer|model|data|clean|template|eval|launcher"
    named = re.findall(rf"(?<![\w./-])((?:{sections})\.[a-z_]\w*(?:\.[\w<>]+)*)", README)
    keys = {name for name in named if not name.endswith((".py", ".json", ".jsonl", ".yaml", ".html"))}
    unknown = [name for name in keys if find(name) is None and find(name.rpartition(".")[0]) is None]
    assert [name for name in unknown if not any(key.startswith(f"{name}.") for key in KEYS)] == []
    assert len(keys) > 30


def test_the_map_names_files_that_exist():
    rooms = re.search(r"## The map\n(.*?)\n## ", README, flags=re.DOTALL)
    assert rooms
    names, missing = [], []
    for row in rooms.group(1).splitlines():
        own = [name for name in re.findall(r"`([\w./]+)`", row) if "/" in name or name.endswith(".py")]
        folders = [place / name for place in (ROOT, ROOT / "sft_cli") for name in own if name.endswith("/")]
        places = [ROOT, ROOT / "sft_cli", *folders]
        missing += [name for name in own if not any((place / name).exists() for place in places)]
        names += own
    assert not missing
    assert len(names) > 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_the_quickstart_from_training_to_a_merged_model(tmp_path, quant):
    """Train, evaluate beside the base, merge, and let plain transformers answer a held-out question."""
    said = sft("train", "recipe=quickstart", f"quant={quant}", "run_dir=run", cwd=tmp_path)
    assert re.search(r"exact match +\d\.\d% +(9\d|100)\.\d%", said)

    sft("eval", "run", "--compare", "base", cwd=tmp_path)
    report = json.loads((tmp_path / "run" / "eval" / "heldout.json").read_text())
    assert report["metrics"]["exact_match"] >= 0.9
    assert report["base"]["exact_match"] < 0.05

    sft("merge", "run", "--out", "merged", cwd=tmp_path)
    right = answered(tmp_path / "merged", [item for item in report["items"] if item["correct"]][:8])
    assert right == 8


def answered(directory: Path, items: list[dict]) -> int:
    """How many prompts plain transformers answers as the report says."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    right = 0
    for item in items:
        ids = tokenizer(item["prompt"], add_special_tokens=False, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=32)[0, ids["input_ids"].shape[1] :]
        right += tokenizer.decode(out, skip_special_tokens=True) == item["answer"]
    return right
