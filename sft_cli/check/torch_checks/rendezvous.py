"""One of two connecting processes (``python -m sft_cli.check.torch_checks.rendezvous``); prints their sum."""

from datetime import timedelta

import torch
import torch.distributed as dist


def run_rendezvous() -> int:
    """Connect to the other process.

    Returns:
        The sum of rank + 1 over both processes.
    """
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    number = torch.tensor(dist.get_rank() + 1)
    dist.all_reduce(number)
    dist.destroy_process_group()
    return int(number)


if __name__ == "__main__":
    print(run_rendezvous())
