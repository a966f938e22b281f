"""Checks of disks, permissions and ports."""

import socket

import pytest

from sft_cli.check.paths_and_ports import path_checks, port_check, world_size, write_problem
from sft_cli.config.compose import compose


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ([], 1),
        (["launcher.nproc=4"], 4),
        (["launcher.nproc=auto"], 3),
        (["launcher=slurm", "launcher.nodes=2", "launcher.gpus=8"], 16),
        (["launcher=slurm", "launcher.nodes=2", "launcher.gpus=0", "launcher.nproc=3"], 6),
    ],
)
def test_number_of_processes_includes_all_nodes(words, number):
    assert world_size(compose(["recipe=quickstart", *words]), devices=3) == number


def test_directory_below_a_file_is_not_writable(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert write_problem(tmp_path / "new" / "deep") is None
    assert not (tmp_path / "new").exists()
    assert write_problem(file / "run") == f"{file} is a file"
    config = compose(["recipe=quickstart", f"run_dir={file}/run"])
    line = next(iter(path_checks(config)))
    assert str(line) == (
        f"fail  run_dir   nothing can be written: {file} is a file\n"
        "                do: choose run_dir=DIR that you may write to, or change its permissions"
    )


def test_port_in_use_is_a_failure():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port_check(str(port)).text == f"{port} is taken on this machine"
    assert port_check(str(port)).status.value == "ok"
    assert port_check("many").text == "MASTER_PORT=many is not a port"


def test_port_is_checked_for_several_processes_only(tmp_path):
    words = ["recipe=quickstart", f"run_dir={tmp_path}/run"]
    one, two = (compose([*words, f"launcher.nproc={number}"]) for number in (1, 2))
    assert [line.name for line in path_checks(one, {})] == ["run_dir", "SFT_HOME"]
    assert [line.name for line in path_checks(two, {"MASTER_PORT": "0"})] == ["run_dir", "SFT_HOME", "port"]
