"""Rank of a process from the environment of each launcher."""

import pytest
import torch

from sft_cli.cli import main
from sft_cli.config.schema.launcher import Auto
from sft_cli.config.schema.trainer import Device
from sft_cli.distributed import launch
from sft_cli.distributed.process_group import World
from sft_cli.distributed.rank_env import RankInfo, cuda_device_index, export_torch_env, rank_from_env
from sft_cli.errors import SftError
from sft_cli.model.device import choose_device

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS_PER_NODE": "4(x2)",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        pytest.param({}, RankInfo(), id="alone"),
        pytest.param({"WORLD_SIZE": "1", "RANK": "0"}, RankInfo(), id="torchrun-of-one"),
        pytest.param(TORCHRUN, RankInfo(5, 8, 1, 4), id="torchrun"),
        pytest.param(SRUN, RankInfo(), id="a-shell-within-srun"),
        pytest.param({**SRUN, "SFT_RANKS": "slurm"}, RankInfo(5, 8, 1, 4), id="srun"),
        pytest.param(
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, RankInfo(1, 2, 1, 2), id="by-hand"
        ),
    ],
)
def test_rank_of_a_process(environment, place):
    assert rank_from_env(environment) == place


@pytest.mark.parametrize(
    ("local_rank", "devices", "environment", "index"),
    [
        pytest.param(1, 2, {}, 1, id="one-per-process"),
        pytest.param(0, 1, {}, 0, id="first-of-too-many"),
        pytest.param(1, 1, {}, None, id="more-processes-than-devices"),
        pytest.param(1, 1, {"SLURM_GPUS_PER_TASK": "1"}, 0, id="gpus-per-task"),
        pytest.param(1, 1, {"SLURM_GPUS_ON_NODE": "2"}, 0, id="gpu-bind"),
        pytest.param(1, 1, {"SLURM_GPUS_ON_NODE": "1"}, None, id="one-gpu-on-the-node"),
        pytest.param(1, 2, {"SLURM_GPUS_ON_NODE": "2"}, 1, id="all-gpus-visible"),
        pytest.param(2, 2, {"SLURM_GPUS_ON_NODE": "2"}, None, id="three-tasks-two-gpus"),
    ],
)
def test_cuda_device_index(local_rank, devices, environment, index):
    assert cuda_device_index(RankInfo(local_rank, 2, local_rank, 2), devices, environment) == index


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"WORLD_SIZE": "2"}, "are missing: RANK, MASTER_ADDR, MASTER_PORT"),
        ({**TORCHRUN, "RANK": "x"}, "are not numbers: RANK=x"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "are not numbers: WORLD_SIZE=two"),
    ],
)
def test_incomplete_environment_is_an_error(environment, problem):
    with pytest.raises(SftError, match=problem):
        rank_from_env(environment)


def test_srun_variables_are_translated_for_torch():
    environment = {**SRUN, "SFT_RANKS": "slurm"}
    export_torch_env(environment)
    assert {name: environment[name] for name in TORCHRUN} == TORCHRUN


def test_only_train_and_eval_run_in_several_processes(monkeypatch, capsys):
    """Under torchrun, the first process of a node prints the error, and the others exit silently."""
    for name, value in {**TORCHRUN, "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["sft", "merge", "x"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "error: WORLD_SIZE=8: sft merge runs in one process\n" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("visible", "nproc", "device", "wanted"),
    [
        ("0,1,2", Auto.auto, Device.auto, 3),
        ("", Auto.auto, Device.auto, 1),
        ("-1", Auto.auto, Device.cuda, 1),
        ("0,1,2", Auto.auto, Device.cpu, 1),
        ("0,1,2", 2, Device.cpu, 2),
    ],
)
def test_auto_starts_one_process_per_gpu(monkeypatch, visible, nproc, device, wanted):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launch.resolve_nproc(nproc, device) == wanted


def test_gpus_are_counted_by_the_driver_tool(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.count_gpus() == 0
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "GPU 0: A (UUID: x)"\necho "  MIG 1g: (UUID: y)"\necho "GPU 1: A (UUID: z)"\n')
    tool.chmod(0o755)
    assert launch.count_gpus() == 2


def test_collectives_of_a_single_process():
    """A single process gets its own values and exceptions from collectives."""
    ranks = World()
    assert (ranks.broadcast_object("a"), ranks.all_gather_object("a"), ranks.all_reduce_max([3, 1])) == (
        "a",
        ["a"],
        [3, 1],
    )
    assert ranks.run_on_main(lambda: 7) == 7
    with pytest.raises(SftError, match="w: p"):
        ranks.run_collectively(lambda: (_ for _ in ()).throw(SftError(where="w", problem="p", fix="f")))


def test_each_process_of_a_node_has_its_own_gpu(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device(Device.auto) == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SftError, match="4 processes of this node want a CUDA device each, and torch sees 2"):
        choose_device(Device.cuda)
    assert choose_device(Device.cpu) == torch.device("cpu")
