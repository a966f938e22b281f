"""`sft eval`: what to evaluate, on which rows; only then torch is loaded."""

from collections.abc import Sequence

from sft_cli.config.check import required
from sft_cli.config.compose import load, with_overrides
from sft_cli.config.paths import absolute
from sft_cli.config.rundir import open_run
from sft_cli.config.words import refuse_idle, split_off
from sft_cli.errors import SftError
from sft_cli.eval.rows import choose_rows

OWN = ("run", "compare")
READ = (
    "data",
    "eval",
    "model.path",
    "model.revision",
    "model.dtype",
    "model.trust_remote_code",
    "trainer.device",
    "trainer.dtype",
    "trainer.max_length",
    "trainer.tokens_per_micro_batch",
    "trainer.logits_chunk",
)
"""Keys, and groups with all their keys, that may differ from the run's config; anything else would have no effect."""
NOT_READ = ("eval.compare_after_training", "eval.samples")
SETTABLE = f"data, {', '.join(READ[2:])}, and the other keys of eval"


def eval_command(overrides: Sequence[str], config_dirs: Sequence[str]) -> None:
    """Body of ``sft eval run=DIR [data=…] [eval.max_rows=…] [compare=base]``."""
    own, rest = split_off(overrides, OWN)
    if "run" not in own:
        raise SftError(where="sft eval", problem="no run is named", fix="sft eval run=DIR, as sft train printed it")
    if own.get("compare", "base") != "base":
        raise SftError(
            where=f"compare={own['compare']}",
            problem="a run is compared with its base model only",
            fix="compare=base, or leave it out",
        )
    run = open_run(own["run"])
    trained = load(run.config)
    config = absolute(with_overrides(trained, rest, config_dirs)) if rest else trained
    refuse_idle("sft eval", rest, own=OWN, read=READ, not_read=NOT_READ, settable=SETTABLE)
    required(config, "eval")
    rows = choose_rows(run, trained, config)
    from sft_cli.eval.session import evaluate_run

    evaluate_run(run, config, rows, compare="compare" in own)
