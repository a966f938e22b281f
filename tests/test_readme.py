"""The README's commands run, as a newcomer types them: in a subprocess, from another directory, offline."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (.*)$", README, flags=re.MULTILINE)
SFT = [sys.executable, "-m", "sft_cli"]


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
    known = {"train", "eval", "merge", "prepare", "show", "recipes", "formats", "inspect"}
    assert known <= used
    assert used <= known


def test_the_explained_recipe_composes(tmp_path):
    recipe = re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert recipe
    (tmp_path / "mine.yaml").write_text(recipe.group(1), encoding="utf-8")

    shown = sft("show", "recipe=./mine.yaml", cwd=tmp_path)

    assert re.search(r"overflow: drop_oldest_turns +# .*mine.yaml", shown)


def test_the_explained_data_composes(tmp_path):
    _, data = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(f"# @package _global_\n{data}", encoding="utf-8")

    shown = sft("show", "recipe=./mine.yaml", cwd=tmp_path)

    assert re.search(r"strategy: trained_tokens +# .*mine.yaml", shown)


def test_the_map_names_files_that_exist():
    rooms = re.search(r"## The map\n(.*?)\n## ", README, flags=re.DOTALL)
    assert rooms
    names = [name for name in re.findall(r"`([\w./]+)`", rooms.group(1)) if "/" in name or name.endswith(".py")]
    places = [ROOT, ROOT / "sft_cli", ROOT / "sft_cli" / "config"]
    missing = [name for name in names if not any((place / name).exists() for place in places)]
    assert not missing
    assert len(names) > 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_the_quickstart_from_training_to_a_merged_model(tmp_path, quant):
    """Train, evaluate beside the base, merge, and let plain transformers answer a held-out question."""
    said = sft("train", "recipe=quickstart", f"quant={quant}", "run_dir=run", cwd=tmp_path)
    assert re.search(r"exact match +\d\.\d% +(9\d|100)\.\d%", said)

    sft("eval", "run=run", "compare=base", cwd=tmp_path)
    report = json.loads((tmp_path / "run" / "eval" / "heldout.json").read_text())
    assert report["metrics"]["exact_match"] >= 0.9
    assert report["base"]["exact_match"] < 0.05

    sft("merge", "run=run", "out=merged", cwd=tmp_path)
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
