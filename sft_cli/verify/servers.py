"""What servers refuse or change, from the files alone."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
from safetensors import safe_open

from sft_cli.export.gguf_family import FAMILIES
from sft_cli.verify.artefact import Artefact
from sft_cli.verify.finding import VerifyFinding

Server = Literal["transformers", "vllm", "tgi", "llama.cpp", "ollama"]
SERVERS: tuple[Server, ...] = get_args(Server)
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's ``--max-lora-rank``."""
VLLM_DEFAULT_RANK = 16
ADAPTER_PARTS = {
    "modules_to_save": "whole modules (modules_to_save)",
    "trainable_token_indices": "trained token rows (trainable_token_indices)",
    "use_dora": "DoRA magnitudes",
    "alora_invocation_tokens": "an activated LoRA",
}
"""Settings of adapter_config.json for tensors that plain LoRA does not have."""
PORTABLE_PARTS = ("modules_to_save", "trainable_token_indices")


def check_server(artefact: Artefact, server: Server) -> Iterator[VerifyFinding]:
    """Yield what a server would refuse or change."""
    checks: dict[Server, Callable[[Artefact], Iterator[VerifyFinding]]] = {
        "transformers": _check_transformers,
        "vllm": _check_vllm,
        "tgi": _check_tgi,
        "llama.cpp": _check_llama_cpp,
        "ollama": _check_llama_cpp,
    }
    found = list(checks[server](artefact))
    for finding in found:
        yield VerifyFinding(server, finding.status, finding.text, finding.fix)
    if not found:
        yield VerifyFinding(server, "ok", "nothing in the files that it refuses")


def _refused(text: str, fix: str) -> VerifyFinding:
    return VerifyFinding("", "refused", text, fix)


def _extra_parts(artefact: Artefact, server: str) -> Iterator[VerifyFinding]:
    """Yield a refusal for each part of an adapter that is not plain LoRA."""
    settings = artefact.read_json("adapter_config.json") or {}
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        yield _refused(f"{server} loads LoRA adapters only, not {kind}: merge first", artefact.merge_fix)
        return
    for name, words in ADAPTER_PARTS.items():
        if settings.get(name):
            portable = f", or {artefact.export_fix('adapter')} --portable" if name in PORTABLE_PARTS else ""
            text = f"{server} refuses an adapter with {words}: merge first"
            yield _refused(text, artefact.merge_fix + portable)
    if settings.get("bias", "none") != "none" or settings.get("lora_bias"):
        yield _refused(f"{server} refuses an adapter with biases: merge first", artefact.merge_fix)


def largest_rank(artefact: Artefact) -> int:
    """Return the largest rank of an adapter."""
    settings = artefact.read_json("adapter_config.json") or {}
    return max([settings.get("r") or 0, *(settings.get("rank_pattern") or {}).values()])


def _check_transformers(artefact: Artefact) -> Iterator[VerifyFinding]:
    if artefact.kind == "gguf":
        yield _refused("transformers serves no GGUF file: export the model", artefact.merge_fix)
    elif artefact.kind == "adapter":
        yield VerifyFinding(
            "",
            "note",
            "`transformers serve` takes no adapter directory, PeftModel does: merge first to serve it",
            artefact.merge_fix,
        )


def _check_vllm(artefact: Artefact) -> Iterator[VerifyFinding]:
    if artefact.kind == "gguf":
        yield VerifyFinding("", "note", "vLLM's support of GGUF is experimental: export the model", artefact.merge_fix)
        return
    if artefact.kind == "model":
        yield from _check_head(artefact)
        return
    yield from _extra_parts(artefact, "vLLM")
    rank = largest_rank(artefact)
    if rank > VLLM_RANKS[-1]:
        yield _refused(f"vLLM loads ranks up to {VLLM_RANKS[-1]}, not {rank}: merge first", artefact.merge_fix)
    elif rank > VLLM_DEFAULT_RANK:
        limit = next(value for value in VLLM_RANKS if value >= rank)
        yield VerifyFinding(
            "", "note", f"rank {rank} is above vLLM's default of 16", f"vllm serve … --max-lora-rank {limit}"
        )
    targets = (artefact.read_json("adapter_config.json") or {}).get("target_modules") or []
    if isinstance(targets, list) and set(targets) & {"lm_head", "embed_tokens"}:
        text = "vLLM computes a LoRA on the embedding or the head for some models only: merge first"
        yield _refused(text, artefact.merge_fix)


def _check_head(artefact: Artefact) -> Iterator[VerifyFinding]:
    """Yield a refusal if config.json ties head and embedding, but the file has two different matrices."""
    config = artefact.read_json("config.json") or {}
    tied = config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings"))
    if not tied:
        return
    found = {}
    for file in sorted(artefact.directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no mapping
                if name == "lm_head.weight" or name.endswith("embed_tokens.weight"):
                    found[name.split(".")[-2]] = tensors.get_tensor(name).float().numpy()
    if len(found) == 2 and not np.array_equal(found["lm_head"], found["embed_tokens"]):
        text = "config.json ties the head to the embedding, but the head has its own weights, which vLLM ignores"
        yield _refused(text, 'set "tie_word_embeddings": false in config.json')


def _check_tgi(artefact: Artefact) -> Iterator[VerifyFinding]:
    if artefact.kind == "gguf":
        yield _refused("TGI loads no GGUF file: export the model", artefact.merge_fix)
    elif artefact.kind == "adapter":
        yield from _extra_parts(artefact, "TGI")


def _check_llama_cpp(artefact: Artefact) -> Iterator[VerifyFinding]:
    """Yield refusals of llama.cpp, which Ollama uses: it loads GGUF files only."""
    if artefact.kind == "gguf":
        return
    if artefact.kind == "adapter":
        settings = artefact.read_json("adapter_config.json") or {}
        rows = [words for name, words in ADAPTER_PARTS.items() if settings.get(name)]
        reason = f"; a GGUF adapter cannot have {rows[0]}" if rows else ""
        yield _refused(f"it loads GGUF files: convert{reason}", artefact.export_fix("gguf"))
        return
    kind = (artefact.read_json("config.json") or {}).get("model_type")
    known = "" if kind in FAMILIES else " --converter PATH/convert_hf_to_gguf.py"
    yield _refused("it loads GGUF files: convert", artefact.export_fix("gguf") + known)
