"""``sft train`` on a tiny random model of every type that transformers loads as a causal language model.

``families.tsv`` has the outcome of each type: it trains, or is refused in a sentence. To change it on purpose, copy the
outcome that a failing test prints.
"""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sft_cli.errors import SftError
from sft_cli.model.language_model import auto_class, text_training_problem
from tests.train.tiny_families import tiny_config

with Path(__file__).with_name("families.tsv").open(encoding="utf-8", newline="") as table:
    OUTCOMES = dict(csv.reader(table, delimiter="\t"))
TESTED = "5.23"
"""The transformers version of the table."""
EVERY_CHANGE = ["electra", "gemma4_assistant", "xmod"]
"""One with a layer between its decoder and its head, one that transformers cannot build from its configuration, and one
that does not take text without a setting."""


@pytest.fixture(scope="module")
def eight_rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"prompt": f"question {i}", "completion": "a" * (3 + i)} for i in range(8)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def save_model(kind: str, directory: Path, base: Path) -> PreTrainedModel | None:
    """Write a tiny random model with the tokenizer of ``base``; one number as its weights, where it cannot be built."""
    config = tiny_config(kind)
    shutil.copytree(base, directory, ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    shutil.copy(base / "tokenizer_config.json", directory)
    config.save_pretrained(directory)
    torch.manual_seed(0)
    try:
        model = auto_class(config).from_config(config)
    except (ImportError, AttributeError, ValueError):
        save_file({"weight": torch.zeros(1)}, directory / "model.safetensors")
        return None
    model.save_pretrained(directory)
    return model


def train(runs, metrics, directory, rows, capsys) -> str:
    """Train three steps on the same rows; return the outcome in the words of the table."""
    words = [
        f"model.path={directory}", f"data.mix.local.path={rows}", "data.val_fraction=0", "trainer.max_steps=3",
        "trainer.epochs=3", "trainer.examples_per_step=8", "trainer.dtype=float32", "speed.threads=1", "adapter.rank=2",
        "trainer.max_length=128",
    ]  # fmt: skip
    try:
        run = runs.start("r", *words)
    except SftError as refusal:
        return f"refused: {refusal.problem}"
    losses = [line["loss"] for line in metrics(run)]
    assert all(math.isfinite(loss) for loss in losses)
    assert len(set(losses)) == 3
    log = capsys.readouterr().out
    layout = "packed rows" if "packing   verified" in log else "one example per row"
    return f"trains: {layout}"


FOR_TESTED = pytest.mark.skipif(
    not transformers.__version__.startswith(TESTED), reason=f"the table is for transformers {TESTED}"
)


@FOR_TESTED
def test_the_table_has_every_family():
    assert OUTCOMES.keys() == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()


@FOR_TESTED
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.every_change(*EVERY_CHANGE)
@pytest.mark.parametrize("kind", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_a_family_trains_or_is_refused_in_a_sentence(runs, metrics, base, eight_rows, tmp_path, capsys, kind):
    directory = tmp_path / "base"
    model = save_model(kind, directory, base)

    outcome = train(runs, metrics, directory, eight_rows, capsys)

    assert outcome == OUTCOMES[kind]
    if outcome.startswith("trains"):
        assert text_training_problem(model) is None, "a token changes the logits of those before it"
