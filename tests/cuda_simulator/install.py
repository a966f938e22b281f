"""Load the simulated device into this process, before torch is imported.

The environment variables are in ``README.md``.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from tests.cuda_simulator.build import library, torch_folder

SHARED_MEMORY = {(7, 5): 65536, (8, 0): 166912, (8, 6): 101376, (8, 9): 101376, (9, 0): 232448}
"""Bytes that a block of threads may share, by compute capability."""


def install() -> None:
    """Make ``torch.cuda`` work in this process."""
    assert "torch" not in sys.modules, "torch asks for its devices when it is imported"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ctypes.CDLL(str(torch_folder() / "lib" / "libtorch_global_deps.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library()), ctypes.RTLD_GLOBAL)
    import torch

    with contextlib.suppress(ImportError):  # before CUDA is there, so that it loads its library for the CPU
        import bitsandbytes  # noqa: F401
    from tests.cuda_simulator.kernels import KERNELS

    simulated = torch.ops.simulated_cuda
    simulated.install([f"aten::{name}" for name in KERNELS])
    kernels = torch.library.Library("aten", "IMPL")
    for name, kernel in KERNELS.items():
        kernels.impl(name, kernel, "CUDA")
    vars(torch.cuda)["_simulated_kernels"] = kernels  # they are dropped with the object
    memory = int(os.environ.get("SIMULATED_CUDA_MEMORY", 8 << 30))
    simulated.set_limit(memory)
    _functions_of_the_driver(torch, memory)
    _streams(torch)
    _pages(torch)
    _compilation(torch)
    _storages(torch)


def _functions_of_the_driver(torch: Any, memory: int) -> None:
    """What torch's own Python code calls in ``torch._C``, and what it keeps of it."""
    simulated = torch.ops.simulated_cuda
    capability = tuple(int(part) for part in os.environ.get("SIMULATED_CUDA_CAPABILITY", "9.0").split("."))
    card = SimpleNamespace(
        name="Simulated CUDA", total_memory=memory, major=capability[0], minor=capability[1], multi_processor_count=132,
        shared_memory_per_block_optin=SHARED_MEMORY[capability], warp_size=32, regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048, L2_cache_size=50 << 20, uuid="simulated", gcnArchName="",
    )  # fmt: skip

    def statistics(device: int) -> dict[str, dict[str, dict[str, int]]]:
        used, peak, _ = simulated.memory()
        return {name: {"all": {"current": used, "peak": peak}} for name in ("allocated_bytes", "reserved_bytes")}

    sync_mode = [0]

    def set_sync_mode(mode: int) -> None:
        sync_mode[0] = mode
        simulated.set_sync_mode(mode)

    functions = {
        "getDeviceCount": lambda: 1, "getDevice": lambda: 0, "setDevice": lambda device: None,
        "synchronize": lambda: None, "ipc_collect": lambda: None, "emptyCache": lambda: None,
        "memoryStats": statistics, "resetPeakMemoryStats": lambda device: simulated.reset_peak(),
        "set_sync_debug_mode": set_sync_mode, "get_sync_debug_mode": lambda: sync_mode[0],
        "setMemoryFraction": lambda fraction, device: simulated.set_limit(int(fraction * memory)),
        "getCurrentRawStream": lambda device: 0, "isInBadFork": lambda: False,
    }  # fmt: skip
    for name, function in functions.items():
        setattr(torch._C, f"_cuda_{name}", function)
    generator = SimpleNamespace(
        get_state=simulated.rng_state, set_state=simulated.set_rng_state, manual_seed=simulated.seed,
        seed=lambda: simulated.seed(0), device=torch.device("cuda", 0),
    )  # fmt: skip
    vars(torch.cuda).update(
        _initialized=True,
        default_generators=(generator,),
        get_device_properties=lambda device=None: card,
        _get_device_properties=lambda device: card,
        mem_get_info=lambda device=None: (memory - simulated.memory()[0], memory),
        is_bf16_supported=lambda including_emulation=True: including_emulation or capability >= (8, 0),
        _exchange_device=lambda device: 0,
        _maybe_exchange_device=lambda device: 0,
    )


def _streams(torch: Any) -> None:
    """Streams and events that keep order by doing everything at once."""
    simulated = torch.ops.simulated_cuda

    class Event:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def record(self, stream: Any = None) -> None: ...

        def wait(self, stream: Any = None) -> None: ...

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            simulated.host_waits("Event.synchronize")

        def elapsed_time(self, other: "Event") -> float:
            return 1.0

    class Stream:
        device, device_index, device_type, cuda_stream, stream_id = torch.device("cuda", 0), 0, 1, 0, 0

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def wait_stream(self, other: "Stream") -> None:
            assert isinstance(other, Stream)

        def wait_event(self, event: Event) -> None: ...

        def record_event(self, event: Event | None = None) -> Event:
            return event or Event()

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            simulated.host_waits("Stream.synchronize")

    current = [Stream()]

    @contextlib.contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        current.append(chosen)
        try:
            yield
        finally:
            current.pop()

    def record_stream(tensor: Any, chosen: Stream) -> None:
        assert tensor.is_cuda, "record_stream of a tensor of the CPU"
        assert isinstance(chosen, Stream)

    torch.Tensor.record_stream = record_stream
    vars(torch.cuda).update(
        Stream=Stream, Event=Event, stream=stream,
        current_stream=lambda device=None: current[-1], default_stream=lambda device=None: current[0],
    )  # fmt: skip


def _pages(torch: Any) -> None:
    """bitsandbytes' managed memory: tensors that call themselves the CPU's, as there."""
    if "bitsandbytes" not in sys.modules:
        return
    functional, optimizer = (
        importlib.import_module(f"bitsandbytes.{name}") for name in ("functional", "optim.optimizer")
    )

    def get_paged(*shape: int, dtype: Any = torch.float32, device: Any) -> Any:
        assert device.index is not None, "managed memory needs the number of its card"
        pages = torch.empty(shape, dtype=dtype)
        pages.is_paged, pages.page_deviceid = True, device.index
        return pages

    functional.get_paged = get_paged
    functional.fill = lambda pages, value, device=None, prefetch=True: pages.fill_(value)
    functional.prefetch_tensor = lambda pages, to_cpu=False: None
    optimizer.sync_gpu = lambda tensor: None


def _compilation(torch: Any) -> None:
    """The project's compiled functions run as they are written, and Triton is there as far as the project asks."""
    from torch.nn.attention import flex_attention

    from tests.cuda_simulator.kernels import flex

    compiled, found = torch.compile, importlib.util.find_spec

    def by_project() -> bool:
        return sys._getframe(2).f_globals["__name__"].startswith("sft_cli")

    def compile(function: Callable[..., Any], **options: Any) -> Any:
        return function if by_project() else compiled(function, **options)

    def find_spec(name: str, package: str | None = None) -> Any:
        return object() if name == "triton" and by_project() else found(name, package)

    torch.compile, importlib.util.find_spec, flex_attention.flex_attention = compile, find_spec, flex


def _storages(torch: Any) -> None:
    """``UntypedStorage(bytes, device="cuda")``, with which torch loads files and copies tensors deeply."""
    made = torch.UntypedStorage.__new__

    def new(cls: Any, *arguments: Any, device: Any = None, **others: Any) -> Any:
        if device is None or torch.device(device).type != "cuda":
            return made(cls, *arguments, **others, **({} if device is None else {"device": device}))
        return torch.empty(arguments[0], dtype=torch.uint8, device=device).untyped_storage()

    torch.UntypedStorage.__new__ = new
