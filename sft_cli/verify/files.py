"""Checks of a saved model from its files alone: hashes, sizes, stop tokens, template, dtype, base."""

import json
from collections.abc import Iterator
from pathlib import Path

from sft_cli.config import paths
from sft_cli.config.compose import read_config
from sft_cli.export.record import NAME, WEIGHTS, read_record
from sft_cli.utils.hashing import sha256_of_file
from sft_cli.verify.artefact import Artefact, Tensor, read_tensors
from sft_cli.verify.finding import VerifyFinding

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
AGAIN = "export it again"


def check_files(artefact: Artefact) -> Iterator[VerifyFinding]:
    """Yield the findings from the files of a model, an adapter or a GGUF file."""
    yield check_hashes(artefact)
    if artefact.kind == "gguf":
        return
    tensors, problems = read_tensors(artefact.directory)
    if problems or not tensors:
        yield VerifyFinding("weights", "failed", problems[0] if problems else "there is no safetensors file", AGAIN)
    if artefact.kind == "model":
        yield check_sizes(artefact, tensors)
        yield check_dtype(artefact, tensors)
    else:
        yield from check_base(artefact, tensors)
    yield check_stops(artefact)
    yield check_saved_template(artefact)


def check_hashes(artefact: Artefact) -> VerifyFinding:
    """Compare every file with the hash in export.json."""
    directory = artefact.directory
    record = read_record(directory) or read_record(directory.parent)
    if record is None:
        return VerifyFinding("sha256", "skipped", f"there is no {NAME}: sft export writes one")
    root = directory if (directory / NAME).is_file() else directory.parent
    for name, digest in record["sha256"].items():
        file = root / name
        if not file.is_file():
            return VerifyFinding("sha256", "failed", f"{name} is missing", AGAIN)
        if sha256_of_file(file) != digest:
            return VerifyFinding("sha256", "failed", f"{name} has changed since the export", AGAIN)
    return VerifyFinding("sha256", "ok", f"{len(record['sha256'])} files are as exported")


def check_sizes(artefact: Artefact, tensors: dict[str, Tensor]) -> VerifyFinding:
    """Compare the rows of the embedding with the vocabulary of config.json and the ids of the tokenizer."""
    config = artefact.read_json("config.json") or {}
    vocabulary = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    rows = next((tensor.shape[0] for name, tensor in tensors.items() if name.endswith(EMBEDDINGS)), None)
    if rows is None or vocabulary is None:
        return VerifyFinding("sizes", "skipped", "the embedding was not found")
    if rows != vocabulary:
        text = f"config.json names a vocabulary of {vocabulary}, the embedding has {rows} rows"
        return VerifyFinding("sizes", "failed", text, AGAIN)
    largest = largest_id(artefact.directory)
    if largest is not None and largest >= rows:
        return VerifyFinding("sizes", "failed", f"the tokenizer has id {largest}, the embedding {rows} rows", AGAIN)
    return VerifyFinding("sizes", "ok", f"{rows} rows, ids up to {largest}")


def largest_id(directory: Path) -> int | None:
    """Return the largest id of a directory's tokenizer.json; None without one."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = data["model"]["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return max([*ids, *(token["id"] for token in data["added_tokens"])])


def check_dtype(artefact: Artefact, tensors: dict[str, Tensor]) -> VerifyFinding:
    """Compare the dtype of the weights with that of config.json."""
    config = artefact.read_json("config.json") or {}
    named = config.get("dtype") or config.get("torch_dtype") or config.get("text_config", {}).get("dtype")
    stored = sorted({DTYPES[tensor.dtype] for tensor in tensors.values() if tensor.dtype in DTYPES})
    if named is None or not stored:
        return VerifyFinding("dtype", "skipped", "config.json names no dtype")
    if named not in stored:
        text = f"config.json names {named}, the weights are {' and '.join(stored)}"
        return VerifyFinding("dtype", "failed", text, f'set "dtype": "{stored[0]}" in config.json')
    return VerifyFinding("dtype", "ok", named)


def check_stops(artefact: Artefact) -> VerifyFinding:
    """Compare the stop ids of generation_config.json with those of the run."""
    settings = artefact.read_json("generation_config.json")
    if settings is None or settings.get("eos_token_id") is None:
        return VerifyFinding("stops", "failed", "generation_config.json names no stop token: answers do not end", AGAIN)
    stops = settings["eos_token_id"] if isinstance(settings["eos_token_id"], list) else [settings["eos_token_id"]]
    trained = _run_stops(artefact)
    if missing := sorted(set(trained) - set(stops)):
        text = f"generation_config.json stops at {stops}, the run was trained to stop at {missing}, too"
        return VerifyFinding("stops", "failed", text, f'set "eos_token_id": {sorted({*stops, *trained})}')
    return VerifyFinding("stops", "ok", f"answers end at {stops}")


def _run_stops(artefact: Artefact) -> list[int]:
    """Return the stop ids of the run's result; none if the run is unknown."""
    run = artefact.run
    if run is None or not (run.adapter.is_dir() or run.model.is_dir()):
        return []
    ids = run.read_json(run.result / "generation_config.json")["eos_token_id"]
    return ids if isinstance(ids, list) else [ids]


def check_saved_template(artefact: Artefact) -> VerifyFinding:
    """Compare the chat template with that of the run's tokenizer."""
    template = artefact.template()
    trained = None
    if artefact.run is not None:
        file = artefact.run.tokenizer / "chat_template.jinja"
        trained = file.read_text(encoding="utf-8") if file.is_file() else None
    if trained is None:
        return VerifyFinding("template", "skipped", "there is no template of a run to compare with")
    if template is None:
        return VerifyFinding("template", "failed", "chat_template.jinja is missing", AGAIN)
    if template != trained:
        lines = zip(template.splitlines(), trained.splitlines(), strict=False)
        number = next((at for at, (new, old) in enumerate(lines, 1) if new != old), None)
        place = "in its length" if number is None else f"in line {number}"
        return VerifyFinding("template", "failed", f"chat_template.jinja differs from the trained one {place}", AGAIN)
    return VerifyFinding("template", "ok", "identical to that of training")


def check_base(artefact: Artefact, tensors: dict[str, Tensor]) -> Iterator[VerifyFinding]:
    """Compare the base that an adapter names with the run, the record, and the shapes of its weights."""
    settings = artefact.read_json("adapter_config.json") or {}
    name = settings.get("base_model_name_or_path")
    if not name:
        yield VerifyFinding("base", "failed", "adapter_config.json names no base model", AGAIN)
        return
    path = Path(paths.resolve(name))
    config = read_config(artefact.run.config).model if artefact.run is not None else None
    local = Path(name).is_absolute() or name.startswith(".")
    if local and not path.is_dir():
        fix = f'set "base_model_name_or_path" in {artefact.directory}/adapter_config.json to its place'
        yield VerifyFinding("base", "failed", f"the base {name} is gone", fix)
        return
    if config is not None and config.revision and settings.get("revision") != config.revision:
        text = f"trained on revision {config.revision} of {name}, but adapter_config.json names another"
        yield VerifyFinding("base", "failed", text, f'set "revision": "{config.revision}" in adapter_config.json')
        return
    if (text := _wrong_weights(artefact, path)) or (text := _wrong_shape(path, tensors)):
        yield VerifyFinding("base", "failed", text, "name the base that the run was trained on")
        return
    yield VerifyFinding(
        "base", "ok", f"{name}" + (f", revision {config.revision}" if config and config.revision else "")
    )


def _wrong_weights(artefact: Artefact, base: Path) -> str:
    """Return a sentence if a weight file of a local base is not the one of the record."""
    record = read_record(artefact.directory)
    hashes = ((record or {}).get("base") or {}).get("sha256") or {}
    for file in sorted(base.glob(WEIGHTS)):
        if file.name in hashes and sha256_of_file(file) != hashes[file.name]:
            return f"{file.name} of the base is not the file that the adapter was trained on"
    return ""


def _wrong_shape(base: Path, tensors: dict[str, Tensor]) -> str:
    """Return a sentence if the LoRA matrices do not fit the weights of a local base."""
    weights = read_tensors(base)[0] if base.is_dir() else {}
    for name, tensor in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        weight = weights.get(f"{layer}.weight")
        if weight is not None and tensor.shape[1] not in weight.shape:
            return (
                f"the adapter is for another base: {layer} takes {weight.shape[1]} inputs, its LoRA {tensor.shape[1]}"
            )
    return ""
