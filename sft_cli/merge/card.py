"""The model card of a merged model: its sources, settings and measurements, without any path of this machine."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load
from jinja2 import Environment, PackageLoader, StrictUndefined
from yaml import YAMLError

from sft_cli.config import paths
from sft_cli.config.schema.adapter import FOUR_BITS, AdapterConfig, AdapterKind, Init, QuantConfig, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.merge.agreement import Agreement
from sft_cli.run_dir import RunDir

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


def render_card(run: RunDir, config: Config, merged: MergeResult) -> str:
    """Render the card: YAML front matter that the hub accepts, then Markdown."""
    assert config.model.path is not None
    manifest, environment = run.read_json(run.manifest), run.read_json(run.environment)
    sources = list(data_sources(manifest, config))
    jinja = Environment(
        loader=PackageLoader("sft_cli.merge", "."),
        autoescape=False,  # Markdown, not HTML; table cells are cleaned by `cell`
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    jinja.filters["cell"] = table_cell
    train, held_out = manifest["splits"]["train"], manifest["splits"]["validation"]
    trained = config.data.train_on.value + (", tool results" if config.data.train_on_tool_results else "")
    return jinja.get_template("card.md.jinja").render(
        front_matter=front_matter(config.model.path, config.adapter, [source["licence"] for source in sources]),
        name=table_cell(run_title(run, config)),
        run_name=table_cell(config.run_name),
        base={"name": table_cell(public_name(config.model.path)), "revision": config.model.revision},
        template=table_cell(public_name(config.template.path or manifest.get("template", config.template.name))),
        stop_tokens=manifest["stop_tokens"],
        stop_ids=run.read_json(run.adapter / "generation_config.json")["eos_token_id"],
        sources=sources,
        data={**train, "held_out": held_out["examples"], "fingerprint": manifest["fingerprint"][:16]},
        settings=hyperparameters(config.adapter, config.quant, config.trainer)
        | {"loss": f"mean over each step's {config.loss.reduction.value}s, on: {trained}"},
        figures=run_results(run),
        quant=config.quant.kind.value,
        merged=merged,
        usage="\n".join(merged.usage),
        versions=package_versions(environment),
        device=table_cell(environment["device"]),
    )


def run_title(run: RunDir, config: Config) -> str:
    """Return the name of the run: the configured name, else that of its directory."""
    return config.run_name if config.run_name != Config().run_name else run.path.resolve().name


def front_matter(path: str, adapter: AdapterConfig, licences: list[str | None]) -> str:
    """Return the card's metadata as YAML, without unknown values."""
    data = ModelCardData(
        base_model=path if is_hub_model(path) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        license=common_licence([base_licence(path), *licences]),
        tags=[TAGS[0], adapter.kind.value, *TAGS[1:]],
    )
    return data.to_yaml()


def is_hub_model(path: str) -> bool:
    """Return whether a model path names a hub repository, not a built-in model or one on this machine."""
    return not path.startswith((paths.BUILTIN, "/", ".", "~")) and not Path(path).exists()


def public_name(path: str) -> str:
    """Return a path for publication: hub ids and ``builtin:`` paths are unchanged, local ones become their names."""
    local = path.startswith(("/", ".", "~")) or Path(path).exists()
    return Path(path).expanduser().resolve().name if local else path


def base_licence(path: str) -> str | None:
    """Return the licence in the model card of a local base; None if unknown."""
    card = Path(paths.resolve(path)) / "README.md"
    try:
        data = metadata_load(card) if card.is_file() else None
    except (YAMLError, ValueError):  # someone else's file: the licence of an unreadable card is unknown
        return None
    licence = (data or {}).get("license")
    return licence if isinstance(licence, str) else None


def common_licence(licences: list[str | None]) -> str | None:
    """Return the licence that base and all sources have; None if they differ, because a person must decide then."""
    known = {licence.lower() for licence in licences if licence}
    return known.pop() if len(known) == 1 and all(licences) else None


def data_sources(manifest: Mapping[str, Any], config: Config) -> Iterator[dict[str, Any]]:
    """Yield name, path, format, number of rows used and licence of each source."""
    for name, result in manifest["sources"].items():
        path = config.data.mix[name].path
        assert path is not None, "it has been read"
        yield {
            "name": name,
            "path": public_name(path),
            "format": result["format"],
            "used": result["used"],
            "licence": result["licence"],
        }


def hyperparameters(adapter: AdapterConfig, quant: QuantConfig, trainer: TrainerConfig) -> dict[str, Any]:
    """Return the hyperparameters by name."""
    storage = quant.kind.value
    if quant.kind in FOUR_BITS and quant.double_quant:
        storage += ", scales quantized too"
    return {
        **adapter_hyperparameters(adapter),
        "base stored as": storage if quant.kind is not QuantKind.none else "not quantized",
        "learning rate": f"{resolved(trainer.lr):g}, {trainer.schedule.value},"
        f" warm-up {trainer.warmup_ratio:g} of the steps",
        "optimizer": f"{trainer.optimizer.value}, betas {trainer.betas[0]:g} and {trainer.betas[1]:g}",
        "weight decay": trainer.weight_decay,
        "gradient norm at most": trainer.max_grad_norm,
        "examples per step": resolved(trainer.examples_per_step),
        "epochs": resolved(trainer.epochs),
        "steps at most": trainer.max_steps,
        "longest example": f"{trainer.max_length} tokens",
        "seed": str(trainer.seed),
    }


def adapter_hyperparameters(adapter: AdapterConfig) -> dict[str, str]:
    """Return the settings of an adapter that apply to its kind, by name."""
    result = {"adapter": describe_adapter(adapter), "target modules": ", ".join(adapter.target_modules)}
    rows = {
        "target parameters": adapter.target_parameters,
        "fully trained modules": adapter.modules_to_save,
        "on top of": [public_name(path) for path in adapter.frozen_adapters],
        "started from": [] if adapter.start_from is None else [public_name(adapter.start_from)],
        "other ranks": [f"{pattern}: {rank}" for pattern, rank in adapter.rank_pattern.items()],
        "other alphas": [f"{pattern}: {alpha:g}" for pattern, alpha in adapter.alpha_pattern.items()],
    }
    return result | {name: ", ".join(values) for name, values in rows.items() if values}


def describe_adapter(adapter: AdapterConfig) -> str:
    """Describe the kind of an adapter and its numbers."""
    if adapter.kind is AdapterKind.vera:
        return f"VeRA, rank {adapter.vera.rank}, initial scale {adapter.vera.initial_scale:g}"
    if adapter.kind is AdapterKind.ia3:
        return "IA3"
    if adapter.kind is AdapterKind.oft:
        return f"OFT, blocks of {adapter.oft.block_size}"
    assert adapter.kind is AdapterKind.lora, "other kinds are not merged"
    name = "DoRA" if adapter.dora else "LoRA"
    parts = [f"{name}, rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}"]
    parts += ["scaled by alpha / sqrt(rank)"] if adapter.rank_stabilized else []
    parts += [f"initialized by {adapter.init.value}"] if adapter.init is not Init.default else []
    parts += [f"learning rate of B {adapter.lr_ratio:g} times that of A"] if adapter.lr_ratio != 1 else []
    return ", ".join(parts)


def run_results(run: RunDir) -> dict[str, Any]:
    """Return the measurements of the run: losses in nats, and sft eval's metrics on its held-out rows."""
    entries = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in entries if "retention" not in line]
    steps = [line for line in lines if not line.get("eval")]
    result: dict[str, Any] = {}
    if steps:
        result["steps"] = steps[-1]["step"]
        counted = [step for step in steps if None not in (step["loss"], step.get("grad_norm", 0.0))]
        if len(counted) < len(steps):
            result["skipped steps (loss or gradient not finite)"] = len(steps) - len(counted)
        result["tokens trained on"] = sum(step["trained_tokens"] for step in counted)
        result["training loss of the last step"] = steps[-1]["loss"]
    evaluated = [line for line in lines if line.get("eval") and isinstance(line["loss"], float)]
    if evaluated:
        best = min(evaluated, key=lambda line: line["loss"])
        result[f"best held-out loss (step {best['step']})"] = best["loss"]
    for file in run.eval.glob("heldout.json"):  # other rows and settings have separate reports
        report = run.read_json(file)
        for label, metrics in (("", report["metrics"]), (", base model", report.get("base", {}))):
            result |= {
                f"{file.stem}: {name}{label}": value for name, value in metrics.items() if is_metric_value(value)
            }
    return result


def is_metric_value(value: Any) -> bool:
    """Return whether a metric is a number, neither missing nor a flag nor a group of metrics."""
    return isinstance(value, int | float) and not isinstance(value, bool)


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
