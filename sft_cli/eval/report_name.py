"""The name of an evaluation's report, one for each choice of rows and settings. Does not import torch."""

import json
from hashlib import sha256
from typing import Any

from sft_cli.config.schema.config import Config
from sft_cli.eval.select_rows import EvalRows


def eval_settings(config: Config) -> dict[str, Any]:
    """Return the settings that determine the scores, in addition to the run and the rows, by key."""
    return {
        "eval.generate": config.eval.generate,
        "eval.max_rows": config.eval.max_rows if config.eval.generate else None,
        "eval.max_new_tokens": config.eval.max_new_tokens if config.eval.generate else None,
        "model.path": config.model.path,
        "model.revision": config.model.revision,
        "model.dtype": config.model.dtype.value,
        "trainer.dtype": config.trainer.dtype.value,
    }


def report_name(rows: EvalRows, trained: Config, config: Config) -> str:
    """Return the name of a report: ``heldout`` for the run's own held-out rows under its own settings.

    Other rows are named by their sources and their fingerprint, other settings by a digest, so that no evaluation
    overwrites another's report.
    """
    name = "heldout" if rows.is_run_holdout else f"{'-'.join(rows.sources)[:40]}-{rows.fingerprint[:8]}"
    run_settings, settings = eval_settings(trained), eval_settings(config)
    if run_settings == settings:
        return name
    return f"{name}-{sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}"
