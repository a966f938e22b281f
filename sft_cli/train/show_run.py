"""Print what a run directory holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from sft_cli.console import counted, gib, say, table
from sft_cli.train.next_commands import print_next_commands
from sft_cli.utils.text import duration, percent

COMPARED = {"exact_match": "exact match", "loss": "held-out loss", "stopped_share": "answers that stop"}
"""Names of the scores in before.json and after.json."""


def print_run(details: Mapping[str, Any]) -> None:
    """Print state, results, data, model, evaluations, files and next commands of a run.

    Args:
        details: What ``run_details`` returns.
    """
    say(f"run       {details['run']}")
    for label, text in describe_run_lines(details):
        say(f"{label:<9} {text}")
    if details["comparison"] is not None:
        table(("held-out rows", "before", "after"), list(compared_rows(details["comparison"])))
    if rows := list(evaluation_rows(details)):
        table(("suite", "model", "metric", "value", "95%", "items"), rows)
    say(f"files     {', '.join(details['files'])}")
    print_next_commands(iter(details["next"]))


def describe_run_lines(details: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield label and text of each line on state, results, model, data and machine."""
    planned = f" of {details['planned_steps']:,}" if details["planned_steps"] else ""
    reason = details["reason"]
    ended = f", {reason}" if reason not in (None, "completed", "finished early", "extended") else ""
    yield "state", f"{details['state']}, step {details['step']:,}{planned}{ended}"
    if losses := [
        f"{name} {details[key]:.4f}"
        for key, name in (("loss", "training"), ("held_out_loss", "held-out"))
        if details[key] is not None
    ]:
        yield "loss", ", ".join(losses)
    if details["best_step"] is not None:
        loss = (
            f", held-out loss {details['best_held_out_loss']:.4f}" if details["best_held_out_loss"] is not None else ""
        )
        exported = details["exported_step"]
        weights = f"; the weights of step {exported} are exported" if exported is not None else ""
        yield "best", f"step {details['best_step']}{loss}{weights}"
    if details["tokens_per_second"] is not None:
        speed = f"{details['tokens_per_second']:,.0f} tokens/s, {duration(details['seconds'])} in steps"
        yield "speed", speed + (f", peak memory {gib(details['memory'])}" if details["memory"] else "")
    rank = f", rank {details['rank']}" if details["adapter"] != "none" and details["rank"] is not None else ""
    yield "model", f"{details['model']}, adapter {details['adapter']}{rank}"
    if train := details["data"]["splits"].get("train"):
        held_out = details["data"]["splits"].get("validation") or {"examples": 0}
        yield (
            "data",
            f"{counted(train['examples'], 'example')} of {', '.join(details['data']['sources'])},"
            f" {train['tokens']:,} tokens, {percent(train['trained_share'])} with loss;"
            f" {counted(held_out['examples'], 'example')} held out",
        )
    if details["checkpoints"]:
        yield "saved", f"steps {', '.join(map(str, details['checkpoints']))}"
    if details["spikes"]:
        yield "spikes", f"{counted(details['spikes'], 'step')} in spikes.jsonl"
    if machine := details["environment"].get("device"):
        yield "machine", f"{machine}, {details['environment'].get('dtype')}"


def compared_rows(comparison: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield the scores of the base and of the trained model: losses in nats, others in percent."""
    for name, title in COMPARED.items():
        values = [comparison[side].get(name) for side in ("before", "after")]
        yield title, *("" if v is None else f"{v:.4f}" if name == "loss" else percent(v) for v in values)  # type: ignore[misc]


def evaluation_rows(details: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str, int]]:
    """Yield suite, model, metric, value, interval and number of items of each score."""
    for evaluation in details["evaluations"]:
        for metric, figure in evaluation["metrics"].items():
            if isinstance(figure, dict) and figure.get("value") is not None:
                low, high = figure.get("low"), figure.get("high")
                interval = f"{low:.3g} to {high:.3g}" if low is not None and high is not None else ""
                yield (
                    evaluation["suite"], evaluation["model"], metric, f"{figure['value']:.4g}", interval,
                    figure.get("n", 0),
                )  # fmt: skip
