"""Errors in the settings of the objective."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.errors import Mistakes, SftError

A, B = "data.mix.a.path=a.jsonl", "data.mix.b.path=b.jsonl"
REPLAYED = "data.mix.b.role=replay"


def errors_of(words) -> list[tuple[str, str, str]]:
    with pytest.raises(SftError) as caught:
        compose(words)
    errors = caught.value.errors if isinstance(caught.value, Mistakes) else [caught.value]
    return [(error.where, error.problem, error.fix) for error in errors]


MISTAKES = [
    (
        ["loss.neftune=5", "speed.share_prefixes=always"],
        "loss.neftune is 5, but speed.share_prefixes is always: examples that share tokens would share their noise",
        "set speed.share_prefixes=auto, or loss.neftune=0",
    ),
    (
        [A, B, "loss.replay=0.5"],
        "loss.replay is 0.5, but no source is replayed",
        "set data.mix.a.role=replay, or remove loss.replay",
    ),
    (
        [A, "data.mix.a.role=replay", "loss.replay=0.5"],
        "loss.replay is 0.5, but every source is replayed: there is nothing to add it to",
        "remove loss.replay",
    ),
    (
        [A, B, REPLAYED, "data.mix.b.loss_weight=0.2", "loss.replay=0.5"],
        "data.mix.b.loss_weight is 0.2, but with loss.replay it would have no effect: the loss of replayed tokens"
        " is a separate mean",
        "remove data.mix.b.loss_weight, or remove loss.replay",
    ),
    (["loss.label_smoothing=1"], "loss.label_smoothing is 1; it must be at least 0 and below 1",
     "did you mean loss.label_smoothing=1%?"),
    (["loss.kl=-0.1"], "loss.kl is -0.1; it must be at least 0", "did you mean loss.kl=0.1?"),
    (["loss.dft=1"], "loss.dft is 1; it must be true or false", "did you mean loss.dft=true?"),
    (["loss.zloss=1"], "there is no key loss.zloss", "did you mean loss.z_loss=1?"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "problem", "fix"), MISTAKES, ids=lambda value: str(value)[:60])
def test_conflicting_keys_are_errors(words, problem, fix):
    assert [(found, how) for _, found, how in errors_of(words)] == [(problem, fix)]


@pytest.mark.parametrize(
    "words",
    [
        ["loss.neftune=5"],
        ["loss.neftune=0", "speed.share_prefixes=always"],
        ["loss.replay=0.5"],
        [A, B, REPLAYED, "loss.replay=0"],
        [A, B, REPLAYED, "data.mix.b.loss_weight=0.2"],
        [A, B, "data.mix.c.path=c", REPLAYED, "data.mix.c.role=replay", "data.mix.c.loss_weight=2", "loss.replay=1"],
        ["loss.dft=true", "loss.label_smoothing=0.1", "loss.z_loss=1e-4", "loss.kl=0.1", "loss.router=0"],
    ],
    ids=lambda words: " ".join(words)[-50:],
)
def test_valid_keys_have_no_errors(words):
    loss = compose(words).loss
    assert loss is not None
