"""The evaluated model: of a run, or a model that no run belongs to. What follows does not know which."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.paths import resolve
from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.utils.hashing import blake2b_of_file, json_digest, model_digest

ModelLabel = Literal["tuned", "base", "model"]
"""The trained model, its base, or a model without a base."""


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A model to evaluate: where its parts are, and where its results go.

    Attributes:
        name: The directory or the hub id of the adapter or the whole model.
        whole: The weights of a whole model; None for an adapter.
        adapter: Directory of the adapter; None for a whole model.
        base: The weights before training; None if they are unknown.
        full: Whether all weights were trained: they are loaded as in training.
        added_ids: Ids of tokens that training added to the vocabulary of the base.
        tokenizer: Directory of the tokenizer with the template, as served.
        stop_ids: Tokens that end an answer.
        origin: What identifies the weights besides the files in ``name``: base, revision and quantization.
        results: Directory of the results.
    """

    name: str
    whole: ModelConfig | None
    adapter: Path | None
    base: ModelConfig | None
    full: bool
    added_ids: tuple[int, ...]
    tokenizer: Path
    stop_ids: tuple[int, ...]
    origin: dict[str, Any]
    results: Path

    @property
    def label(self) -> ModelLabel:
        """The label of the model in tables and results."""
        return "model" if self.base is None else "tuned"

    @property
    def architecture(self) -> ModelConfig:
        """The model whose config.json states the architecture."""
        found = self.base or self.whole
        assert found is not None
        return found

    def record(self, label: ModelLabel) -> dict[str, str]:
        """Return what identifies the model, or its base: a label, and a digest of weights, or of a revision."""
        name = self.architecture.path if label == "base" else self.name
        return {"label": label, "weights": model_digest(Path(resolve(name or "")), self.origin)}

    def tokenizer_digest(self) -> str:
        """Return the digest of the files of the tokenizer, among which is the template."""
        files = [file for file in sorted(self.tokenizer.rglob("*")) if file.is_file()]
        return json_digest([[file.name, blake2b_of_file(file)] for file in files])


def evaluated_run(run: RunDir, config: Config) -> EvaluatedModel:
    """Return the model of a run.

    Args:
        run: The run.
        config: Its config, in which ``model.path`` names the base.

    Raises:
        SftError: The run has not finished, or its result has no stop token.
    """
    whole = config.adapter.kind in WHOLE
    # A whole model has the trained embeddings of added tokens.
    weights = replace(config.model, path=str(run.result), revision=None) if whole else None
    tokens = added_ids(load_tokenizer(str(run.result)), config.model.add_tokens)
    return EvaluatedModel(
        name=str(run.result),
        whole=weights,
        adapter=None if whole else run.result,
        base=config.model,
        full=whole,
        added_ids=tuple(tokens),
        tokenizer=run.tokenizer,
        stop_ids=tuple(read_stop_ids(run.result)),
        origin={
            "base": config.model.path,
            "revision": config.model.revision,
            "quant": config.quant.kind.value,
        },
        results=run.eval,
    )


def read_stop_ids(directory: Path) -> list[int]:
    """Read the tokens that end an answer from the generation config of an adapter or model.

    Raises:
        SftError: There is no stop token.
    """
    file = directory / "generation_config.json"
    stop_ids = stop_ids_of(file)
    if not stop_ids:
        raise SftError(
            where=str(file),
            problem="it contains no stop token (eos_token_id)",
            fix='add the ids of the stop tokens to it: "eos_token_id": [ID, ID]',
        )
    return stop_ids


def stop_ids_of(file: Path) -> list[int]:
    """Return the ids of ``eos_token_id`` in a generation_config.json or config.json; none without it."""
    value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    found: Sequence[int] = [value] if isinstance(value, int) else value or []
    return list(found)
