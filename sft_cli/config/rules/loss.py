"""Rules of the keys of ``loss`` that go beyond types and limits."""

from collections.abc import Collection, Iterator

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import Role
from sft_cli.config.schema.speed import Choice
from sft_cli.config.validate import Mistake


def loss_rules(config: Config) -> Iterator[Mistake]:
    """What does not fit together."""
    loss, sources = config.loss, config.data.mix
    if loss.neftune and config.speed.share_prefixes is Choice.always:
        yield Mistake(
            "loss.neftune",
            f"loss.neftune is {loss.neftune:g}, but speed.share_prefixes is always: "
            "examples that share tokens would share their noise",
            "set speed.share_prefixes=auto, or loss.neftune=0",
            clash="speed.share_prefixes",
        )
    if loss.replay is None:
        return
    replayed = {name: source for name, source in sources.items() if source.role is Role.replay}
    if sources and not replayed:
        yield Mistake(
            "loss.replay",
            f"loss.replay is {loss.replay:g}, but no source is replayed",
            f"set data.mix.{next(iter(sources))}.role=replay, or leave loss.replay out",
            clash="data.mix",
        )
    if sources and len(replayed) == len(sources):
        yield Mistake(
            "loss.replay",
            f"loss.replay is {loss.replay:g}, but every source is replayed: there is nothing to add it to",
            "leave loss.replay out",
            clash="data.mix",
        )
    for name, source in replayed.items():
        if len(replayed) == 1 and source.loss_weight != 1:
            yield Mistake(
                f"data.mix.{name}.loss_weight",
                f"data.mix.{name}.loss_weight is {source.loss_weight:g}, but beside loss.replay it would change "
                "nothing: the replayed tokens' loss is a mean of its own",
                f"leave data.mix.{name}.loss_weight out, or use it alone, without loss.replay",
                clash="loss.replay",
            )


def idle_loss_keys(config: Config, said: Collection[str]) -> Iterator[Mistake]:
    """Keys typed on the command line that nothing would read: there is none, a factor of 0 is a choice."""
    yield from ()
