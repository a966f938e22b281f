"""The checks, the most valuable first: where each is, its time limit on a card, and what it requires."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A check of the table.

    Attributes:
        place: Its module and function.
        limit: Most seconds on a card.
        requires: What must hold, in a sentence.
        background: Whether it runs at the same time as the checks after it.
        needs: Checks in the background whose results it reads.
    """

    place: str
    limit: float
    requires: str
    background: bool = False
    needs: tuple[str, ...] = ()


COMPILING, ON_CPU = "flex_compile", "quickstart_cpu"
CHECKS = {
    COMPILING: Entry("acceptance.attention:flex_compile", 150, "flex attention compiles for the card", background=True),
    ON_CPU: Entry("acceptance.quickstart:on_cpu", 120, "the quickstart trains on the CPU", background=True),
    "machine": Entry(
        "acceptance.machine:machine", 40, "sft doctor finds no fault; versions, speeds of products and copies"
    ),
    "quickstart": Entry(
        "acceptance.quickstart:compare_with_cpu", 60, "losses within 3% of the CPU's, nll is the loss", needs=(ON_CPU,)
    ),
    "nf4": Entry(
        "acceptance.quickstart:nf4", 90, "NF4: a signal and resuming change no byte (deterministic); eval and merge end"
    ),
    "qlora_8b": Entry(
        "acceptance.large:qlora_8b", 80, "8B QLoRA: 45% of the floor at 8,192 tokens, peaks as estimated, 9.5 GiB at 4k"
    ),
    "flex": Entry("acceptance.attention:flex", 60, "flex attention has the CPU's numbers", needs=(COMPILING,)),
    "out_of_memory": Entry(
        "acceptance.large:out_of_memory", 45, "a step that runs out of memory is repeated with the same loss"
    ),
    "lora_1_5b": Entry(
        "acceptance.peers:lora_1_5b", 100, "1.5B LoRA: 1.4 times a loop by hand with packing and recomputing"
    ),
    "shared_prefix": Entry(
        "acceptance.large:shared_prefix", 60, "a shared beginning of 2,000 tokens, Qwen3's norms: peaks as estimated"
    ),
    "profile": Entry("acceptance.large:profile", 40, "a step waits for the card once; the ten slowest kernels"),
    "liger": Entry("acceptance.large:liger", 45, "Liger's kernels leave the losses"),
    # From here on nothing is timed.
    "gpu_tests": Entry("acceptance.processes:gpu_tests", 200, "the tests of tests/gpu pass", background=True),
    "optimizers": Entry(
        "acceptance.quickstart:optimizers", 60, "every optimizer, int8, float16 and full tuning lower the loss"
    ),
    "offload": Entry("acceptance.gradients:offload", 40, "offloading and recomputing change no gradient"),
    "tf32": Entry("acceptance.machine:tf32", 30, "float32 is exact: packing is proven with TF32 off"),
    "nccl": Entry("acceptance.processes:nccl", 50, "two processes on one card are refused; NCCL and FSDP2 on NF4 work"),
}
