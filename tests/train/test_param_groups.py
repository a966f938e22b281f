"""Learning rates and weight decay of parameters."""

import pytest
import torch

from sft_cli.config.schema.adapter import AdapterConfig, TrainStopToken
from sft_cli.config.schema.trainer import OptimizerName, Schedule, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.head.loss_model import build_loss_model
from sft_cli.train.optimizers.lr_schedule import make_lr_schedule, planned_length
from sft_cli.train.optimizers.optimizers import make_optimizer
from sft_cli.train.optimizers.param_groups import base_parameter_names, is_matrix, parameter_groups
from tests.train.optimizer_helpers import Toy, make_state, train


def groups(model, adapter: AdapterConfig | None = None, **settings) -> dict[str, tuple[float, float, list[str]]]:
    """Return learning rate, weight decay and names of each group, in order, with lr 1 and weight decay 0.1."""
    names = {id(p): name for name, p in base_parameter_names(model).items()}
    result = parameter_groups(model, TrainerConfig(lr=1.0, weight_decay=0.1, **settings), adapter or AdapterConfig())
    return {g["name"]: (g["lr"], g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in result}


@pytest.fixture(scope="module")
def tuned(base):
    """The tiny Llama with LoRA on q_proj, inside its loss model."""
    from transformers import AutoModelForCausalLM

    config = AdapterConfig(rank=2, target_modules=["q_proj"], train_stop_token=TrainStopToken.never)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return build_loss_model(add_adapter(model, config, [2], seed=0).model, 64)[0]


def test_vectors_are_not_decayed():
    assert groups(Toy()) == {
        "matrices": (1.0, 0.1, ["embed_tokens.weight", "up_proj.weight", "down_proj.weight"]),
        "vectors": (1.0, 0.0, ["up_proj.bias", "norm.weight", "norm.bias"]),
    }


@pytest.mark.parametrize(
    ("shape", "matrix"), [((3,), False), ((3, 1), False), ((1, 3), False), ((2, 3), True), ((4, 2, 3), True)]
)
def test_a_row_or_column_is_a_vector(shape, matrix):
    assert is_matrix(torch.zeros(shape)) is matrix


def test_the_first_pattern_wins_and_full_rates_come_first():
    result = groups(Toy(), lr_factors={"up_proj.weight": 0.5, "up_proj|embed": 0.1})

    assert list(result.items()) == [
        ("matrices", (1.0, 0.1, ["down_proj.weight"])),
        ("vectors", (1.0, 0.0, ["norm.weight", "norm.bias"])),
        ("matrices x 0.1", (0.1, 0.1, ["embed_tokens.weight"])),
        ("matrices x 0.5", (0.5, 0.1, ["up_proj.weight"])),
        ("vectors x 0.1", (0.1, 0.0, ["up_proj.bias"])),
    ]


def test_lora_plus_multiplies_the_rate_of_b(tuned):
    result = groups(tuned, AdapterConfig(lr_ratio=16.0), lr_factors={r"layers\.1\.": 0.5})

    layer = "model.layers.{}.self_attn.q_proj.lora_{}.default.weight".format
    assert {name: (rate, names) for name, (rate, _, names) in result.items()} == {
        "matrices": (1.0, [layer(0, "A")]),
        "matrices x 0.5": (0.5, [layer(1, "A")]),
        "matrices x 8": (8.0, [layer(1, "B")]),
        "matrices x 16": (16.0, [layer(0, "B")]),
    }


@pytest.mark.parametrize("optimizer", [OptimizerName.adamw, OptimizerName.lion, OptimizerName.adafactor])
def test_lr_factor_scales_the_step(optimizer):
    """Half the learning rate gives half the step."""
    whole, half = (
        make_state(TrainerConfig(optimizer=optimizer, lr=1e-4, lr_factors={"down_proj": factor}, weight_decay=0.0))
        for factor in (1.0, 0.5)
    )
    before = whole.model.state_dict()["down_proj.weight"].clone()
    for state in (whole, half):
        train(state, 0, 1)

    moved = [state.model.state_dict()["down_proj.weight"] - before for state in (whole, half)]
    assert torch.allclose(moved[0] * 0.5, moved[1], atol=1e-8)
    assert torch.equal(*(state.model.state_dict()["up_proj.weight"] for state in (whole, half)))


@pytest.mark.parametrize("schedule", Schedule)
def test_every_schedule_keeps_the_ratio_of_the_groups(schedule):
    config = TrainerConfig(lr=0.2, schedule=schedule, lr_factors={"embed": 0.25}, warmup_ratio=0.2)
    optimizer = make_optimizer(Toy(), config, AdapterConfig())
    course = make_lr_schedule(optimizer, config, planned_length(config, 5))
    names = [group["name"] for group in optimizer.param_groups]
    for _ in range(5):
        rates = dict(zip(names, course.get_last_lr(), strict=True))
        assert rates["matrices x 0.25"] == pytest.approx(rates["matrices"] / 4)
        optimizer.step()
        course.step()


@pytest.mark.parametrize(
    ("factors", "where", "problem", "fix"),
    [
        (
            {"up_prjo": 0.1},
            "trainer.lr_factors.up_prjo",
            "it matches no parameter name",
            "did you mean up_proj? trained parameters: bias, down_proj, embed_tokens, norm, up_proj, weight",
        ),
        (
            {"[0-9]": 0.1},
            "trainer.lr_factors.[0-9]",
            "it matches no parameter name",
            "trained parameters: bias, down_proj, embed_tokens, norm, up_proj, weight",
        ),
        (
            {"proj": 0.1, "up_proj": 0.5},
            "trainer.lr_factors.up_proj",
            "every trained parameter it matches (up_proj.weight, …) is matched by an earlier pattern",
            "move it before the more general pattern, or remove it",
        ),
    ],
)
def test_a_pattern_without_effect_is_refused(factors, where, problem, fix):
    with pytest.raises(SftError) as refused:
        groups(Toy(), lr_factors=factors)

    assert (refused.value.where, refused.value.problem, refused.value.fix) == (where, problem, fix)


def test_a_pattern_of_frozen_parameters_is_refused(tuned):
    with pytest.raises(SftError) as refused:
        groups(tuned, lr_factors={"embed_tokens": 0.1})

    assert str(refused.value) == (
        "trainer.lr_factors.embed_tokens: it matches only parameters that are not trained (model.embed_tokens.weight)\n"
        "  fix: adapter=none, which trains them, or remove trainer.lr_factors.embed_tokens"
    )


def test_muon_leaves_the_head_of_a_real_model_to_adamw(base):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    result = groups(model, optimizer=OptimizerName.muon)

    assert result["matrices"][2] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert len(result["hidden"][2]) == 2 * 7
    assert all("norm" in name for name in result["vectors"][2])
