"""The model card of a merged model: where it comes from, how it was made, what was measured. No path of a machine."""

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
from sft_cli.config.schema.fields import picked
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.merge.agreement import Agreement
from sft_cli.run_dir import RunDir

TAGS = ("sft", "sft_cli")
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes", "accelerate")
"""Packages whose version may change what a model computes."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model, written.

    Attributes:
        into: ``original`` or ``dequantized``.
        dtype: Type of its weights.
        size: Bytes of its weight files.
        max_kl: Largest divergence from the adapter that was allowed, in nats.
        agreement: The adapter on the same base against the merged model.
        shift: The adapter on the quantised base, as trained, against the merged model; None for a plain base.
        usage: Lines of Python that ask it, whichever class it has.
    """

    into: str
    dtype: str
    size: int
    max_kl: float
    agreement: Agreement
    shift: Agreement | None
    usage: tuple[str, ...]


def render(run: RunDir, config: Config, merged: Merged) -> str:
    """The card as Markdown behind YAML front matter that the hub accepts."""
    assert config.model.path is not None
    manifest, environment = run.read(run.manifest), run.read(run.environment)
    sources = list(data_sources(manifest, config))
    jinja = Environment(
        loader=PackageLoader("sft_cli.merge", "."),
        autoescape=False,  # Markdown, not HTML; table cells are cleaned by `cell`
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    jinja.filters["cell"] = cell
    train, held_out = manifest["splits"]["train"], manifest["splits"]["validation"]
    trained = config.data.train_on.value + (", tool results" if config.data.train_on_tool_results else "")
    return jinja.get_template("card.md.jinja").render(
        front_matter=front_matter(config.model.path, config.adapter, [source["licence"] for source in sources]),
        name=cell(title(run, config)),
        run_name=cell(config.run_name),
        base={"name": cell(public(config.model.path)), "revision": config.model.revision},
        template=cell(public(config.template.path or manifest.get("template", config.template.name))),
        stop_tokens=manifest["stop_tokens"],
        stop_ids=run.read(run.adapter / "generation_config.json")["eos_token_id"],
        sources=sources,
        data={**train, "held_out": held_out["examples"], "fingerprint": manifest["fingerprint"][:16]},
        settings=settings(config.adapter, config.quant, config.trainer)
        | {"loss": f"mean over each step's {config.loss.reduction.value}s, on: {trained}"},
        figures=figures(run),
        quant=config.quant.kind.value,
        merged=merged,
        usage="\n".join(merged.usage),
        versions=versions(environment),
        device=cell(environment["device"]),
    )


def title(run: RunDir, config: Config) -> str:
    """The name of the run: the one it was given, else that of its directory."""
    return config.run_name if config.run_name != Config().run_name else run.path.resolve().name


def front_matter(path: str, adapter: AdapterConfig, licences: list[str | None]) -> str:
    """The card's metadata as YAML; what is not known is left out."""
    data = ModelCardData(
        base_model=path if is_hub_id(path) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        license=common_licence([base_licence(path), *licences]),
        tags=[TAGS[0], adapter.kind.value, *TAGS[1:]],
    )
    return data.to_yaml()


def is_hub_id(path: str) -> bool:
    """Whether a model path names a repository, not something embedded or on this machine."""
    return not path.startswith((paths.BUILTIN, "/", ".", "~")) and not Path(path).exists()


def public(path: str) -> str:
    """A path as others may read it: hub ids and ``builtin:`` as they are, of anything on this machine the name."""
    local = path.startswith(("/", ".", "~")) or Path(path).exists()
    return Path(path).expanduser().resolve().name if local else path


def base_licence(path: str) -> str | None:
    """The licence that the card beside a local base names."""
    card = Path(paths.resolve(path)) / "README.md"
    try:
        data = metadata_load(card) if card.is_file() else None
    except (YAMLError, ValueError):  # somebody else's file: what it does not say is not known
        return None
    licence = (data or {}).get("license")
    return licence if isinstance(licence, str) else None


def common_licence(licences: list[str | None]) -> str | None:
    """The licence, if the base's and every source's are known and the same; a mixture is for a person to judge."""
    known = {licence.lower() for licence in licences if licence}
    return known.pop() if len(known) == 1 and all(licences) else None


def data_sources(manifest: Mapping[str, Any], config: Config) -> Iterator[dict[str, Any]]:
    """For each source its name, path, format, number of rows used and licence."""
    for name, found in manifest["sources"].items():
        path = config.data.mix[name].path
        assert path is not None, "it has been read"
        yield {
            "name": name,
            "path": public(path),
            "format": found["format"],
            "used": found["used"],
            "licence": found["licence"],
        }


def settings(adapter: AdapterConfig, quant: QuantConfig, trainer: TrainerConfig) -> dict[str, Any]:
    """The hyperparameters by name."""
    stored = quant.kind.value
    if quant.kind in FOUR_BITS and quant.double_quant:
        stored += ", scales quantised too"
    return {
        **adapter_settings(adapter),
        "base stored as": stored if quant.kind is not QuantKind.none else "not quantised",
        "learning rate": f"{picked(trainer.lr):g}, {trainer.schedule.value},"
        f" warm-up {trainer.warmup_ratio:g} of the steps",
        "optimizer": f"{trainer.optimizer.value}, betas {trainer.betas[0]:g} and {trainer.betas[1]:g}",
        "weight decay": trainer.weight_decay,
        "gradient norm at most": trainer.max_grad_norm,
        "examples per step": picked(trainer.examples_per_step),
        "epochs": picked(trainer.epochs),
        "steps at most": trainer.max_steps,
        "longest example": f"{trainer.max_length} tokens",
        "seed": str(trainer.seed),
    }


def adapter_settings(adapter: AdapterConfig) -> dict[str, str]:
    """What was trained, with the settings that its kind reads."""
    found = {"adapter": adapter_line(adapter), "target modules": ", ".join(adapter.target_modules)}
    listed = {
        "target parameters": adapter.target_parameters,
        "modules trained whole": adapter.modules_to_save,
        "on top of": [public(path) for path in adapter.frozen_adapters],
        "begun from": [] if adapter.start_from is None else [public(adapter.start_from)],
        "other ranks": [f"{pattern}: {rank}" for pattern, rank in adapter.rank_pattern.items()],
        "other alphas": [f"{pattern}: {alpha:g}" for pattern, alpha in adapter.alpha_pattern.items()],
    }
    return found | {name: ", ".join(values) for name, values in listed.items() if values}


def adapter_line(adapter: AdapterConfig) -> str:
    """The kind of an adapter and its numbers."""
    if adapter.kind is AdapterKind.vera:
        return f"VeRA, rank {adapter.vera.rank}, initial scale {adapter.vera.initial_scale:g}"
    if adapter.kind is AdapterKind.ia3:
        return "IA3"
    if adapter.kind is AdapterKind.oft:
        return f"OFT, blocks of {adapter.oft.block_size}"
    assert adapter.kind is AdapterKind.lora, "nothing else is merged"
    name = "DoRA" if adapter.dora else "LoRA"
    words = [f"{name}, rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}"]
    words += ["scaled by alpha / sqrt(rank)"] if adapter.rank_stabilized else []
    words += [f"begun with {adapter.init.value}"] if adapter.init is not Init.default else []
    words += [f"learning rate of B {adapter.lr_ratio:g} times that of A"] if adapter.lr_ratio != 1 else []
    return ", ".join(words)


def figures(run: RunDir) -> dict[str, Any]:
    """What the run measured: losses in nats, and the metrics of its own held-out rows, as sft eval found them."""
    written = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in written if "retention" not in line]
    steps = [line for line in lines if not line.get("eval")]
    found: dict[str, Any] = {}
    if steps:
        found["steps"] = steps[-1]["step"]
        counted = [step for step in steps if None not in (step["loss"], step.get("grad_norm", 0.0))]
        if len(counted) < len(steps):
            found["steps left out of them (loss or gradient not finite)"] = len(steps) - len(counted)
        found["tokens trained on"] = sum(step["trained_tokens"] for step in counted)
        found["training loss of the last step"] = steps[-1]["loss"]
    evaluated = [line for line in lines if line.get("eval") and isinstance(line["loss"], float)]
    if evaluated:
        best = min(evaluated, key=lambda line: line["loss"])
        found[f"best held-out loss (step {best['step']})"] = best["loss"]
    for file in run.eval.glob("heldout.json"):  # other rows and settings have reports of their own
        report = run.read(file)
        for label, metrics in (("", report["metrics"]), (", base model", report.get("base", {}))):
            found |= {f"{file.stem}: {name}{label}": value for name, value in metrics.items() if is_number(value)}
    return found


def is_number(value: Any) -> bool:
    """Whether a metric is a number, not missing, a flag or a group of others."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def versions(environment: Mapping[str, Any]) -> dict[str, str]:
    """Versions the run was made with; packages that were not installed are left out."""
    packages = {name: environment["packages"].get(name) for name in PACKAGES}
    own = {"sft_cli": environment["sft_cli"], "Python": environment["python"]}
    return own | {name: version for name, version in packages.items() if version}


def cell(value: Any) -> str:
    """A value on one line of a Markdown table, where a bar would end the cell and a tag would be one."""
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "-"
