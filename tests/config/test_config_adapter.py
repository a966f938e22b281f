"""Errors in adapter settings: conflicting keys, and keys that the chosen kind does not read."""

from pathlib import Path

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.schema.adapter import AdapterKind, Init
from sft_cli.errors import Mistakes, SftError

CHOICES = Path(__file__).parents[2] / "configs/adapter"


def errors_of(words) -> list[tuple[str, str]]:
    with pytest.raises(SftError) as caught:
        compose(words)
    errors = caught.value.errors if isinstance(caught.value, Mistakes) else [caught.value]
    return [(error.problem, error.fix) for error in errors]


@pytest.mark.parametrize(
    ("choice", "kind", "init"),
    [
        ("lora", AdapterKind.lora, Init.default),
        ("rslora", AdapterKind.lora, Init.default),
        ("dora", AdapterKind.lora, Init.default),
        ("loraplus", AdapterKind.lora, Init.default),
        ("pissa", AdapterKind.lora, Init.pissa),
        ("olora", AdapterKind.lora, Init.olora),
        ("eva", AdapterKind.lora, Init.eva),
        ("vera", AdapterKind.vera, Init.default),
        ("ia3", AdapterKind.ia3, Init.default),
        ("oft", AdapterKind.oft, Init.default),
        ("none", AdapterKind.none, Init.default),
    ],
)
def test_every_choice_composes(choice, kind, init):
    adapter = compose([f"adapter={choice}"]).adapter
    assert (adapter.kind, adapter.init) == (kind, init)
    assert adapter.rank_stabilized == (choice == "rslora")
    assert adapter.dora == (choice == "dora")
    assert adapter.lr_ratio == (16 if choice == "loraplus" else 1)


def test_loftq_requires_quantized_weights():
    assert compose(["adapter=loftq", "quant=nf4"]).adapter.init is Init.loftq


@pytest.mark.parametrize("file", sorted(CHOICES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_option_file_has_a_comment(file):
    first = file.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) <= 120
    assert "arXiv:" in first or file.stem == "none"


DORA_INIT = (
    "adapter.init is {init} with adapter.dora: DoRA's magnitudes need an update that starts at zero",
    "set adapter.init=default or eva, or adapter.dora=false",
)
MISTAKES = [
    (["adapter=dora", "adapter.init=pissa"], *(text.format(init="pissa") for text in DORA_INIT)),
    (["adapter=dora", "adapter.init=olora"], *(text.format(init="olora") for text in DORA_INIT)),
    (["adapter=loftq", "quant=nf4", "adapter.dora=true"], *(text.format(init="loftq") for text in DORA_INIT)),
    (
        ["adapter=loftq"],
        "adapter.init is loftq, which starts from the rounding error of 4-bit weights, but quant.kind is none",
        "set quant=nf4, or adapter.init=default",
    ),
    (
        ["adapter=loftq", "quant=int8"],
        "adapter.init is loftq, which starts from the rounding error of 4-bit weights, but quant.kind is int8",
        "set quant=nf4, or adapter.init=default",
    ),
    (
        ["adapter=eva", "adapter.rank_pattern={q_proj: 4}"],
        "adapter.rank_pattern is set with adapter.init eva, which gives layers with the same input equal ranks",
        "remove adapter.rank_pattern, or set adapter.init=default",
    ),
    (
        ["adapter=pissa", "adapter.start_from=runs/a"],
        "adapter.init is pissa, but the weights come from adapter.start_from",
        "remove one of them",
    ),
    (
        ["adapter=none", "adapter.start_from=runs/a"],
        "adapter.start_from names an adapter, but adapter.kind none trains the model itself",
        "model.path=DIR_OR_HUB_ID to start from, or choose adapter=lora",
    ),
    (
        ["adapter=vera", "adapter.frozen_adapters=[runs/a]"],
        "adapter.frozen_adapters is set with adapter.kind vera; only LoRA adapters can be summed",
        "choose adapter=lora, or merge the frozen adapters (sft merge RUN) and set model.path=RUN/merged",
    ),
    (
        ["adapter=dora", "adapter.frozen_adapters=[runs/a]"],
        "adapter.frozen_adapters is set with adapter.dora: DoRA's magnitudes belong to one update, not to a sum",
        "merge the frozen adapters (sft merge RUN) and set model.path=RUN/merged, or adapter.dora=false",
    ),
    (
        ["adapter.target_parameters=[experts.down_proj]", "adapter.dropout=0.1"],
        "adapter.dropout is 0.1 with adapter.target_parameters, whose update has no input to drop",
        "set adapter.dropout=0, or remove adapter.target_parameters",
    ),
    (
        ["adapter=pissa", "adapter.target_parameters=[experts.down_proj]"],
        "adapter.target_parameters is set with adapter.init pissa, which supports layers only",
        "set adapter.init=default, or remove adapter.target_parameters",
    ),
    (
        ["adapter=dora", "adapter.target_parameters=[experts.down_proj]"],
        "adapter.target_parameters is set with adapter.dora: PEFT supports DoRA for layers only",
        "set adapter.dora=false, or remove adapter.target_parameters",
    ),
    (
        ["adapter.frozen_adapters=[runs/a]", "adapter.target_parameters=[experts.down_proj]"],
        "adapter.target_parameters is set with adapter.frozen_adapters, which supports layers only",
        "remove one of them, or merge the frozen adapters: sft merge RUN",
    ),
    (
        ["adapter.target_modules=[]"],
        "adapter.target_modules is empty: there would be nothing to train",
        "write adapter.target_modules=[all-linear], or names such as [q_proj,v_proj]",
    ),
    (
        ["adapter.target_modules=[all-linear,lm_head]"],
        "adapter.target_modules names all-linear and lm_head; all-linear must be the only entry",
        "write [all-linear] or the names of all layers; to train the head, set adapter.modules_to_save=[lm_head]",
    ),
    (
        ["adapter.rank_pattern={q_proj: 0}"],
        "adapter.rank_pattern gives 'q_proj' 0; it must be at least 1",
        "write a number that is at least 1",
    ),
    (
        ["adapter.alpha_pattern={q_proj: 0.0}"],
        "adapter.alpha_pattern gives 'q_proj' 0; it must be above 0",
        "write a number that is above 0",
    ),
    (
        ["adapter=none", "adapter.train=['layers(']"],
        "adapter.train: 'layers(' is not a regular expression: missing ), unterminated subpattern at position 6",
        r"write one such as 'layers\.[0-3]\.', in quotes",
    ),
    (
        ["adapter.kind=bitfit", "quant=nf4"],
        "quant.kind is nf4 with adapter.kind bitfit, which saves the whole model, but quantized weights cannot be saved"
        " as one",
        "choose adapter=lora, or quant=none",
    ),
    (
        ["adapter=ia3", "adapter.train_stop_token=always"],
        "adapter.train_stop_token is always with adapter.kind ia3: only LoRA can train single rows",
        "set adapter.train_stop_token=auto, or choose adapter=lora",
    ),
    (
        ["adapter=ia3", "adapter.rank=8"],
        "adapter.rank would have no effect: only LoRA reads it",
        "choose adapter=lora, or remove adapter.rank",
    ),
    (
        ["adapter=vera", "adapter.dora=true"],
        "adapter.dora would have no effect: only LoRA reads it",
        "choose adapter=lora, or remove adapter.dora",
    ),
    (
        ["adapter=oft", "adapter.lr_ratio=16"],
        "adapter.lr_ratio would have no effect: only LoRA reads it",
        "choose adapter=lora, or remove adapter.lr_ratio",
    ),
    (
        ["adapter=oft", "adapter.dropout=0.1"],
        "adapter.dropout would have no effect: only LoRA and VeRA read it",
        "choose adapter=lora, or remove adapter.dropout",
    ),
    (
        ["adapter.vera.rank=8"],
        "adapter.vera.rank would have no effect: only VeRA reads it",
        "choose adapter=vera, or remove adapter.vera.rank",
    ),
    (
        ["adapter.oft.block_size=8"],
        "adapter.oft.block_size would have no effect: only OFT reads it",
        "choose adapter=oft, or remove adapter.oft.block_size",
    ),
    (
        ["adapter.virtual.tokens=8"],
        "adapter.virtual.tokens would have no effect: only prefix, prompt and llama_adapter read it",
        "choose adapter=prefix, or remove adapter.virtual.tokens",
    ),
    (
        ["adapter.kind=prefix", "adapter.target_modules=[q_proj]"],
        "adapter.target_modules would have no effect: this adapter kind is not attached to layers",
        "choose adapter=lora, or remove adapter.target_modules",
    ),
    (
        ["adapter.freeze=[embed_tokens]"],
        "adapter.freeze would have no effect: only full fine-tuning trains the base's own weights",
        "choose adapter=none, or remove adapter.freeze",
    ),
    (
        ["quant=int8", "quant.double_quant=false"],
        "quant.double_quant would have no effect: only 4-bit storage reads it",
        "choose quant=nf4, or remove quant.double_quant",
    ),
]


@pytest.mark.parametrize(("words", "problem", "fix"), MISTAKES, ids=lambda value: "-".join(value)[:60])
def test_error_message(words, problem, fix):
    assert (problem, fix) in errors_of(words)


def test_rank_pattern_in_a_file_takes_regular_expressions(tmp_path):
    """The command line accepts plain names only: Hydra reads no quoted keys there."""
    file = tmp_path / "mine.yaml"
    file.write_text("adapter:\n  rank_pattern: {'.*layers\\.[0-3]\\..*': 4, q_proj: 8}\n")
    adapter = compose([f"recipe={file}"]).adapter
    assert adapter.rank_pattern == {r".*layers\.[0-3]\..*": 4, "q_proj": 8}
