"""Compile flex attention for a card that is absent: ``python -m tests.cuda_simulator.compile_flex CASES``.

Inductor lowers the project's own kernels on the simulated device, and Triton compiles them to machine code of the card
named by ``SIMULATED_CUDA_CAPABILITY``. Nothing is launched, so results have no meaning. A kernel that needs more shared
memory than a block of the card has is refused, as the driver does when it loads one.

``CASES`` is JSON: dictionaries with ``heads`` (query and key heads), ``widths`` (of keys and values), ``softcap``,
``window``, ``sinks`` and ``rows`` (lists of document lengths, each computed forward and backward). One line of JSON is
printed for each case: ``error`` (or null), ``graphs`` and ``shared`` (most bytes of a kernel).
"""

import json
import os
import sys
from typing import Any

from tests.cuda_simulator import install as simulator

CAPABILITY = tuple(int(part) for part in os.environ.get("SIMULATED_CUDA_CAPABILITY", "9.0").split("."))
LIMIT = simulator.SHARED_MEMORY[CAPABILITY]
compiled: list[int] = []
"""Shared memory of every kernel that was compiled."""


class Driver:
    """What Triton asks of the driver before a launch."""

    class utils:
        """The loader of kernels."""

        @staticmethod
        def get_device_properties(device: int) -> dict[str, int]:
            return {"max_shared_mem": LIMIT, "multiprocessor_count": 132, "warpSize": 32}

    def get_current_target(self) -> Any:
        """Return the architecture of the card."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", CAPABILITY[0] * 10 + CAPABILITY[1], 32)

    def get_active_torch_device(self) -> Any:
        """Return the simulated device."""
        import torch

        return torch.device("cuda", 0)

    def get_current_device(self) -> int:
        """Return its number."""
        return 0


def prepare() -> None:
    """Let Inductor and Triton compile for the simulated card, and launch nothing."""
    import torch
    import triton.backends
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import config
    from torch._inductor.runtime import triton_helpers, triton_heuristics
    from triton.runtime.driver import driver
    from triton.runtime.errors import OutOfResources

    driver.set_active(Driver())
    triton.backends.backends["nvidia"].driver.is_active = staticmethod(lambda: True)
    config.compile_threads = 1
    for where, names in ((torch.cuda, ("_exchange_device", "_maybe_exchange_device")),
                         (CudaInterface, ("exchange_device", "maybe_exchange_device"))):  # fmt: skip
        for name in names:
            setattr(where, name, staticmethod(lambda device: 0))
    triton_helpers.set_driver_to_gpu = triton_heuristics.triton_helpers.set_driver_to_gpu = lambda: None
    torch._C._dynamo.guards._empty_strided_cuda = lambda size, stride, dtype: torch.empty_strided(
        size, stride, dtype=dtype, device="cuda"
    ).zero_()

    class Launcher:
        """A compiled kernel that is never launched."""

        n_regs = n_spills = 0
        cache_hash, store_cubin, fn, bin, metadata, _is_static = "", False, None, None, None, False

        def __init__(self, kernel: Any, options: Any) -> None:
            self.shared, self.config = kernel.shared, options

    def load(result: Any) -> Launcher:
        if result.kernel.shared > LIMIT:
            raise OutOfResources(result.kernel.shared, LIMIT, "shared memory")
        compiled.append(result.kernel.shared)
        return Launcher(result.kernel, result.config)

    for name in ("TritonCompileResult", "StaticTritonCompileResult"):
        getattr(triton_heuristics, name).make_launcher = load
    triton_heuristics.CachingAutotuner.run = lambda self, *arguments, **options: None


def compile_case(case: dict[str, Any]) -> dict[str, Any]:
    """Compile one kind of layer for all rows of the case."""
    import torch

    from sft_cli.batching.packed_row import pack_row
    from sft_cli.model.attention.flex import flex_kernel, has_flex_kernel, packed_flex_attention
    from sft_cli.model.attention.kernels import AttentionSpec

    torch._dynamo.reset()
    flex_kernel.cache_clear()
    torch._dynamo.utils.counters.clear()
    compiled.clear()
    device, (heads, key_heads), (width, value_width) = torch.device("cuda"), case["heads"], case["widths"]
    sinks = torch.zeros(heads, device=device) if case.get("sinks") else None
    spec = AttentionSpec(0.1, case.get("window"), case.get("softcap"), sinks=sinks)
    error = None
    try:
        for lengths in case["rows"]:
            states = [
                torch.zeros(1, sum(lengths), number, size, device=device, dtype=torch.bfloat16).transpose(1, 2)
                for number, size in ((heads, width), (key_heads, width), (key_heads, value_width))
            ]
            states = [state.requires_grad_() for state in states]
            assert has_flex_kernel(states[0], spec)
            packed_flex_attention(*states, pack_row(lengths).to(device), spec).sum().backward()
    except Exception as problem:
        error = f"{type(problem).__name__}: {str(problem).strip()[:500]}"
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return {"error": error, "graphs": graphs, "shared": max(compiled, default=0)}


if __name__ == "__main__":
    simulator._compilation = lambda torch: None  # compile for real
    simulator.install()
    prepare()
    for given in json.loads(sys.argv[1]):
        print(json.dumps(compile_case(given)), flush=True)
