"""Values chosen for keys that are ``auto``; explicit values are kept."""

import math

import pytest

from sft_cli.config.automatic import epochs, examples_per_step, held_out_rows, resolve_auto
from sft_cli.config.compose import compose, read_config, with_overrides
from sft_cli.config.schema.adapter import AdapterKind
from sft_cli.config.schema.fields import Auto
from sft_cli.errors import SftError

MINE = ["data=local", "data.mix.a.path=x.jsonl"]


def test_batch_size_leaves_fifty_steps_per_epoch():
    """The batch size is the largest power of two within its bounds that leaves fifty steps per epoch."""
    sizes = {examples: examples_per_step(examples) for examples in range(1, 5000)}
    for examples, size in sizes.items():
        assert size in (4, 8, 16, 32, 64)
        assert size == 4 or math.ceil(examples / size) >= 50
        assert size == 64 or math.ceil(examples / (2 * size)) < 50
    assert list(sizes.values()) == sorted(sizes.values())
    assert (sizes[300], sizes[1000], sizes[3200]) == (4, 16, 64)


@pytest.mark.parametrize(
    ("examples", "kind", "passes"),
    [(30, "lora", 3), (9_999, "lora", 3), (10_000, "lora", 1), (1_000_000, "none", 3), (1_000_000, "dora", 1)],
)
def test_small_data_sets_train_for_several_epochs(examples, kind, passes):
    kind = AdapterKind.lora if kind == "dora" else AdapterKind(kind)
    assert epochs(examples, kind) == passes


@pytest.mark.parametrize(
    ("words", "rows", "held_out"),
    [
        ([], 39, 0),
        ([], 40, 8),
        ([], 300, 8),
        ([], 1000, 20),
        ([], 1_000_000, 500),
        (["data.val_fraction=0"], 1000, None),
        (["data.val_fraction=0.1"], 1000, None),
        (["data.val_fraction=auto"], 1000, 20),
        (["data.val_rows=7"], 1000, 7),
        (["data.mix.a.validation_path=y.jsonl"], 1000, 0),
        (["data.mix.b.path=z.jsonl", "data.mix.b.validation_split=test"], 1000, 0),
    ],
)
def test_number_of_held_out_rows(words, rows, held_out):
    assert held_out_rows(compose([*MINE, *words]).data, rows) == held_out


@pytest.mark.parametrize(
    ("words", "lr"),
    [
        ([], 2e-4),
        (["adapter=dora"], 2e-4),
        (["adapter=none"], 2e-5),
        (["adapter.kind=none"], 2e-5),
        (["adapter=none", "trainer=full"], 2e-5),
        (["adapter=ia3"], 1e-2),
        (["adapter=none", "trainer.lr=3e-4"], 3e-4),
        (["recipe=quickstart", "adapter=none"], 2e-3),
        (["recipe=quickstart", "adapter=none", "trainer.lr=auto"], 2e-5),
    ],
)
def test_learning_rate_defaults_to_that_of_the_method(words, lr):
    assert compose(words).trainer.lr == lr


@pytest.mark.parametrize(
    ("words", "epochs", "size"),
    [
        ([], 3, 4),
        (["trainer.epochs=1"], 1, 4),
        (["trainer.examples_per_step=32", "trainer.max_steps=7"], 3, 32),
        (["trainer.max_steps=7"], 3, 4),
        (["recipe=quickstart"], 2, 16),
        (["adapter=none", "trainer=full"], 3, 4),
    ],
)
def test_explicit_values_are_kept(words, epochs, size):
    config = resolve_auto(compose(words), 300)
    assert (config.trainer.epochs, config.trainer.examples_per_step) == (epochs, size)
    assert resolve_auto(config, 100_000) == config, "a run that is resumed keeps its numbers"


def test_micro_batch_fits_the_longest_example_unless_set(tmp_path):
    longer = "trainer.max_length=9000"
    for config in (compose([longer]), compose(["recipe=alpaca_lora", longer]), with_overrides(compose([]), [longer])):
        assert (config.trainer.max_length, config.speed.tokens_per_micro_batch) == (9000, Auto.auto)
    with pytest.raises(SftError, match="tokens_per_micro_batch is 4096, less"):
        compose([longer, "speed.tokens_per_micro_batch=4096"])
    file = tmp_path / "config.yaml"
    file.write_text("trainer: {max_length: 9000}\nspeed: {tokens_per_micro_batch: 8192}\n")
    with pytest.raises(SftError, match="tokens_per_micro_batch is 8192, less"):
        read_config(file)


@pytest.mark.parametrize("key", ["trainer.lr", "trainer.epochs", "trainer.examples_per_step", "data.val_fraction"])
def test_null_is_not_a_number(key):
    with pytest.raises(SftError, match=rf"{key} is null; it must be a (whole )?number, or auto"):
        compose([f"{key}=null"])
