"""Several processes that share the items of an evaluation."""

from contextlib import AbstractContextManager

from sft_cli.config.schema.config import Config
from sft_cli.distributed.process_group import World, init_process_group
from sft_cli.model.device import choose_device


def evaluation_processes(config: Config) -> AbstractContextManager[World]:
    """Join the processes of an evaluation, which a launcher has started, until the end of the context."""
    cuda = choose_device(config.trainer.device).type == "cuda"
    return init_process_group(config.distributed.timeout_minutes, cuda=cuda)
