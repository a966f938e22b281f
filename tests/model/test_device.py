"""Dtypes, threads and free memory, by tables and by copies of Linux's files."""

import subprocess
import sys

import psutil
import pytest
import torch
from transformers import BltConfig, LlamaConfig

from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Device, Dtype, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.model import threads
from sft_cli.model.device import choose_compute_setup, choose_cpu_dtype, free_memory
from sft_cli.model.speed.liger import apply_liger_kernels
from sft_cli.model.threads import ThreadChoice, choose_threads, fastest_thread_count, thread_counts

CPU = torch.device("cpu")
FLAGS = "processor : 0\nflags\t\t: fpu avx512f {}\nbugs : none\n"


@pytest.mark.parametrize(
    ("hidden", "whole", "flags", "dtype", "reason"),
    [
        (512, False, "avx512_bf16", torch.bfloat16, "the processor has avx512_bf16"),
        (256, False, "amx_bf16 amx_tile", torch.bfloat16, "the processor has amx_bf16"),
        (255, False, "avx512_bf16", torch.float32, "bfloat16 is faster from a hidden size of 256"),
        (None, False, "avx512_bf16", torch.float32, "bfloat16 is faster from a hidden size of 256"),
        (512, True, "avx512_bf16", torch.float32, "all weights are trained on a CPU"),
        (512, False, "avx512_fp16", torch.float32, "the processor does not multiply in bfloat16"),
    ],
)
def test_choose_cpu_dtype_by_hand(tmp_path, hidden, whole, flags, dtype, reason):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(FLAGS.format(flags))
    assert choose_cpu_dtype(hidden, whole, cpuinfo) == (dtype, reason)


def test_a_system_without_cpuinfo_computes_in_float32(tmp_path):
    assert choose_cpu_dtype(512, False, tmp_path / "absent")[0] is torch.float32


def test_configured_dtype_is_used():
    wide = LlamaConfig(hidden_size=4096)
    requested = TrainerConfig(device=Device.cpu, dtype=Dtype.float32)
    assert choose_compute_setup(requested, wide).dtype is torch.float32
    requested = TrainerConfig(device=Device.cpu, dtype=Dtype.bfloat16)
    assert choose_compute_setup(requested, wide, full=True).dtype is torch.bfloat16
    assert choose_compute_setup(TrainerConfig(device=Device.cpu)).dtype is torch.float32


@pytest.fixture
def gpu(monkeypatch):
    """Make torch report one GPU, with or without bfloat16; old ones emulate it. TF32 is restored afterwards."""

    def report(*, native):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation
        )

    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    yield report
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.parametrize(
    ("native", "configured", "dtype", "tf32"),
    [
        (True, Dtype.auto, torch.bfloat16, True),
        (False, Dtype.auto, torch.float16, True),
        (True, Dtype.float16, torch.float16, True),
        (True, Dtype.float32, torch.float32, False),
        (False, Dtype.float32, torch.float32, False),
    ],
)
def test_choose_compute_setup_on_a_gpu(gpu, native, configured, dtype, tf32):
    """float32 is exact, because TF32 has only 10 bits of fraction. Cards that emulate bfloat16 use float16."""
    gpu(native=native)
    assert choose_compute_setup(TrainerConfig(device=Device.cuda, dtype=configured)).dtype is dtype
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32


def test_emulated_bfloat16_is_refused(gpu):
    gpu(native=False)
    with pytest.raises(SftError, match=r"trainer.dtype=bfloat16"):
        choose_compute_setup(TrainerConfig(device=Device.cuda, dtype=Dtype.bfloat16))


def group(folder, limit, usage, idle):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {idle}\n")


def test_free_memory_in_a_container(tmp_path):
    """The job's own group has no limit, its parent one of 1000 bytes: 700 used, 200 of them inactive file pages."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/job_7\n")
    top = tmp_path / "sys/fs/cgroup"
    group(top / "jobs/job_7", "max", 600, 0)
    group(top / "jobs", 1000, 700, 200)
    assert free_memory(CPU, tmp_path) == 500


def test_free_memory_with_cgroups_v1(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:cpu,cpuacct:/a\n4:memory:/a\n")
    folder = tmp_path / "sys/fs/cgroup/memory/a"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("900\n")
    (folder / "memory.usage_in_bytes").write_text("300\n")
    (folder / "memory.stat").write_text("total_inactive_file 50\n")
    assert free_memory(CPU, tmp_path) == 650


def test_free_memory_without_cgroups(tmp_path):
    assert 0 < free_memory(CPU, tmp_path) <= psutil.virtual_memory().total


def chosen(requested=None, recorded=None, environment=None):
    config = LlamaConfig(hidden_size=64, intermediate_size=128)
    return choose_threads(
        requested,
        recorded,
        config,
        dtype=torch.float32,
        environment={} if environment is None else environment,
    )


def test_choose_threads_precedence(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    variable = {"OMP_NUM_THREADS": "3"}
    assert chosen(5, 2, variable).describe() == "5 threads (as configured)"
    assert chosen(None, 2, variable).describe() == "2 threads (as the run began)"
    assert chosen(None, 8, variable).describe() == "3 threads (OMP_NUM_THREADS)"  # the run began on more cores
    monkeypatch.setattr(threads, "available_cores", lambda: 1)
    assert chosen().describe() == "1 thread (one core)"


def test_choose_threads_measures_and_restores(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    before = torch.get_num_threads()
    found = chosen()
    assert found.number in (1, 2)
    assert found.reason == "the fastest of up to 2 for a product of this model's sizes"
    assert torch.get_num_threads() == before
    threads.set_num_threads(ThreadChoice(before, "for a test"))


def test_a_configuration_without_a_width(monkeypatch):
    """BLT has a configuration for each of its parts, and no width of its own."""
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    found = choose_threads(None, None, BltConfig(), dtype=torch.float32, environment={})

    assert found == ThreadChoice(2, "all cores: this model's configuration has no single width")
    setup = choose_compute_setup(TrainerConfig(device=Device.cpu), BltConfig(), full=False)
    assert setup.dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        pytest.param({1: 4.0, 2: 2.0, 4: 1.0}, 4, id="more-is-faster"),
        pytest.param({1: 1.0, 2: 0.95, 4: 0.92}, 1, id="hardly-faster"),
        pytest.param({1: 1.0, 2: 0.5, 4: 3.0}, 2, id="too-many"),
    ],
)
def test_fastest_thread_count(seconds, best, monkeypatch):
    now = [0.0]

    def work():
        now[0] += seconds[torch.get_num_threads()]

    before = torch.get_num_threads()
    try:
        assert fastest_thread_count([1, 2, 4], work, lambda: now[0]) == best
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("cores", "numbers"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_thread_counts(cores, numbers):
    assert thread_counts(cores) == numbers


def test_unavailable_liger_kernels_are_refused(build):
    model = build("llama")
    assert apply_liger_kernels(model, Choice.auto, CPU) is None
    assert apply_liger_kernels(model, Choice.never, CPU) is None
    with pytest.raises(SftError) as caught:
        apply_liger_kernels(model, Choice.always, CPU)
    assert str(caught.value) == (
        "speed.kernels=always: Liger's kernels need CUDA, which this run does not use\n  fix: speed.kernels=auto"
    )


IMPORTS = """
import sys
import sft_cli.train.session
from sft_cli.model.adapter.add import add_adapter
from sft_cli.config.schema.adapter import AdapterConfig
from transformers import AutoModelForCausalLM, LlamaConfig

sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 2}
add_adapter(AutoModelForCausalLM.from_config(LlamaConfig(**sizes)), AdapterConfig(), [], seed=0)
print(sorted({"bitsandbytes", "datasets"} & set(sys.modules)))
"""


def test_a_run_without_quantized_weights_loads_neither_bitsandbytes_nor_datasets():
    """Importing both takes seconds at every start."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
