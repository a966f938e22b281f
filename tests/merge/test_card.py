"""The model card: its metadata for the hub, its text, and no path or name of the machine."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.config.schema.config import Config, ModelConfig, TemplateConfig
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.merge.agreement import Agreement
from sft_cli.merge.card import (
    MergeResult,
    base_licence,
    common_licence,
    render_card,
    table_cell,
)
from sft_cli.merge.card_figures import run_results
from sft_cli.merge.card_settings import public_name
from sft_cli.run_dir import RunDir
from sft_cli.utils.hashing import model_digest
from sft_cli.utils.mappings import flatten

MERGED = MergeResult(
    into="dequantized",
    dtype="bfloat16",
    size=2**20,
    max_kl=5e-3,
    agreement=Agreement(kl=1.25e-4, argmax=0.995, positions=200, rows=16),
    shift=Agreement(kl=0.0312, argmax=0.98, positions=200, rows=16),
    usage=("from transformers import pipeline", "pipeline('text-generation', 'DIRECTORY_OR_HUB_ID')"),
)
CONFIG = Config(
    run_name="alpaca_qlora",
    model=ModelConfig(path="Qwen/Qwen2.5-0.5B", revision="060db64"),
    template=TemplateConfig(name="chatml"),
    quant=QuantConfig(kind=QuantKind.nf4),
    data=DataConfig(
        mix={
            "alpaca": SourceConfig(path="tatsu-lab/alpaca"),
            "own": SourceConfig(path="/home/jane/secret project/rows.jsonl"),
        }
    ),
    trainer=TrainerConfig(lr=2e-4, epochs=1, examples_per_step=64),
)


@pytest.mark.parametrize(("name", "expected"), [("alpaca_qlora", "alpaca_qlora"), ("run", None)])
def test_the_title_is_the_name_of_the_run(run, tmp_path, name, expected):
    """A run without a name has the name of its directory."""
    moved = RunDir(run.path.rename(tmp_path / "support-bot"))
    assert f"\n# {expected or moved.path.name}\n" in render_card(moved, replace(CONFIG, run_name=name), MERGED)


@pytest.fixture
def run(tmp_path) -> RunDir:
    """Write the files of a run directory that the card reads, with a different number in each field."""
    run = RunDir(tmp_path / "run")
    run.adapter.mkdir(parents=True)
    run.eval.mkdir()
    split = {"examples": 900, "tokens": 123456, "trained_tokens": 45678}
    sources = {
        "alpaca": {"format": "alpaca", "licence": "CC-BY-NC-4.0", "used": 52002},
        "own": {"format": "messages", "licence": None, "used": 17},
    }
    packages = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "bitsandbytes": None, "numpy": "2.3"}
    machine = {"device": "NVIDIA H200", "dtype": "bfloat16", "platform": "Linux-5.15-host", "cpus": 64}
    files = {
        run.manifest: {
            "fingerprint": "0123456789abcdef" * 4,
            "stop_tokens": ["<|im_end|>", "</s>"],
            "splits": {"train": split, "validation": {**split, "examples": 31}},
            "sources": sources,
        },
        run.environment: {"sft_cli": "0.1.0", "python": "3.11.9", "packages": packages, **machine},
        run.adapter / "generation_config.json": {"eos_token_id": [151645, 2], "do_sample": False},
        run.eval / "heldout.json": {
            "suite": "heldout",
            "model": "/home/jane/runs/x/adapter",
            "metrics": {"loss": 0.75, "exact_match": 0.9123, "perplexity": None, "sources": {"own": {"loss": 9.0}}},
            "base": {"exact_match": 0.031},
            "items": [],
        },
    }
    for file, value in files.items():
        file.write_text(json.dumps(value))
    lines = [
        {"step": 1, "loss": 2.5, "trained_tokens": 1000},
        {"step": 1, "eval": True, "loss": 1.9},
        {"step": 2, "loss": 1.4, "trained_tokens": 1200},
        {"step": 2, "eval": True, "loss": 1.1},
        {"step": 3, "loss": 1.2, "trained_tokens": 1300},
        {"step": 3, "eval": True, "loss": 1.3},
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def rows(card: str) -> list[list[str]]:
    """Return the cells of every table row of the card."""
    return [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize(("results", "trained"), [(False, "assistant"), (True, "assistant, tool results")])
def test_card_names_the_trained_parts(run, results, trained):
    card = render_card(run, replace(CONFIG, data=replace(CONFIG.data, train_on_tool_results=results)), MERGED)

    assert ["loss", f"mean over each step's tokens, on: {trained}"] in rows(card)


def test_the_front_matter_is_what_the_hub_reads(run):
    data = yaml.safe_load(render_card(run, CONFIG, MERGED).split("---\n")[1])

    assert data == {
        "base_model": "Qwen/Qwen2.5-0.5B",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["sft", "lora", "sft_cli"],
    }


def test_card_names_sources_and_measurements(run):
    card = render_card(run, CONFIG, MERGED)
    table = rows(card)

    assert "# alpaca_qlora\n\nQwen/Qwen2.5-0.5B (revision 060db64), fine-tuned by supervised training" in card
    assert "The chat template `chatml` is part of the tokenizer." in card
    assert "ends at `<|im_end|>` or `</s>` (ids 151645, 2)." in " ".join(card.split())
    assert ["alpaca", "tatsu-lab/alpaca", "alpaca", "52,002", "CC-BY-NC-4.0"] in table
    assert ["own", "rows.jsonl", "messages", "17", "-"] in table
    assert "45,678 of 123,456 training tokens carried loss; 31 examples were held out." in card
    assert "fingerprint is `0123456789abcdef`." in card
    assert ["adapter", "LoRA, rank 16, alpha 32, dropout 0"] in table
    assert ["base stored as", "nf4, scales quantized too"] in table
    assert ["learning rate", "0.0002, cosine, warm-up 0.03 of the steps"] in table
    assert ["steps", "3"] in table
    assert ["tokens trained on", "3,500"] in table
    assert ["training loss of the last step", "1.2"] in table
    assert ["best held-out loss (step 2)", "1.1"] in table
    assert [row for row in table if row[0].startswith("heldout:")] == [
        ["heldout: loss", "0.75"],
        ["heldout: exact_match", "0.9123"],
        ["heldout: exact_match, base model", "0.031"],
    ]
    assert "added to the base dequantized from nf4; the weights are bfloat16." in card
    assert ["adapter and merged", "0.000125 (at most 0.005)", "99.50%", "200"] in table
    assert ["as trained (nf4) and merged: quantization shift", "0.0312", "98.00%", "200"] in table
    assert card.endswith(
        "## Made with\n\nsft_cli 0.1.0, Python 3.11.9, torch 2.13.0, transformers 5.23.0, peft 0.21.2;"
        " trained on NVIDIA H200.\n"
    )


def test_card_reports_skipped_steps(run):
    steps = [
        {"step": 1, "loss": 2.0, "grad_norm": 1.0, "trained_tokens": 30},
        {"step": 2, "loss": None, "grad_norm": None, "trained_tokens": 500},
        {"step": 3, "loss": 1.5, "grad_norm": None, "trained_tokens": 700},
        {"step": 4, "loss": 1.0, "grad_norm": 1.0, "trained_tokens": 12},
    ]
    run.metrics.write_text("".join(json.dumps(step) + "\n" for step in steps))
    found = run_results(run)
    assert found["steps"] == 4
    assert found["skipped steps (loss or gradient not finite)"] == 2
    assert found["tokens trained on"] == 42


def test_tables_are_not_broken_by_blank_lines(run):
    """A Markdown table ends at a blank line, so its rows must follow its header directly."""
    lines = render_card(run, CONFIG, MERGED).splitlines()
    headers = [i for i, line in enumerate(lines) if line.startswith("|---")]

    assert len(headers) == 5
    assert all(lines[i - 1].startswith("| ") and lines[i + 1].startswith("| ") for i in headers)
    assert all(lines[i + 1] == "" for i, line in enumerate(lines[:-1]) if line.startswith("#"))


def test_a_plain_base_has_no_shift(run):
    card = render_card(run, replace(CONFIG, quant=QuantConfig()), replace(MERGED, into="original", shift=None))

    assert "added to the base in its original precision; the weights are bfloat16." in card
    assert "quantization shift" not in card
    assert ["base stored as", "not quantized"] in rows(card)
    assert [len(row) for row in rows(card) if row[0] == "adapter and merged"] == [4]


def test_card_contains_no_local_path(run, tmp_path):
    base = tmp_path / "models" / "tiny-llama"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: mit\n---\nA base.\n")
    own = replace(CONFIG, model=ModelConfig(path=str(base)), template=TemplateConfig(path="/home/jane/mine.jinja"))

    card = render_card(run, own, MERGED)

    assert "\ntiny-llama, fine-tuned" in card
    assert "`mine.jinja`" in card
    for secret in ("jane", "secret project", str(tmp_path), "Linux-5.15-host", "base_model"):
        assert secret not in card
    assert "license" not in card


def test_the_licence_is_named_if_base_and_data_agree(run, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\nA base.\n")
    manifest = run.read_json(run.manifest)
    for source in manifest["sources"].values():
        source["licence"] = "Apache-2.0"
    run.manifest.write_text(json.dumps(manifest))

    card = render_card(run, replace(CONFIG, model=ModelConfig(path=str(base))), MERGED)

    assert ModelCard(card).data.license == "apache-2.0"


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        pytest.param(["MIT", "mit"], "mit", id="the-same"),
        pytest.param(["mit", None], None, id="one-unknown"),
        pytest.param([None, None], None, id="unknown"),
        pytest.param(["mit", "apache-2.0"], None, id="mixed"),
    ],
)
def test_common_licence(licences, expected):
    assert common_licence(licences) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("builtin:quickstart/model", "builtin:quickstart/model"),
        ("/home/jane/models/llama", "llama"),
        ("~/models/llama/", "llama"),
        ("../jane/rows.jsonl", "rows.jsonl"),
        (str(Path(__file__).parent), "merge"),
    ],
)
def test_public_name(path, expected):
    assert public_name(path) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), ("", "-"), (12345, "12,345"), (0.123456, "0.1235"), ("a|b\nc", r"a\|b c"), ("<b>", "&lt;b>")],
)
def test_table_cell(value, expected):
    assert table_cell(value) == expected


def test_user_text_in_the_front_matter_is_escaped(run):
    """Names may contain YAML syntax, so a YAML library writes the metadata."""
    data = ModelCard(render_card(run, replace(CONFIG, run_name="x\n---\nlicense: mit"), MERGED)).data

    assert data.license is None
    assert data.library_name == "transformers"


@pytest.mark.parametrize(
    "text", ["no front matter", "---\nlicense: [a, b]\n---\n", "---\nlicense: {\n---\n", "---\n- x\n---\n"]
)
def test_base_licence_without_a_licence_in_the_card(tmp_path, text):
    (tmp_path / "README.md").write_text(text)

    assert base_licence(str(tmp_path)) is None


def test_run_results_exclude_other_evaluations(run):
    """The name of a report in eval/ contains its data; the card reads only that of the run's own held-out rows."""
    report = json.loads((run.eval / "heldout.json").read_text())
    for name in ("mmlu", "questions-0123abcd", "heldout-89abcdef"):
        (run.eval / f"{name}.json").write_text(json.dumps({**report, "metrics": {"exact_match": 0.8675}}))

    card = render_card(run, CONFIG, MERGED)

    assert "0.8675" not in card
    assert ["heldout: exact_match", "0.9123"] in rows(card)


@pytest.fixture
def evaluated(run) -> RunDir:
    """Return the run with results of suites of the trained model, its base and an earlier step, and the mix."""
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    origin = {"base": CONFIG.model.path, "revision": CONFIG.model.revision, "quant": "nf4"}
    models = {
        "facts-1": {"label": "tuned", "weights": model_digest(run.adapter, origin)},
        "facts-2": {"label": "base", "weights": "b"},
        "facts-3": {"label": "tuned", "weights": "of step 10"},
        "other-4": {"label": "base", "weights": "b"},
    }
    for number, (name, model) in enumerate(models.items(), 1):
        write(run.eval / name / "suite.json", {"suite": name[:-2], "data": {"ids": "x"}, "model": model})
        figure = {"value": 0.1234 * number, "low": 0.1111 * number, "high": 0.1357 * number, "n": 40 + number}
        write(run.eval / name / "scores.json", {"metrics": {"contains": figure}})
    for label, value in (("tuned", 0.7531), ("base", 3.579)):
        figure = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 31}
        write(run.eval / f"heldout-{label}" / "scores.json", {"metrics": {"loss": figure}})
    manifest = run.read_json(run.manifest)
    counts = {"rows": 901, "tokens": 120011, "trained_tokens": 45001, "share_trained": 0.9852}
    tags = {"origin": {"human": {"rows": 801, "trained_tokens": 40003}, "(none)": {"rows": 99, "trained_tokens": 77}}}
    manifest["mix"] = {"sources": {"alpaca": counts}, "tags": tags}
    manifest["clean"] = [{"filter": "exact_duplicates", "dropped": {"duplicate": 57}}]
    manifest["dropped"] = {"duplicate": 57, "too_long": 19}
    write(run.manifest, manifest)
    loss = {"value": 0.0321, "low": -0.0111, "high": 0.0654, "n": 43}
    tax = {"value": 0.0321, "low": -0.0111, "high": 0.0654, "scores": 1}
    score = {"name": "facts.contains", "base": 0.2468, "tuned": 0.2147, "loss": loss}
    write(run.eval / "alignment_tax.json", {"alignment_tax": tax, "scores": [score]})
    write(run.retention, {"math": {"metric": "exact_match", "value": 0.4321}})
    with run.metrics.open("a") as file:
        file.write(json.dumps({"step": 3, "retention": {"math": 0.3987}}) + "\n")
    return run


def write(file: Path, value: object) -> None:
    """Write a JSON file, with its directory."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value))


def test_the_card_has_suites_with_their_intervals_and_the_base_on_the_same_items(evaluated):
    (evaluated.eval / "alignment_tax.json").rename(evaluated.eval / "unread.json")
    card = render_card(evaluated, CONFIG, MERGED)

    assert ["facts", "contains", "41", "0.1234", "0.1111 to 0.1357", "0.2468", "0.2222 to 0.2714"] in rows(card)
    assert ["heldout", "loss", "31", "0.7531", "0.7031 to 0.8031", "3.579", "3.529 to 3.629"] in rows(card)
    assert "other weights than these were evaluated: `facts-3`." in card
    assert "0.3702" not in card
    assert "0.4936" not in card
    assert not [row for row in rows(card) if row[0].startswith("heldout:")]


def test_the_model_index_has_only_what_was_measured_with_these_weights(evaluated):
    data = ModelCard(render_card(evaluated, CONFIG, MERGED)).data

    assert data.model_name == "alpaca_qlora"
    found = [(one.dataset_name, one.metric_type, one.metric_value) for one in data.eval_results or ()]
    assert found == [("heldout", "loss", 0.7531), ("facts", "contains", 0.1234)]


def test_retention_is_left_out_if_other_weights_may_have_been_measured(evaluated):
    assert "alignment tax" not in render_card(evaluated, CONFIG, MERGED)
    (evaluated.eval / "facts-3" / "suite.json").unlink()
    table = rows(render_card(evaluated, CONFIG, MERGED))

    assert ["facts.contains", "43", "0.2468", "0.2147", "0.0321", "-0.0111 to 0.0654"] in table
    assert ["alignment tax", "-", "-", "-", "0.0321", "-0.0111 to 0.0654"] in table
    assert ["math", "exact_match", "0.4321", "3", "0.3987"] in table


def test_the_card_has_the_mix_the_tags_and_the_dropped_rows(evaluated):
    table = rows(render_card(evaluated, CONFIG, MERGED))

    assert ["alpaca", "901", "120,011", "45,001", "0.9852"] in table
    assert ["origin", "human", "801", "40,003"] in table
    assert [row for row in table if row[-1] in ("57", "19")] == [
        ["exact_duplicates", "duplicate", "57"],
        ["reading", "too_long", "19"],
    ]


def test_every_number_in_the_tables_of_figures_is_in_a_file_of_the_run(evaluated):
    """A property: no figure is made up, and none is shown under another suite's name."""
    (evaluated.eval / "facts-3" / "suite.json").unlink()
    files = [file for file in evaluated.path.rglob("*.json*") if file.name != "config.yaml"]
    lines = [line for file in files for line in file.read_text().splitlines()]
    values = [value for line in lines for value in numbers(json.loads(line))]
    known = {table_cell(value) for value in values} | {f"{value:.4g}" for value in values}
    card = render_card(evaluated, CONFIG)
    data = card[card.index("## Data") : card.index("## Training")]
    figures = card[card.index("## Figures of this run") : card.index("## Limits")]
    cells = [cell for row in rows(data + figures) for cell in row]
    shown = {number for cell in cells for number in cell.split(" to ") if re.fullmatch(r"-?[\d.,]+(e[+-]\d+)?", number)}

    assert len(shown) > 30
    assert shown - known == {"3,500"}  # the sum of the steps' trained tokens


def numbers(value: object) -> list[float]:
    """Return all numbers in a JSON value."""
    if isinstance(value, list):
        return [number for entry in value for number in numbers(entry)]
    flat = [entry for _, entry in flatten(value)]
    return [number for entry in flat for number in (numbers(entry) if isinstance(entry, list) else [entry])
            if isinstance(number, int | float)]  # fmt: skip


def test_the_author_is_asked_for_the_limits(run):
    assert "## Limits\n\n**TODO for the author:**" in render_card(run, CONFIG)


def test_the_card_of_an_adapter(run):
    card = render_card(run, CONFIG)

    assert "This is an adapter for PEFT, without the base." in card
    assert "AutoPeftModelForCausalLM.from_pretrained('DIRECTORY_OR_HUB_ID')" in card
    assert "## The merge" not in card
    assert ModelCard(card).data.library_name == "peft"


def test_settings_that_differ_from_the_defaults_are_listed_without_local_paths(run):
    config = replace(CONFIG, adapter=AdapterConfig(rank=7, start_from="/home/jane/first"))
    card = render_card(run, config)

    assert ["adapter.rank", "7"] in rows(card)
    assert ["adapter.start_from", "first"] in rows(card)
    assert not [row for row in rows(card) if row[0] == "adapter.alpha"]
    assert "jane" not in card


def test_the_card_of_a_whole_model(run):
    run.adapter.rename(run.model)
    (run.model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    card = render_card(run, replace(CONFIG, adapter=AdapterConfig(kind=AdapterKind.none), quant=QuantConfig()))

    assert "This is the whole model." in card
    assert "pipeline('text-generation', 'DIRECTORY_OR_HUB_ID')" in card
    assert ["adapter", "none: all weights were trained"] in rows(card)
    assert ModelCard(card).data.tags == ["sft", "sft_cli"]
