"""Several processes as far as one card shows them, and the project's tests for a card."""

import math
import re
from importlib.util import find_spec

from acceptance.findings import Check, last_line


def nccl(check: Check) -> None:
    """Refuse two processes on one card; sum over NCCL in a group of one, and shard an NF4 model with FSDP2 in it."""
    if check.dry:
        check.found.skip("two processes on one card: the simulator is in one process only")
    else:
        words = ("recipe=quickstart", "launcher.nproc=2", "trainer.device=cuda", f"run_dir={check.directory / 'two'}")
        text = check.sft("train", *words, log="two.txt", expected=2)
        check.found.number(refusal=[line.strip() for line in text.splitlines() if "CUDA device" in line][:1])
        check.found.expect("Traceback" not in text, "two processes on one card end in a traceback")
    one_rank(check)


def one_rank(check: Check) -> None:
    """Do what a run of several processes does, in a group of one; on the simulator over gloo, on the CPU."""
    import torch
    from step_model import Case, make_base, make_row, make_trained, settings_of

    from sft_cli.config.schema.speed import Checkpointing
    from sft_cli.distributed.process_group import World
    from sft_cli.model.memory.checkpointing import CheckpointingPlan

    class OneRank(World):
        """A world of one process that exchanges like several."""

        is_distributed = property(lambda self: True)

    device = torch.device("cpu") if check.dry else torch.device("cuda", 0)
    if check.dry:
        check.found.skip("NCCL: the simulator has none; the same over gloo")
    store = torch.distributed.FileStore(str(check.directory / "store"), 1)
    backend = "gloo" if check.dry else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        summed = torch.ones(1 << 20, device=device)
        torch.distributed.all_reduce(summed)
        check.found.expect(bool((summed == 1).all()), "a sum over one process changes numbers")
        case = Case(device=device.type, quant="nf4", **check.sizes["case"])
        settings = settings_of(case)
        base, _ = make_base(case, settings)
        plan = CheckpointingPlan(Checkpointing.none, 0, "")
        model, loss_model, parallel = make_trained(case, settings, base, plan, OneRank())
        check.found.expect(parallel.is_sharded, "the model was not sharded")
        row = [part.to(device) for part in make_row(case, settings.config.vocab_size)]
        with settings.machine.precision():
            loss = parallel.run(lambda: loss_model(*row)["loss"])
        loss.backward()
        norms = [value.grad.norm().item() for value in model.parameters() if value.grad is not None]
        check.found.number(loss=loss.item(), gradients=len(norms), norm=math.hypot(*norms))
        check.found.expect(bool(norms), "no parameter has a gradient")
        check.found.expect(all(map(math.isfinite, norms)), "a gradient is not finite")
    finally:
        torch.distributed.destroy_process_group()


def gpu_tests(check: Check) -> None:
    """Run tests/gpu, in several processes where pytest-xdist is installed."""
    workers = check.sizes["workers"] if find_spec("xdist") is not None else 0
    words = ["pytest", "-q", "-m", check.sizes["marked"], "tests/gpu", "-p", "no:cacheprovider", "--durations=10"]
    words += ["-k", check.sizes["chosen"]] if check.sizes["chosen"] else []
    words += ["-n", str(workers)] if workers else []
    status = check.start([*check.python, *words], "pytest.txt").wait()
    text = check.text("pytest.txt")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    check.found.number(summary=last_line(text), failed=failed, workers=workers)
    check.found.expect(status == 0, f"pytest ended with {status}: {', '.join(failed[:5]) or last_line(text)}")
