"""Keys of ``trainer``: conflicts, keys without effect, and names in other tools."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.paths import absolute
from sft_cli.config.rules.check import check_required
from sft_cli.errors import SftError


@pytest.mark.parametrize(
    ("words", "problem", "fix"),
    [
        (
            ["trainer.optimizer=muon"],
            "trainer.optimizer is muon with adapter=lora: Muon trains the weight matrices of the model itself",
            "set trainer.optimizer=adamw, or choose adapter=none",
        ),
        (
            ["trainer.schedule=wsd", "trainer.warmup_ratio=0.3", "trainer.decay_ratio=0.8"],
            "trainer.warmup_ratio and trainer.decay_ratio are 0.3 and 0.8, together more than all steps",
            "set trainer.decay_ratio=0.7 or less",
        ),
        (
            ["trainer.schedule=inverse_sqrt", "trainer.warmup_ratio=0"],
            "trainer.warmup_ratio is 0, but trainer.schedule is inverse_sqrt, which falls in units of the warm-up",
            "set trainer.warmup_ratio=0.03, or trainer.schedule=cosine",
        ),
        (
            ["trainer.optimizer=lion", "trainer.lion_betas=[0.9,1]"],
            "trainer.lion_betas.1 is 1.0; it must be at least 0 and below 1",
            "write two numbers of at least 0 and below 1, or remove trainer.lion_betas",
        ),
        (
            ["trainer.lr_factors={embed_tokens: -1}"],
            "trainer.lr_factors.embed_tokens is -1; a factor on the learning rate must be above 0",
            "write 0.1, or 10",
        ),
        (
            ["trainer.lr_factors.embed_tokens=0"],
            "trainer.lr_factors.embed_tokens is 0; a factor on the learning rate must be above 0",
            "remove it, and freeze those parameters (adapter.freeze)",
        ),
        (
            ["trainer.lr_factors.embed_tokens=low"],
            "trainer.lr_factors.embed_tokens is 'low'; it must be a number",
            "write a number, or remove trainer.lr_factors.embed_tokens",
        ),
        (
            ["trainer.lr_factors=0.1"],
            "trainer.lr_factors is 0.1; it maps names to values",
            "write 'trainer.lr_factors={name: value}'",
        ),
        (
            ["speed.gradient_checkpointing=layers"],
            "speed.gradient_checkpointing is layers, but speed.checkpointed_layers is not set",
            "set speed.checkpointed_layers=8, or speed.gradient_checkpointing=auto",
        ),
        (
            ["trainer.device=cpu", "speed.kernels=always"],
            "speed.kernels is always, but trainer.device is cpu, and the kernels are for CUDA",
            "set speed.kernels=auto or trainer.device=cuda",
        ),
        (
            ["trainer.retention.stop=true"],
            "trainer.retention.stop is true, but there are no probes",
            "add trainer.retention.probes.NAME.path=FILE",
        ),
        (
            ["trainer.retention.probes.math.max_drop=0.1"],
            "trainer.retention.probes.math has no path",
            "add trainer.retention.probes.math.path=FILE",
        ),
        (
            ["trainer.retention.probes.math.pth=a.jsonl"],
            "there is no key trainer.retention.probes.math.pth",
            "did you mean trainer.retention.probes.math.path=a.jsonl?",
        ),
        (
            ["trainer.retention.probes.math.path=https://me:pass@host/rows.jsonl"],
            "trainer.retention.probes.math.path is 'https://***@host/rows.jsonl', with a user or password in it, which"
            " a run directory must not hold",
            "remove it, and write `machine HOST login USER password PASSWORD` into ~/.netrc",
        ),
    ],
)
def test_conflicting_keys_are_errors(words, problem, fix):
    with pytest.raises(SftError) as refused:
        compose(words)

    assert (refused.value.problem, refused.value.fix) == (problem, fix)


def test_invalid_pattern_is_reported(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("# @package _global_\ntrainer:\n  lr_factors:\n    'embed(': 0.1\n")

    with pytest.raises(SftError) as refused:
        compose([f"recipe={recipe}"])

    assert refused.value.problem == (
        "trainer.lr_factors.embed(: 'embed(' is not a regular expression: missing ), unterminated subpattern at"
        " position 5"
    )
    assert refused.value.fix == "write a part of parameter names, such as embed_tokens or layers\\.[0-3]\\."


@pytest.mark.parametrize(
    ("words", "key", "why", "fix"),
    [
        (
            ["trainer.decay_ratio=0.1"],
            "trainer.decay_ratio",
            "only the schedule wsd reads it",
            "set trainer.schedule=wsd",
        ),
        (
            ["trainer.min_lr_ratio=0.2"],
            "trainer.min_lr_ratio",
            "only the schedules cosine_with_min_lr, polynomial and wsd read it",
            "set trainer.schedule=cosine_with_min_lr, polynomial or wsd",
        ),
        (
            ["trainer.average=last", "trainer.ema_decay=0.9"],
            "trainer.ema_decay",
            "only trainer.average=ema reads it",
            "set trainer.average=ema",
        ),
        (
            ["trainer.average=ema", "trainer.average_last=3"],
            "trainer.average_last",
            "only trainer.average=last reads it",
            "set trainer.average=last",
        ),
        (
            ["trainer.optimizer=adafactor", "trainer.betas=[0.9,0.95]"],
            "trainer.betas",
            "only AdamW reads them",
            "set trainer.optimizer=adamw, or trainer.lion_betas for lion",
        ),
        (
            ["trainer.lion_betas=[0.9,0.95]"],
            "trainer.lion_betas",
            "only Lion reads them",
            "set trainer.optimizer=lion, or trainer.betas for AdamW",
        ),
        (
            ["speed.checkpointed_layers=4"],
            "speed.checkpointed_layers",
            "only speed.gradient_checkpointing=layers reads it",
            "set speed.gradient_checkpointing=layers",
        ),
        (
            ["trainer.retention.every=4"],
            "trainer.retention.every",
            "there are no probes",
            "add trainer.retention.probes.NAME.path=FILE",
        ),
        (
            ["trainer.device=cuda", "speed.threads=4"],
            "speed.threads",
            "only runs on a CPU read it",
            "set trainer.device=cpu",
        ),
    ],
)
def test_keys_without_effect_are_errors(words, key, why, fix):
    with pytest.raises(SftError) as refused:
        compose(words)

    assert refused.value.problem == f"{key} would have no effect: {why}"
    assert refused.value.fix == f"{fix}, or remove {key}"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trainer.optimizer=adamw_torch", "adamw"),
        ("trainer.optimizer=adamw_torch_fused", "adamw"),
        ("trainer.optimizer=adamw_bnb_8bit", "adamw_8bit"),
        ("trainer.optimizer=paged_adamw_32bit", "paged_adamw_8bit"),
        ("trainer.optimizer=lion_8bit", "lion"),
        ("trainer.optimizer=galore_adamw", "adamw_8bit or adafactor"),
        ("trainer.optimizer=adamwe", "adamw"),
        ("trainer.schedule=warmup_stable_decay", "wsd"),
        ("trainer.schedule=constant_with_warmup", "constant"),
        ("speed.gradient_checkpointing=true", "auto or full"),
        ("speed.gradient_checkpointing=false", "none"),
        ("speed.gradient_checkpointing=unsloth", "offload"),
        ("speed.kernels=true", "auto or always"),
        ("trainer.dtype=bf16", "bfloat16"),
    ],
)
def test_values_of_other_tools_get_a_suggestion(word, meant):
    with pytest.raises(SftError) as refused:
        compose([word])

    choices = [f"{word.partition('=')[0]}={name}" for name in meant.split(" or ")]
    assert refused.value.fix.startswith(f"did you mean {' or '.join(choices)}? choose one of ")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("loraplus_lr_ratio=16", "adapter.lr_ratio"),
        ("trainer.lr_scheduler_kwargs=0.1", "trainer.min_lr_ratio"),
        ("use_liger_kernel=true", "speed.kernels"),
        ("trainer.load_best_model_at_end=true", "trainer.keep_best"),
    ],
)
def test_keys_of_other_tools(word, meant):
    with pytest.raises(SftError) as refused:
        compose([word])

    assert refused.value.fix.startswith(f"here it is called {meant}: write {meant}=")


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "adafactor", "lion"])
def test_cpu_supports_every_optimizer_but_the_paged_one(optimizer):
    check_required(compose(["recipe=quickstart", "trainer.device=cpu", f"trainer.optimizer={optimizer}"]))


def test_paged_state_needs_cuda():
    with pytest.raises(SftError) as refused:
        check_required(compose(["recipe=quickstart", "trainer.device=cpu", "trainer.optimizer=paged_adamw_8bit"]))

    assert refused.value.problem == (
        "trainer.optimizer is paged_adamw_8bit, which needs CUDA, but trainer.device is cpu"
    )
    assert refused.value.fix == "set trainer.optimizer=adamw_8bit, or adamw, which is much faster on a CPU"


def test_paths_of_probes_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("")
    config = absolute(compose(["trainer.retention.probes.math.path=rows.jsonl"]))

    assert config.trainer.retention.probes["math"].path == str(tmp_path / "rows.jsonl")


def test_valid_keys_have_no_errors():
    config = compose(
        [
            "adapter=none",
            "trainer.optimizer=muon",
            "trainer.betas=[0.9,0.95]",
            "trainer.schedule=wsd",
            "trainer.decay_ratio=0.5",
            "trainer.min_lr_ratio=0",
            "trainer.average=last",
            "trainer.average_last=3",
            "trainer.lr_factors={embed_tokens: 0.1, lm_head: 10%}",
            "trainer.retention.probes.math.path=rows.jsonl",
            "trainer.retention.every=5",
            "trainer.retention.stop=true",
        ]
    )

    assert list(config.trainer.lr_factors.items()) == [("embed_tokens", 0.1), ("lm_head", 0.1)]
