"""The model card of a run's result: its sources, settings and measurements, without any path of this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, metadata_load
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from yaml import YAMLError

from sft_cli.config import paths
from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.merge.agreement import Agreement
from sft_cli.merge.card_data import data_sources, dropped_rows, realised_mix, tag_counts
from sft_cli.merge.card_figures import SuiteScore, card_figures
from sft_cli.merge.card_settings import hyperparameters, is_hub_model, non_default_settings, public_name
from sft_cli.run_dir import RunDir
from sft_cli.scoring.statistics import interval_text
from sft_cli.utils.atomic import write_atomic

CARD = "README.md"
TASK = "text-generation"
PLACE = "DIRECTORY_OR_HUB_ID"
ADAPTER_USAGE = (
    "from peft import AutoPeftModelForCausalLM",
    "from transformers import AutoTokenizer",
    f"tokenizer = AutoTokenizer.from_pretrained({PLACE!r})",
    f"model = AutoPeftModelForCausalLM.from_pretrained({PLACE!r})",
    "chat = [{'role': 'user', 'content': 'Hello'}]",
    "row = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors='pt')",
    "print(tokenizer.decode(model.generate(**row, max_new_tokens=100)[0]))",
)
TAGS = ("sft", "sft_cli")
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes", "accelerate")
"""Packages whose version may change a model's results."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A merged model that has been written.

    Attributes:
        into: ``original`` or ``dequantized``.
        dtype: Dtype of its weights.
        size: Bytes of its weight files.
        max_kl: Largest allowed divergence from the adapter, in nats.
        agreement: Agreement of the adapter on the same base with the merged model.
        shift: Agreement of the adapter on the quantized base, as trained, with the merged model; None for a plain base.
        usage: Lines of Python that query the model.
    """

    into: str
    dtype: str
    size: int
    max_kl: float
    agreement: Agreement
    shift: Agreement | None
    usage: tuple[str, ...]


def render_card(run: RunDir, config: Config, merged: MergeResult | None = None) -> str:
    """Render the card: YAML front matter that the hub accepts, then Markdown.

    Args:
        run: A finished run.
        config: Its config.
        merged: The merge; None for the run's own result, which is an adapter or a whole model.
    """
    assert config.model.path is not None
    manifest, environment = run.read_json(run.manifest), run.read_json(run.environment)
    sources, figures = list(data_sources(manifest, config)), card_figures(run, config)
    train, held_out = manifest["splits"]["train"], manifest["splits"]["validation"]
    trained = config.data.train_on.value + (", tool results" if config.data.train_on_tool_results else "")
    return _template().render(
        front_matter=front_matter(run, config, merged, [source["licence"] for source in sources], figures.suites),
        form=_form(config, merged),
        name=table_cell(run_title(run, config)),
        run_name=table_cell(config.run_name),
        base={"name": table_cell(public_name(config.model.path)), "revision": config.model.revision},
        template=table_cell(public_name(config.template.path or manifest.get("template", config.template.name))),
        stop_tokens=manifest["stop_tokens"],
        stop_ids=_stop_ids(run),
        sources=sources,
        mix=realised_mix(manifest),
        dropped=dropped_rows(manifest),
        tags=tag_counts(manifest),
        data={**train, "held_out": held_out["examples"], "fingerprint": manifest["fingerprint"][:16]},
        settings=hyperparameters(config.adapter, config.quant, config.trainer)
        | {"loss": f"mean over each step's {config.loss.reduction.value}s, on: {trained}"},
        changed=non_default_settings(config),
        figures=figures,
        quant=config.quant.kind.value,
        merged=merged,
        usage="\n".join(merged.usage if merged is not None else _usage(run, config)),
        versions=package_versions(environment),
        device=table_cell(environment["device"]),
    )


def write_card(run: RunDir, config: Config, directory: Path) -> None:
    """Write the card of the run's adapter or whole model into its directory, or a copy of it."""
    write_atomic(directory / CARD, render_card(run, config))


def _template() -> Template:
    """Return the Markdown template of the card."""
    jinja = Environment(
        loader=PackageLoader("sft_cli.merge", "."),
        autoescape=False,  # Markdown, not HTML; table cells are cleaned by `cell`
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    jinja.filters |= {"cell": table_cell, "interval": interval_text}
    return jinja.get_template("card.md.jinja")


def _form(config: Config, merged: MergeResult | None) -> str:
    """Return what the directory holds; empty for a merge, which has a section of its own."""
    if merged is not None:
        return ""
    return "the whole model" if config.adapter.kind in WHOLE else "an adapter for PEFT, without the base"


def _stop_ids(run: RunDir) -> list[int]:
    """Return the ids of the stop tokens of the run's result."""
    ids = run.read_json(run.result / "generation_config.json")["eos_token_id"]
    return ids if isinstance(ids, list) else [ids]


def _usage(run: RunDir, config: Config) -> Sequence[str]:
    """Return lines of Python that query the run's result."""
    if config.adapter.kind not in WHOLE:
        return ADAPTER_USAGE
    from sft_cli.model.export_files import usage_example
    from sft_cli.model.load import load_model_config

    return usage_example(load_model_config(replace(config.model, path=str(run.result), revision=None)), PLACE)


def run_title(run: RunDir, config: Config) -> str:
    """Return the name of the run: the configured name, else that of its directory."""
    return config.run_name if config.run_name != Config().run_name else run.path.resolve().name


def front_matter(
    run: RunDir,
    config: Config,
    merged: MergeResult | None,
    licences: Sequence[str | None],
    scores: Sequence[SuiteScore],
) -> str:
    """Return the card's metadata as YAML, without unknown values; ``model-index`` has the measured scores alone.

    Args:
        run: The run.
        config: Its config.
        merged: The merge, or None.
        licences: The licence of each source.
        scores: The scores of the trained model.
    """
    path, adapter = config.model.path, config.adapter
    assert path is not None
    is_adapter = merged is None and adapter.kind not in WHOLE
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=score.place,
            dataset_name=score.suite,
            metric_type=score.metric,
            metric_value=score.tuned["value"],
        )
        for score in scores
    ]
    data = ModelCardData(
        base_model=path if is_hub_model(path) else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=TASK,
        license=common_licence([base_licence(path), *licences]),
        tags=[TAGS[0], *([] if adapter.kind in WHOLE else [adapter.kind.value]), *TAGS[1:]],
        model_name=run_title(run, config) if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def base_licence(path: str) -> str | None:
    """Return the licence in the model card of a local base; None if unknown."""
    card = Path(paths.resolve(path)) / "README.md"
    try:
        data = metadata_load(card) if card.is_file() else None
    except (YAMLError, ValueError):  # someone else's file: the licence of an unreadable card is unknown
        return None
    licence = (data or {}).get("license")
    return licence if isinstance(licence, str) else None


def common_licence(licences: Sequence[str | None]) -> str | None:
    """Return the licence that base and all sources have; None if they differ, because a person must decide then."""
    known = {licence.lower() for licence in licences if licence}
    return known.pop() if len(known) == 1 and all(licences) else None


def package_versions(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions used in the run, without packages that were not installed."""
    packages = {name: environment["packages"].get(name) for name in PACKAGES}
    versions = {"sft_cli": environment["sft_cli"], "Python": environment["python"]}
    return versions | {name: version for name, version in packages.items() if version}


def table_cell(value: Any) -> str:
    """Format a value for one line of a Markdown table, where bars and tags need escaping."""
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "-"
