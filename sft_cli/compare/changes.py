"""How runs differ apart from their scores: settings, data, and answers of which one is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.compare.comparison import SuiteComparison, smaller_is_better
from sft_cli.config.files.yaml_io import read_yaml
from sft_cli.prepare.input_diff import changed_names
from sft_cli.run_dir import RunDir
from sft_cli.utils.mappings import flatten

OF_PLACES = ("run_dir", "run_name", "prepared_dir", "launcher", "eval")
"""Keys and groups that change no trained model."""
RIGHT, WRONG = 1.0, 0.0


@dataclass(frozen=True)
class ChangedAnswer:
    """An item that one run answers right and the other wrong.

    Attributes:
        suite: Name of the suite.
        metric: The metric by which it is right.
        id: Id of the item.
        prompt: The prompt.
        answers: The answer of the reference, and that of the other run.
        right: Whether the other run is the right one.
        reason: Why the wrong answer lost points.
    """

    suite: str
    metric: str
    id: str
    prompt: str
    answers: tuple[str, str]
    right: bool
    reason: str


def changed_config(first: RunDir, second: RunDir) -> dict[str, tuple[Any, Any]]:
    """Return the two values of each key of the configs that differs; none for results of a model of no run."""
    if not (first.config.is_file() and second.config.is_file()):
        return {}
    old, new = (dict(flatten(_trained_by(read_yaml(run.config)))) for run in (first, second))
    keys = sorted({*old, *new})
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def changed_data(first: RunDir, second: RunDir) -> list[str]:
    """Return the names of the differences between the rows of two runs; none if they are the same or not recorded."""
    manifests = [run.read_json(run.manifest) if run.manifest.is_file() else {} for run in (first, second)]
    if not all("inputs" in manifest for manifest in manifests):
        return []
    return changed_names(*(manifest["inputs"] for manifest in manifests))


def changed_answers(suite: SuiteComparison, other: str) -> list[ChangedAnswer]:
    """Return the items of which the reference or another run is right and the other wrong; those it lost first."""
    reference, record = next(iter(suite.records.values())), suite.records[other]
    metric = _main_metric(suite)
    if metric is None:
        return []
    found = []
    for name in suite.items:
        scores = reference.scores[name].get(metric), record.scores[name].get(metric)
        if scores not in ((RIGHT, WRONG), (WRONG, RIGHT)):
            continue
        is_right = scores[1] == RIGHT
        lines = reference.answers.get(name, {}), record.answers.get(name, {})
        answers = (_answer(lines[0]), _answer(lines[1]))
        reason = (reference if is_right else record).reasons.get(name, "")
        found.append(ChangedAnswer(suite.suite, metric, name, _prompt(lines[0]), answers, is_right, reason))
    return sorted(found, key=lambda change: change.right)


def _main_metric(suite: SuiteComparison) -> str | None:
    """Return the first metric whose scores are all right or wrong, and of which more is better."""
    record = next(iter(suite.records.values()))
    for metric in dict.fromkeys(metric for name in suite.items for metric in record.scores[name]):
        values = {record.scores[name].get(metric, WRONG) for name in suite.items}
        if values <= {RIGHT, WRONG} and not smaller_is_better(metric):
            return metric
    return None


def _trained_by(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the part of a config that the trained model depends on."""
    return {str(key): value for key, value in config.items() if key not in OF_PLACES}


def _prompt(line: Mapping[str, Any]) -> str:
    """Return the prompt of an answer as text."""
    prompt = line.get("prompt", "")
    if isinstance(prompt, str):
        return prompt
    turns: Sequence[Any] = prompt if isinstance(prompt, list) else [prompt]
    return "\n".join(str(turn.get("content", "")) if isinstance(turn, Mapping) else str(turn) for turn in turns)


def _answer(line: Mapping[str, Any]) -> str:
    """Return an answer as text: the generated one, or the most likely choice."""
    if choices := line.get("choices"):
        return str(max(choices, key=lambda choice: choice.get("logprob") or float("-inf")).get("text", ""))
    return str(line.get("answer") or "")
