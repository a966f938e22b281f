"""Members before they run: names, checks of all members, and shared prepared data."""

import pytest

from sft_cli.errors import Mistakes, SftError
from sft_cli.sweep.plan import plan_sweep, short_names

QUICK = "recipe=quickstart"


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["trainer.lr", "adapter"], ["lr", "adapter"]),
        (["data.mix.a.weight", "data.mix.b.weight"], ["a.weight", "b.weight"]),
        (["adapter.rank", "rank"], ["adapter.rank", "rank"]),
        (["trainer.lr"], ["lr"]),
    ],
)
def test_short_name_of_a_key_is_its_shortest_unique_ending(keys, names):
    assert short_names(keys) == names


def test_members_are_numbered_and_named_by_their_values():
    found = plan_sweep([QUICK, "trainer.lr=1e-3,2e-3", "adapter.target_modules=[q_proj,v_proj],[all-linear]"])

    assert [member.name for member in found.members] == [
        "001-lr=1e-3_target_modules=q_proj-v_proj",
        "002-lr=1e-3_target_modules=all-linear",
        "003-lr=2e-3_target_modules=q_proj-v_proj",
        "004-lr=2e-3_target_modules=all-linear",
    ]
    assert [config.trainer.lr for config in found.configs] == [1e-3, 1e-3, 2e-3, 2e-3]
    assert found.configs[1].adapter.target_modules == ["all-linear"]


def test_member_name_is_one_short_path_component():
    """Values with a slash, two dots, a line break or a thousand characters."""
    found = plan_sweep([QUICK, f"template.input_separator='../../x','a\nb','{'y' * 1000}'"])
    assert [member.name for member in found.members] == [
        "001-input_separator=..-..-x",
        "002-input_separator=a-b",
        f"003-input_separator={'y' * 24}",
    ]


def test_members_with_equal_data_settings_share_prepared_data():
    found = plan_sweep([QUICK, "trainer.lr=1e-3,2e-3", "trainer.max_length=128,256", "adapter.rank=4,8"])
    assert [config.trainer.max_length for config in found.distinct_data()] == [128, 256]


def test_mistakes_of_members_are_reported_once():
    with pytest.raises(Mistakes) as caught:
        plan_sweep([QUICK, "trainer.lr=1e-3,abc,-1", "trainer.lrr=3", "adapter.rank=4,8"])
    assert [str(error) for error in caught.value.errors] == [
        "command line: there is no key trainer.lrr\n  fix: did you mean trainer.lr=3?",
        "command line: trainer.lr is 'abc'; it must be a number, or auto\n  fix: write a number above 0,"
        " or remove trainer.lr (default: auto)",
        "command line: trainer.lr is -1; it must be above 0\n  fix: did you mean trainer.lr=1?",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(
            ["trainer.lr=1e-3,0.001"],
            "command line: two members would train the same: trainer.lr=1e-3, and trainer.lr=0.001\n"
            "  fix: remove trainer.lr=0.001",
            id="the-same-twice",
        ),
        pytest.param(
            ["trainer.lr=1,2", "run_dir=x"],
            "run_dir: each member of a sweep has its own directory\n"
            "  fix: remove run_dir; --out DIR is the sweep's directory",
            id="run-dir",
        ),
        pytest.param(
            ["trainer.max_length=128,256", "prepared_dir=x"],
            "prepared_dir: the members need different prepared data, but one directory holds only one data set\n"
            "  fix: remove prepared_dir: each data set is then stored under its fingerprint",
            id="prepared-dir",
        ),
        pytest.param(
            ["launcher=local,slurm"],
            "command line: some members would run in this shell and some as SLURM jobs\n"
            "  fix: choose launcher=local or launcher=slurm for all",
            id="two-launchers",
        ),
        pytest.param(
            ["launcher=slurm", "launcher.cpus=1,2"],
            "command line: launcher.cpus would differ between the jobs of one array\n"
            "  fix: one value for a sweep: launcher.cpus=1",
            id="unlike-jobs",
        ),
        pytest.param(
            ["trainer.lr=1,2", "data.mix.quickstart.validation_path=null", "data.val_fraction=0", "trainer.patience=2"],
            "trainer.patience: trainer.patience is set, but no rows are held out to evaluate\n"
            "  fix: set data.val_fraction=0.05, or a source's validation_path",
            id="what-only-train-needs",
        ),
    ],
)
def test_errors_in_combinations_of_members(words, sentence):
    extra = ["eval.compare_after_training=false"] if "trainer.patience=2" in words else []
    with pytest.raises(SftError) as caught:
        plan_sweep([QUICK, *words, *extra])
    assert str(caught.value) == sentence
