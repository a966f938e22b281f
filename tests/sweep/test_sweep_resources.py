"""Share of each parallel member in the machine's resources."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.errors import SftError
from sft_cli.sweep.resources import member_environments, split_resources


@pytest.mark.parametrize(
    ("parallel", "cards", "cores", "given", "found"),
    [
        pytest.param(1, ["0", "1"], 8, {}, [{}], id="alone-sees-everything"),
        pytest.param(2, [], 8, {}, [{"OMP_NUM_THREADS": "4"}] * 2, id="cores-are-shared"),
        pytest.param(3, [], 2, {}, [{"OMP_NUM_THREADS": "1"}] * 3, id="more-members-than-cores"),
        pytest.param(2, [], 8, {"OMP_NUM_THREADS": "1"}, [{}, {}], id="explicit-setting-is-kept"),
        pytest.param(
            2,
            ["0", "1", "2", "3"],
            1,
            {"OMP_NUM_THREADS": "1"},
            [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}],
            id="cards-are-divided",
        ),
        pytest.param(
            3,
            ["2", "5"],
            1,
            {"OMP_NUM_THREADS": "1"},
            [{"CUDA_VISIBLE_DEVICES": card} for card in ("2", "2", "5")],
            id="members-share-a-card",
        ),
    ],
)
def test_resource_shares(parallel, cards, cores, given, found):
    assert split_resources(parallel, cards, cores, given) == found


def test_member_with_several_processes_needs_one_gpu_each(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    config = compose(["recipe=quickstart", "launcher.nproc=2"])
    assert [one["CUDA_VISIBLE_DEVICES"] for one in member_environments(2, [config])] == ["0,1", "2,3"]
    with pytest.raises(SftError) as caught:
        member_environments(4, [config])
    assert str(caught.value) == (
        "--parallel 4: each member has 2 processes, but 4 GPUs give it 1\n  fix: --parallel 2, or launcher.nproc=1"
    )


def test_sweep_under_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SftError, match="WORLD_SIZE=2: a sweep must run in one process"):
        member_environments(1, [compose(["recipe=quickstart"])])
